"""Files built from other files, kept in the cache: built once, and found again in well under a millisecond.

A note records each build: the request, the input files (with size, inode and times, so that ``stat`` is enough to see
that one has changed) and the output file. Incomplete files are never used. Knows nothing about the contents.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ballonet.base.dataclass import dataclass, field
from ballonet.base.digest import sha256_hex
from ballonet.base.errors import HostError, os_hint
from ballonet.base.paths import exclusive, private_dir, replace_file

#: The state of a file: inode, size, mtime and ctime in nanoseconds. ``None`` if it did not exist.
Look = list[int] | None


def look(path: Path) -> Look:
    """The state of ``path`` now (symbolic links are followed)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


class Inputs:
    """The input files of an artifact. Each is recorded *before* it is read, so that later changes are seen."""

    def __init__(self) -> None:
        self.looks: dict[str, Look] = {}

    def watch(self, path: Path) -> Path:
        """Add ``path`` to the inputs, whether it exists or not."""
        self.looks.setdefault(str(path), look(path))
        return path

    def read(self, path: Path) -> bytes:
        """Read ``path``, and add it to the inputs.

        :raises HostError: it cannot be read.
        """
        try:
            return self.watch(path).read_bytes()
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror}", hint=os_hint(error, path)) from error


@dataclass(frozen=True)
class Product:
    """A file to build: its name (which must be unique for its content), its size and its content.

    ``content`` is called only if the cache has no file with that name and size. ``facts`` are kept in the note.
    """

    name: str
    size: int
    content: Callable[[], bytes]
    inputs: Inputs
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A built file, and the facts from its note."""

    path: Path
    facts: Mapping[str, Sequence[str]]


class Artifacts:
    """The built files in the cache directory ``cache`` (see :func:`ballonet.base.paths.cache_dir`)."""

    def __init__(self, cache: Path) -> None:
        self._files = cache / "built"
        self._notes = cache / "built" / "notes"

    def obtain(self, request: Mapping[str, str | Sequence[str]], make: Callable[[], Product]) -> Artifact:
        """The artifact for ``request``: from the cache, if none of its inputs has changed.

        :param request: everything that determines the result, except for the content of the inputs.
        :param make: called if it has to be built; never by two processes at the same time.
        :raises HostError: the cache cannot be written. Errors of ``make`` are raised, too.
        """
        note = self._notes / (sha256_hex(json.dumps(request, sort_keys=True).encode()) + ".json")
        known = self._known(note)
        if known is not None:
            return known
        private_dir(self._files)
        private_dir(self._notes)
        with exclusive(self._files / "lock"):
            known = self._known(note)  # another process may just have built it
            if known is None:
                self._remove_leftovers()
                known = self._make(note, make)
        return known

    def _known(self, note: Path) -> Artifact | None:
        try:
            said = json.loads(note.read_bytes())
            path = self._files / said["file"]
            if path.stat().st_size != said["size"]:
                return None
            if any(look(Path(name)) != seen for name, seen in said["inputs"].items()):
                return None
            return Artifact(path, said["facts"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # missing, or written by another version: it is built again

    def _make(self, note: Path, make: Callable[[], Product]) -> Artifact:
        product = make()
        path = self._files / product.name
        if not path.is_file() or path.stat().st_size != product.size:
            replace_file(path, product.content())
        facts = {name: list(values) for name, values in product.facts.items()}
        said = {"file": product.name, "size": product.size, "inputs": product.inputs.looks, "facts": facts}
        replace_file(note, json.dumps(said, indent=1).encode())
        return Artifact(path, facts)

    def _remove_leftovers(self) -> None:
        # Every writer holds the lock, so a temporary file that exists now is from a writer that was killed.
        for directory in (self._files, self._notes):
            for leftover in directory.glob(".*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    leftover.unlink()
