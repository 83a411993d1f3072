"""The images that are here as files: one directory each, and the names that lead to them. Never fetches anything.

``roots/HEX`` is whole: it got that name in one step, after its content had reached the disk. ``names.json`` is written
whole, under a lock. What is below ``work`` belongs to somebody who is at it, or was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ballonet.base.errors import HostError, ImageError, os_hint
from ballonet.base.paths import exclusive, exclusive_if_free, private_dir, replace_file, shared
from ballonet.images.image import ROOT_FILE, Image, ImageConfig

_IMAGE_FILE = "image.json"


@dataclass
class Names:
    """What leads to which image."""

    #: References to registries, in full, to ids.
    names: dict[str, str] = field(default_factory=dict)
    #: Layouts and archives: how their file looked, and what they had.
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)


class Catalog:
    """The images in ``directory``, which is made on the first write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs"
        self._roots = directory / "roots"
        self._work = directory / "work"
        self._locks = directory / "locks"
        self._names = directory / "names.json"

    # What is here

    def get(self, id: str) -> Image | None:
        """The image of that id, if it is here."""
        names = self.read_names().names
        return self._read(self._place(id), names)

    def list(self) -> list[Image]:
        """All, the oldest first."""
        names = self.read_names().names
        places = sorted(self._roots.iterdir()) if self._roots.is_dir() else []
        found = [image for place in places if (image := self._read(place, names)) is not None]
        return sorted(found, key=lambda image: (image.created_at, image.id))

    def read_names(self) -> Names:
        """:raises HostError: the file of names is damaged."""
        try:
            document = json.loads(self._names.read_bytes())
            return Names(dict(document["names"]), dict(document["sources"]))
        except FileNotFoundError:
            return Names()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(
                f"the names of images cannot be read from {self._names}: {error}",
                hint="remove the file: the images stay, and get their names when they are asked for again",
            ) from error

    @contextlib.contextmanager
    def change_names(self) -> Iterator[Names]:
        """The names, to be changed; written at the end of the ``with`` block, if it is reached."""
        private_dir(self.directory)
        with exclusive(self.directory / "names.lock"):
            names = self.read_names()
            yield names
            document = {"names": names.names, "sources": names.sources}
            replace_file(self._names, json.dumps(document, indent=1).encode())

    # Making one

    @contextlib.contextmanager
    def making(self) -> Iterator[Path]:
        """A directory to make an image in; it goes away with the ``with`` block. Nothing is swept meanwhile."""
        private_dir(self.directory)
        self.sweep()
        with shared(self.directory / "lock"):
            for directory in (self._work, self._locks, self._roots, self.blobs, self.blobs / "sha256"):
                private_dir(directory)
            try:
                work = Path(tempfile.mkdtemp(dir=self._work))
            except OSError as error:
                raise HostError(
                    f"{self._work} cannot be written: {error.strerror}", hint=os_hint(error, self._work)
                ) from error
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    @contextlib.contextmanager
    def alone_with(self, what: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Let nobody else be at ``what`` (a digest). Within :meth:`making`.

        :param waiting: called if somebody is, before their end is waited for.
        """
        lock = self._locks / what.replace(":", "-")
        with exclusive_if_free(lock) as free:
            if free:
                yield
                return
        waiting()
        with exclusive(lock):
            yield

    def install(self, made: Path, image: Image, blobs: tuple[str, ...]) -> Image:
        """Make the root in the directory ``made``, which has all its files, an image of the catalog.

        :param blobs: digests of the blobs that it came from, which are kept with it.
        """
        document = {
            "id": image.id,
            "config": image.config.to_json(),
            "size_bytes": image.size_bytes,
            "created_at": image.created_at,
            "architecture": image.architecture,
            "manifest": image.manifest,
            "blobs": blobs,
        }
        replace_file(made / _IMAGE_FILE, json.dumps(document, indent=1).encode())
        place = self._place(image.id)
        _sync(made)
        try:
            made.rename(place)
        except OSError as error:
            there = self.get(image.id)
            if there is None:
                raise HostError(
                    f"{place} cannot be made: {error.strerror}", hint=os_hint(error, place)
                ) from error
            return there  # another manifest led to the same image meanwhile
        _sync(self._roots)
        found = self.get(image.id)
        assert found is not None
        return found

    # Removing

    def delete(self, image: Image) -> None:
        """Remove an image and its names. Whoever has its root open keeps it until it is closed."""
        with shared(self.directory / "lock"), self.change_names() as names:
            names.names = {name: id for name, id in names.names.items() if id != image.id}
            names.sources = {name: said for name, said in names.sources.items() if said.get("id") != image.id}
            gone = Path(tempfile.mkdtemp(dir=private_dir(self._work)))
            with contextlib.suppress(FileNotFoundError):
                self._place(image.id).rename(gone / "root")  # in one step: no half of it is ever found
        shutil.rmtree(gone, ignore_errors=True)
        self.sweep()

    def sweep(self) -> int | None:
        """Remove what no image needs: blobs, and what killed programs have left. The bytes, or ``None``: somebody
        is making an image now, so that it is not known what is needed."""
        if not self.directory.is_dir():
            return 0
        freed = 0
        with exclusive_if_free(self.directory / "lock") as alone:
            if not alone:
                return None
            needed = {digest.removeprefix("sha256:") for digest in self._needed_blobs()}
            for blob in (self.blobs / "sha256").glob("*"):
                if blob.name not in needed:
                    freed += blob.stat().st_size
                    blob.unlink()
            for left in (*self._work.glob("*"), *self._broken()):
                freed += sum(path.lstat().st_size for path in left.rglob("*"))
                shutil.rmtree(left, ignore_errors=True)
            for lock in self._locks.glob("*"):
                lock.unlink()
        return freed

    def _needed_blobs(self) -> Iterator[str]:
        for place in self._roots.glob("*"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                yield from json.loads((place / _IMAGE_FILE).read_bytes())["blobs"]

    def _broken(self) -> Iterator[Path]:
        return (place for place in self._roots.glob("*") if self._read(place, {}) is None)

    def _place(self, id: str) -> Path:
        return self._roots / id.removeprefix("sha256:")

    def _read(self, place: Path, names: dict[str, str]) -> Image | None:
        """The image in a directory; ``None`` if there is none, or it was damaged from outside."""
        root = place / ROOT_FILE
        try:
            said = json.loads((place / _IMAGE_FILE).read_bytes())
            if root.stat().st_size != said["size_bytes"]:
                return None
            return Image(
                id=said["id"],
                root=root,
                config=ImageConfig.from_json(said["config"]),
                names=tuple(sorted(name for name, id in names.items() if id == said["id"])),
                size_bytes=said["size_bytes"],
                created_at=said["created_at"],
                architecture=said["architecture"],
                manifest=said["manifest"],
            )
        except (OSError, ValueError, KeyError, TypeError, ImageError):
            return None


def _sync(directory: Path) -> None:
    """See to it that the names in a directory, and what they name, are on the disk."""
    for path in (*directory.iterdir(), directory):
        if path.is_file() or path == directory:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
