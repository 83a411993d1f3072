"""The local images as files: one directory per image, and the names that refer to them. Never fetches anything.

``roots/HEX`` is always complete: it is renamed to this name after its content was synced to disk. ``names.json`` is
replaced atomically, under a lock. Directories in ``work`` belong to a process that is creating an image or was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import dataclass, field
from ballonet.base.errors import HostError, ImageError, os_hint
from ballonet.base.paths import exclusive, exclusive_if_free, private_dir, replace_file, shared
from ballonet.images.image import ROOT_FILE, Image, ImageConfig

_IMAGE_FILE = "image.json"


@dataclass
class Names:
    """Which names refer to which images."""

    #: Full registry references, to image ids.
    names: dict[str, str] = field(default_factory=dict)
    #: Layouts and archives: their file's status and the image that they had.
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)


class Catalog:
    """The images in ``directory``, which is created on the first write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs"
        self._roots = directory / "roots"
        self._work = directory / "work"
        self._locks = directory / "locks"
        self._names = directory / "names.json"

    # Reading

    def get(self, id: str) -> Image | None:
        """The image with this id, if it exists locally."""
        names = self.read_names().names
        return self._read(self._directory_of(id), names)

    def list(self) -> list[Image]:
        """All images, oldest first."""
        names = self.read_names().names
        places = sorted(self._roots.iterdir()) if self._roots.is_dir() else []
        found = [image for place in places if (image := self._read(place, names)) is not None]
        return sorted(found, key=lambda image: (image.created_at, image.id))

    def read_names(self) -> Names:
        """:raises HostError: ``names.json`` is damaged."""
        try:
            document = json.loads(self._names.read_bytes())
            return Names(dict(document["names"]), dict(document["sources"]))
        except FileNotFoundError:
            return Names()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HostError(
                f"image names cannot be read from {self._names}: {error}",
                hint="remove the file: images are kept and get their names again when they are next pulled",
            ) from error

    @contextlib.contextmanager
    def change_names(self) -> Iterator[Names]:
        """The names, for changes. They are written when the ``with`` block ends without an exception."""
        private_dir(self.directory)
        with exclusive(self.directory / "names.lock"):
            names = self.read_names()
            yield names
            document = {"names": names.names, "sources": names.sources}
            replace_file(self._names, json.dumps(document, indent=1).encode())

    # Creating

    @contextlib.contextmanager
    def work_directory(self) -> Iterator[Path]:
        """A work directory for a new image, removed after the ``with`` block. :meth:`sweep` does nothing meanwhile."""
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
    def locked(self, what: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock for ``what`` (a digest), so that only one process creates it. Within :meth:`work_directory`.

        :param waiting: called before waiting if another process holds the lock.
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
        """Add the complete root in the directory ``made`` to the catalog.

        :param blobs: digests of the blobs that it was created from, which are kept with it.
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
        place = self._directory_of(image.id)
        _sync(made)
        try:
            made.rename(place)
        except OSError as error:
            there = self.get(image.id)
            if there is None:
                raise HostError(
                    f"{place} cannot be created: {error.strerror}", hint=os_hint(error, place)
                ) from error
            return there  # another process created it meanwhile, from another manifest
        _sync(self._roots)
        found = self.get(image.id)
        assert found is not None
        return found

    # Removing

    def delete(self, image: Image) -> None:
        """Remove an image and its names. Processes that have its root open keep it until they close it."""
        with shared(self.directory / "lock"), self.change_names() as names:
            names.names = {name: id for name, id in names.names.items() if id != image.id}
            names.sources = {
                name: source for name, source in names.sources.items() if source.get("id") != image.id
            }
            gone = Path(tempfile.mkdtemp(dir=private_dir(self._work)))
            with contextlib.suppress(FileNotFoundError):
                self._directory_of(image.id).rename(
                    gone / "root"
                )  # atomic: the catalog never has a partial image
        shutil.rmtree(gone, ignore_errors=True)
        self.sweep()

    def sweep(self) -> int | None:
        """Remove what no image needs: blobs, and what killed processes left behind. Returns the bytes freed, or
        ``None`` if nothing was done because another process is creating an image."""
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

    def _directory_of(self, id: str) -> Path:
        return self._roots / id.removeprefix("sha256:")

    def _read(self, place: Path, names: dict[str, str]) -> Image | None:
        """The image in a directory; ``None`` if there is none or it is damaged."""
        root = place / ROOT_FILE
        try:
            document = json.loads((place / _IMAGE_FILE).read_bytes())
            if root.stat().st_size != document["size_bytes"]:
                return None
            return Image(
                id=document["id"],
                root=root,
                config=ImageConfig.from_json(document["config"]),
                names=tuple(sorted(name for name, id in names.items() if id == document["id"])),
                size_bytes=document["size_bytes"],
                created_at=document["created_at"],
                architecture=document["architecture"],
                manifest=document["manifest"],
            )
        except (OSError, ValueError, KeyError, TypeError, ImageError):
            return None


def _sync(directory: Path) -> None:
    """Sync a directory and the files in it to disk."""
    for path in (*directory.iterdir(), directory):
        if path.is_file() or path == directory:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
