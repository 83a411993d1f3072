"""A sandbox of a cluster as a program uses it, without asyncio: what :class:`ballonet.sync.Sandbox` has, from afar."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from ballonet.base.arguments import check_words, to_bytes
from ballonet.base.errors import BallonetError, GuestError, HostError, UnknownSandboxError
from ballonet.sdk.sandbox_commands import ExecResult

#: The most that :meth:`ClusterSandbox.exec` collects, as :meth:`ballonet.Sandbox.exec` does.
MAX_OUTPUT_BYTES = 256 << 20
_PIECE_BYTES = 256 << 10


class Caller(Protocol):
    """The connection of this program to its cluster: :class:`ballonet.cluster.client.Cluster`."""

    @property
    def session(self) -> str: ...

    def call(self, host: str, method: str, *what: Any, **how: Any) -> Any: ...

    def streaming(self, host: str) -> None: ...

    def get(self, name: str) -> ClusterSandbox: ...

    def fork(self, name: str, names: Sequence[str], *, detached: bool = True) -> str: ...

    def remove(self, name: str, *, force: bool = False) -> None: ...


class ClusterSandbox:
    """A sandbox of a cluster, on some host."""

    def __init__(self, cluster: Caller, name: str, host: str) -> None:
        self._cluster = cluster
        self.name = name
        #: Where it was when it was last found. It may be moved.
        self.host = host

    def __repr__(self) -> str:
        return f"<ClusterSandbox {self.name} on {self.host}>"

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command and collect its output, as :meth:`ballonet.Sandbox.exec`."""
        words = check_words("argv", argv)
        how = {"env": env, "cwd": cwd, "user": user, "timeout": timeout}
        data = None if stdin is None else to_bytes("stdin", stdin)
        status, number, stdout, stderr = self._stream(
            "exec", self._cluster.session, self.name, words, how, data
        )
        if status is not None:
            return ExecResult(status, stdout, stderr)
        with ClusterProcess(self, number) as process:
            return process.collect(stdout, stderr)

    def exec_stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
        timeout: float | None = None,
    ) -> ClusterProcess:
        """Start a command and return while it runs, as :meth:`ballonet.Sandbox.exec_stream`. It ends at the latest
        half a minute after this program."""
        words = check_words("argv", argv)
        how = {
            "env": env,
            "cwd": cwd,
            "user": user,
            "stdin": stdin,
            "tty": tty,
            "rows": rows,
            "cols": cols,
            "timeout": timeout,
        }
        return ClusterProcess(
            self, self._stream("open_command", self._cluster.session, self.name, words, how)
        )

    @property
    def fs(self) -> ClusterFiles:
        """The guest's files."""
        return ClusterFiles(self)

    @property
    def balloon(self) -> ClusterBalloon:
        """The guest's balloon."""
        return ClusterBalloon(self)

    def metrics(self) -> Any:
        """Memory statistics of the guest and of its host."""
        return self.use("metrics")

    def pause(self, *, force: bool = False) -> None:
        self.use("pause", force=force)

    def resume(self) -> None:
        self.use("resume")

    def modify(self, **settings: Any) -> Any:
        """Change settings, as :meth:`ballonet.Sandbox.modify`."""
        return self.use("modify", **settings)

    def fork(self, *names: str, detached: bool = True) -> list[ClusterSandbox]:
        """Make copies of the running sandbox, on its host: see :meth:`ballonet.Sandbox.fork`."""
        host = self._cluster.fork(self.name, names, detached=detached)
        return [ClusterSandbox(self._cluster, name, host) for name in names]

    def stop(self) -> None:
        """Stop it; it stays registered on its host."""
        self._call("stop", self.name)

    def remove(self, *, force: bool = False) -> None:
        """Remove it.

        :param force: even if it is running.
        """
        self._cluster.remove(self.name, force=force)

    @contextlib.contextmanager
    def forward(self, port: int) -> Iterator[tuple[str, int]]:
        """Reach a published port of the guest at an address of this machine's loopback, in a ``with`` block.

        The connections go through the cluster, to whoever has its token; nothing listens on the host's network.
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=self._accept, args=(server, port), daemon=True)
            thread.start()
            try:
                yield server.getsockname()
            finally:
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)  # ends accept()
                thread.join()

    def _accept(self, server: socket.socket, port: int) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(connection, port), daemon=True).start()

    def _pass_on(self, connection: socket.socket, port: int) -> None:
        """Pass a connection on until both sides have ended."""
        with connection:
            try:
                number = self._stream("open_port", self._cluster.session, self.name, port)
            except BallonetError:
                return  # the connection is closed, as by a host that has no such port

            def send() -> None:
                with contextlib.suppress(BallonetError, OSError):
                    while piece := connection.recv(_PIECE_BYTES):
                        self._stream("write", number, piece)
                    self._stream("end_input", number)

            sending = threading.Thread(target=send, daemon=True)
            sending.start()
            with contextlib.suppress(BallonetError, OSError):
                while piece := self._stream("read", number):
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
                sending.join()
            with contextlib.suppress(BallonetError):
                self._stream("close", number)

    def use(self, method: str, *what: Any, **how: Any) -> Any:
        """Call a method of the sandbox on its host."""
        return self._call("use", self.name, method, what, how)

    def _stream(self, method: str, *what: Any) -> Any:
        self._cluster.streaming(self.host)
        return self._call("stream", method, *what)

    def _call(self, method: str, *what: Any) -> Any:
        """Ask its host; once more if it has been moved."""
        try:
            return self._cluster.call(self.host, method, *what)
        except (UnknownSandboxError, HostError):
            host = self._cluster.get(self.name).host
            if host == self.host:
                raise
            self.host = host
        return self._cluster.call(self.host, method, *what)


class ClusterProcess:
    """A running command of a sandbox on another host. ``with`` ends it, if it still runs."""

    def __init__(self, box: ClusterSandbox, number: int) -> None:
        self._box = box
        self._number = number

    def _do(self, method: str, *what: Any) -> Any:
        return self._box._stream(method, self._number, *what)

    def read(self, output: str = "stdout") -> bytes:
        """The next bytes of ``stdout`` or ``stderr``; empty at its end. Read both, or the command may stop."""
        found: bytes = self._do("read", output)
        return found

    def __iter__(self) -> Iterator[bytes]:
        """Standard output, piece by piece."""
        while piece := self.read():
            yield piece

    def write_stdin(self, data: bytes | str) -> None:
        content = to_bytes("data", data)
        for at in range(0, len(content), _PIECE_BYTES):
            self._do("write", content[at : at + _PIECE_BYTES])

    def close_stdin(self) -> None:
        self._do("end_input")

    def send_signal(self, number: int) -> None:
        self._do("signal", number)

    def resize(self, rows: int, cols: int) -> None:
        self._do("resize", rows, cols)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        status: int = self._do("wait")
        return status

    def collect(self, stdout: bytes = b"", stderr: bytes = b"") -> ExecResult:
        """Read both outputs to the end, after what was read of them."""
        outputs = {"stdout": bytearray(stdout), "stderr": bytearray(stderr)}
        problems: list[BallonetError] = []

        def read(output: str) -> None:
            try:
                while piece := self.read(output):
                    if len(outputs[output]) + len(piece) > MAX_OUTPUT_BYTES:
                        raise GuestError(
                            f"the command wrote more than {MAX_OUTPUT_BYTES} bytes",
                            hint="read its output piece by piece instead",
                        )
                    outputs[output] += piece
            except BallonetError as error:
                problems.append(error)
                self.close()

        other = threading.Thread(target=read, args=("stderr",))
        other.start()
        read("stdout")
        other.join()
        if problems:
            raise problems[0]
        return ExecResult(self.wait(), bytes(outputs["stdout"]), bytes(outputs["stderr"]))

    def close(self) -> None:
        self._do("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(BallonetError):
            self.close()


class ClusterFiles:
    """The files of a sandbox on another host. They pass through this program piece by piece."""

    def __init__(self, box: ClusterSandbox) -> None:
        self._box = box

    def _open(self, kind: str, *what: Any) -> ClusterProcess:
        number = self._box._stream(f"open_{kind}", self._box._cluster.session, self._box.name, *what)
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


class ClusterBalloon:
    """The balloon of a sandbox on another host."""

    def __init__(self, box: ClusterSandbox) -> None:
        self._box = box

    def get(self) -> Any:
        return self._box.use("balloon.get")

    def set(self, target: int | str, **how: Any) -> Any:
        return self._box.use("balloon.set", target, **how)

    def limit(self, limit: int | str | None) -> Any:
        return self._box.use("balloon.limit", limit)

    def stats(self) -> Any:
        return self._box.use("balloon.stats")

    def trim(self) -> Any:
        return self._box.use("balloon.trim")
