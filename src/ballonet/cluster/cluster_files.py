"""The files of a sandbox on another host, as a program uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ballonet.base.errors import HostError
from ballonet.cluster.cluster_process import ClusterProcess, Streams


class ClusterFiles:
    """The files of a sandbox on another host. They pass through this program piece by piece."""

    def __init__(self, box: Streams) -> None:
        self._box = box

    def _open(self, kind: str, *what: Any) -> ClusterProcess:
        number = self._box.stream(f"open_{kind}", self._box.session, self._box.name, *what)
        return ClusterProcess(self._box, number)

    def read_stream(self, path: str) -> Iterator[bytes]:
        with self._open("read", path) as stream:
            yield from stream

    def read(self, path: str) -> bytes:
        return b"".join(self.read_stream(path))

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644, parents: bool = False) -> None:
        with self._open("write", path, mode, parents) as stream:
            stream.write_stdin(data)
            stream.close_stdin()

    def copy_in(self, source: Path | str, target: str) -> None:
        """Copy a file or directory of this machine to ``target``, which is the name of the copy."""
        from ballonet.guest.archive import pack

        directory, _, name = target.rstrip("/").rpartition("/")
        problems: list[str] = []
        pieces = _pieces(pack(Path(source), name, follow=False, problems=problems))
        with self._open("unpack", directory or "/") as stream:
            for piece in pieces:
                stream.write_stdin(piece)
            stream.close_stdin()
        if problems:
            raise HostError("; ".join(problems)[:1000])

    def copy_out(self, source: str, target: Path | str) -> None:
        """Copy a file or directory of the guest to ``target``, which is the name of the copy. The guest is not trusted:
        nothing outside ``target`` is written."""
        from ballonet.guest.archive import unpack

        with self._open("pack", source, False) as stream:

            async def copy() -> None:
                async def pieces() -> Any:
                    while piece := await asyncio.to_thread(stream.read):
                        yield piece

                name = source.rstrip("/").rpartition("/")[2]
                await unpack(pieces(), Path(target), name, source, owners=False, keep_top=False)

            asyncio.run(copy())

    def list(self, path: str) -> Any:
        return self._box.use("fs.list", path)

    def stat(self, path: str) -> Any:
        return self._box.use("fs.stat", path)

    def exists(self, path: str) -> bool:
        return bool(self._box.use("fs.exists", path))

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        self._box.use("fs.mkdir", path, parents=parents)

    def remove(self, path: str, *, recursive: bool = False) -> None:
        self._box.use("fs.remove", path, recursive=recursive)


def _pieces(source: Any) -> Iterator[bytes]:
    """What an asynchronous iterator gives, one piece at a time."""
    with asyncio.Runner() as runner:
        while piece := runner.run(_next(source)):
            yield piece


async def _next(source: Any) -> bytes:
    return bytes(await anext(source, b""))
