"""The snapshots of a user: a directory for each, with its facts, the saved state and the disk.

A directory gets its name when everything in it is complete and on disk, so that a snapshot is whole or absent whatever
is killed. Whoever uses one holds a lock on its directory, which the kernel releases at its end. :meth:`Snapshots.prune`
removes what killed programs have left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import (
    BallonetError,
    HostError,
    NameInUseError,
    SnapshotError,
    SnapshotInUseError,
    UnknownSnapshotError,
    os_hint,
)
from ballonet.base.file_copy import write_at
from ballonet.base.paths import data_dir, private_dir, sync_directory
from ballonet.base.suggest import hint_for
from ballonet.base.text import printable
from ballonet.lifecycle.snapshot_facts import SnapshotFacts
from ballonet.settings.config import check_name

FACTS_FILE, STATE_FILE, DISK_FILE = "snapshot.json", "memory.state", "disk.img"
#: Prefixes of directories that are not complete, and of those that are being removed. Names cannot begin like this.
_NEW, _REMOVED = ".new-", ".removed-"
#: The facts are read as a whole; larger ones are damaged.
MOST_FACTS_BYTES = 8 << 20


@dataclass(frozen=True)
class Snapshot:
    """A complete snapshot, or one whose facts cannot be read."""

    name: str
    path: Path
    facts: SnapshotFacts | None
    #: Why the facts cannot be read.
    problem: str | None = None

    @property
    def state_path(self) -> Path:
        return self.path / STATE_FILE

    @property
    def disk_path(self) -> Path:
        return self.path / DISK_FILE

    @property
    def held_bytes(self) -> int:
        """What its files take of the disk, apart from blocks that they share with others."""
        return sum(_blocks(self.path / name) for name in (FACTS_FILE, STATE_FILE, DISK_FILE))

    def readable(self) -> SnapshotFacts:
        """:raises SnapshotError: its facts cannot be read."""
        if self.facts is None:
            raise SnapshotError(
                f"snapshot {self.name!r} cannot be used: {self.problem}",
                hint=f"remove it: ballonet snapshot rm {self.name}",
            )
        return self.facts


class NewSnapshot:
    """A snapshot that is being made: a directory, locked by this process, for the caller to fill."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def state_path(self) -> Path:
        return self.path / STATE_FILE

    @property
    def disk_path(self) -> Path:
        return self.path / DISK_FILE

    def write_facts(self, facts: SnapshotFacts) -> None:
        """:raises HostError: they cannot be written."""
        path = self.path / FACTS_FILE
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.fchmod(fd, 0o600)  # whatever the umask
                write_at(fd, facts.encode(), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise HostError(
                f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path)
            ) from error

    def commit(self, name: str) -> None:
        """Give it its name. Its files must be on disk.

        :raises NameInUseError: there is a snapshot with that name.
        """
        path = self.path.with_name(name)
        try:
            sync_directory(self.path)
            self.path.rename(path)
            self.path = path
            sync_directory(path.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise name_in_use(name) from error
            raise HostError(
                f"{path} cannot be created: {error.strerror}", hint=os_hint(error, path)
            ) from error


class Snapshots:
    """The store in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def open(cls) -> Self:
        """The user's store, in the data directory.

        :raises HostError: it cannot be created.
        """
        return cls(private_dir(data_dir() / "snapshots"))

    def names(self) -> list[str]:
        found = (entry.name for entry in os.scandir(self.directory) if entry.is_dir(follow_symlinks=False))
        return sorted(name for name in found if not name.startswith("."))

    def list_all(self) -> list[Snapshot]:
        """All, the oldest first. One that cannot be read is among them."""
        found = [snapshot for name in self.names() if (snapshot := self._read(name)) is not None]
        return sorted(
            found, key=lambda each: (0.0 if each.facts is None else each.facts.created_at, each.name)
        )

    def held(self) -> dict[str, int]:
        """What the files of each take of the disk, without reading them."""
        return {name: Snapshot(name, self.directory / name, None).held_bytes for name in self.names()}

    def get(self, name: str) -> Snapshot:
        """:raises UnknownSnapshotError: there is none with that name."""
        check_name(name)
        snapshot = self._read(name)
        if snapshot is None:
            raise UnknownSnapshotError(
                f"there is no snapshot named {name!r}",
                hint=hint_for(name, self.names(), "'ballonet snapshot ls' lists all snapshots"),
            )
        return snapshot

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Snapshot]:
        """The snapshot, which is not removed during the ``with`` block.

        :raises UnknownSnapshotError: there is none with that name.
        :raises SnapshotError: it cannot be read.
        """
        with self._locked(name, fcntl.LOCK_SH):
            snapshot = self.get(name)
            snapshot.readable()
            yield snapshot

    def check_free(self, name: str) -> None:
        """:raises NameInUseError: there is a snapshot with that name."""
        check_name(name)
        if os.path.lexists(self.directory / name):  # also a broken link
            raise name_in_use(name)

    @contextlib.contextmanager
    def making(self) -> Iterator[NewSnapshot]:
        """A new directory. It is removed at the end of the ``with`` block unless it was committed."""
        path, lock = self._new_directory()
        made = NewSnapshot(path, lock)
        try:
            yield made
        finally:
            if made.path == path:
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def remove(self, name: str) -> None:
        """Remove a snapshot.

        :raises UnknownSnapshotError: there is none with that name.
        :raises SnapshotInUseError: a program uses it now.
        """
        with self._locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
            path = self.directory / name
            gone = self.directory / f"{_REMOVED}{os.urandom(8).hex()}"
            try:
                path.rename(gone)
            except OSError as error:
                raise HostError(f"snapshot {name!r} cannot be removed: {error.strerror}") from error
        shutil.rmtree(gone, ignore_errors=True)

    def prune(self) -> list[str]:
        """Remove what killed programs have left; returns the names of its directories."""
        removed = []
        for entry in sorted(self.directory.iterdir()):
            if entry.name.startswith((_NEW, _REMOVED)):
                with contextlib.suppress(OSError):
                    lock = _open_directory(entry)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(entry)
                        removed.append(entry.name)
                    finally:
                        os.close(lock)
        return removed

    def image_users(self) -> dict[str, list[str]]:
        """The snapshots that need an image, by its id."""
        users: dict[str, list[str]] = {}
        for snapshot in self.list_all():
            if snapshot.facts is not None and snapshot.facts.image_id is not None:
                users.setdefault(snapshot.facts.image_id, []).append(snapshot.name)
        return users

    def _read(self, name: str) -> Snapshot | None:
        path = self.directory / name
        try:
            if not path.is_dir() or path.is_symlink():
                return None
            with (path / FACTS_FILE).open("rb") as file:
                content = file.read(MOST_FACTS_BYTES + 1)
            if len(content) > MOST_FACTS_BYTES:
                raise SnapshotError("the description of the snapshot is too large")
            facts = SnapshotFacts.decode(content)
        except OSError as error:
            return Snapshot(name, path, None, f"{FACTS_FILE}: {error.strerror}")
        except BallonetError as error:
            return Snapshot(name, path, None, printable(error.message))
        return Snapshot(name, path, facts)

    def _new_directory(self) -> tuple[Path, int]:
        while True:
            path = private_dir(self.directory / f"{_NEW}{os.urandom(8).hex()}")
            with contextlib.suppress(OSError):
                lock = _open_directory(path)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _leads_to(path, lock):  # else a prune was quicker
                        return path, lock
                except BaseException:
                    os.close(lock)
                    raise
                os.close(lock)

    @contextlib.contextmanager
    def _locked(self, name: str, operation: int) -> Iterator[None]:
        """Hold a lock on the directory of a snapshot that exists."""
        path = self.get(name).path
        try:
            lock = _open_directory(path)
        except OSError:
            self.get(name)  # removed meanwhile
            raise
        try:
            try:
                fcntl.flock(lock, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SnapshotInUseError(
                    f"snapshot {name!r} is in use by another program",
                    hint="wait until the restore, the export or the removal has ended",
                ) from None
            if not _leads_to(path, lock):
                self.get(name)
            yield
        finally:
            os.close(lock)


def name_in_use(name: str) -> NameInUseError:
    return NameInUseError(
        f"there is a snapshot named {name!r} already",
        hint=f"choose another name, or remove it: ballonet snapshot rm {name}",
    )


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _leads_to(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _blocks(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
