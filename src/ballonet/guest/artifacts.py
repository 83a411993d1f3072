"""Files made from other files, kept in the cache: made once, found again in well under a millisecond.

What was made is remembered in a note: which request it answers, which files went in (with their size, inode
and times, so that a look is enough to see that one has changed) and which file came out. Nothing is ever used
that is not whole. Never knows what the files mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ballonet.base.errors import HostError, os_hint
from ballonet.base.paths import exclusive, private_dir, replace_file

#: How a file looked: inode, size, mtime and ctime in nanoseconds. ``None`` where there was none.
Look = list[int] | None


def look(path: Path) -> Look:
    """How ``path`` looks now (symbolic links followed)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


class Inputs:
    """The files that go into an artifact. Each is looked at *before* it is read: a later change is then seen."""

    def __init__(self) -> None:
        self.looks: dict[str, Look] = {}

    def watch(self, path: Path) -> Path:
        """Count ``path`` among the inputs, whether it exists or not."""
        self.looks.setdefault(str(path), look(path))
        return path

    def read(self, path: Path) -> bytes:
        """The content of ``path``, which is counted among the inputs.

        :raises HostError: it cannot be read.
        """
        try:
            return self.watch(path).read_bytes()
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror}", hint=os_hint(error, path)) from error


@dataclass(frozen=True)
class Product:
    """What a maker found out before making: the file's name (which must say its content), size and content.

    ``content`` is called only if the cache has no file of that name and size. ``facts`` are kept in the note.
    """

    name: str
    size: int
    content: Callable[[], bytes]
    inputs: Inputs
    facts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A made file, and the facts that were noted with it."""

    path: Path
    facts: Mapping[str, Sequence[str]]


class Artifacts:
    """The made files in the cache directory ``cache`` (see :func:`ballonet.base.paths.cache_dir`)."""

    def __init__(self, cache: Path) -> None:
        self._files = cache / "built"
        self._notes = cache / "built" / "notes"

    def obtain(self, request: Mapping[str, str | Sequence[str]], make: Callable[[], Product]) -> Artifact:
        """The artifact that answers ``request``: the one made before, if nothing that went in has changed.

        :param request: everything that decides the result, apart from the content of the inputs.
        :param make: called when it has to be made; never by two processes at once.
        :raises HostError: the cache cannot be written; and what ``make`` raises.
        """
        note = self._notes / (
            hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest() + ".json"
        )
        known = self._known(note)
        if known is not None:
            return known
        private_dir(self._files)
        private_dir(self._notes)
        with exclusive(self._files / "lock"):
            known = self._known(note)  # somebody else may just have made it
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
            return None  # absent, or written by another version: made anew

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
        # Every writer holds the lock, so a temporary file seen now was left by one that was killed.
        for directory in (self._files, self._notes):
            for leftover in directory.glob(".*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    leftover.unlink()
