"""The snapshots of this user: list, find, remove, export and import them. The calls may wait for the disk."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ballonet.base.arguments import check_text
from ballonet.base.errors import HostError, os_hint
from ballonet.lifecycle.snapshots import Snapshot
from ballonet.lifecycle.snapshots import Snapshots as Store

__all__ = ["Snapshot", "Snapshots"]


class Snapshots:
    """``Snapshots.list()``. :meth:`ballonet.Sandbox.snapshot` makes one, :meth:`ballonet.Sandbox.restore` uses it.

    With asyncio, call these in a thread: ``await asyncio.to_thread(Snapshots.export, "name", path)``.
    """

    @staticmethod
    def list() -> list[Snapshot]:
        """All snapshots, the oldest first."""
        return Store.open().list_all()

    @staticmethod
    def get(name: str) -> Snapshot:
        """:raises UnknownSnapshotError: there is no snapshot with that name."""
        return Store.open().get(name)

    @staticmethod
    def remove(name: str) -> None:
        """Remove a snapshot. Sandboxes that were restored from it keep running.

        :raises UnknownSnapshotError: there is no snapshot with that name.
        :raises SnapshotInUseError: a program uses it now.
        """
        Store.open().remove(name)

    @staticmethod
    def export(name: str, file: str | Path | BinaryIO) -> None:
        """Write a snapshot as one file, for another host with the same engine.

        :param file: its path, or an open file.
        :raises UnknownSnapshotError: there is no snapshot with that name.
        """
        from ballonet.lifecycle.snapshot_transfer import export_snapshot, whole_file

        if isinstance(file, str | Path):
            with whole_file(Path(file)) as out:
                export_snapshot(Store.open(), name, out)
        else:
            export_snapshot(Store.open(), name, file)

    @staticmethod
    def load(file: str | Path | BinaryIO, name: str | None = None) -> Snapshot:
        """Read a file of :meth:`export`. Nothing is kept unless all of it is right and this host can restore it.

        :param file: its path, or an open file.
        :param name: of the snapshot; by default that of the sandbox that was saved.
        :raises SnapshotError: the file is damaged, or does not fit this host.
        :raises NameInUseError: there is a snapshot with that name.
        """
        from ballonet.lifecycle.snapshot_transfer import import_snapshot

        check_text("name", name)
        if not isinstance(file, str | Path):
            return import_snapshot(Store.open(), file, name)
        try:
            with Path(file).open("rb") as source:
                return import_snapshot(Store.open(), source, name)
        except OSError as error:
            raise HostError(f"{file} cannot be read: {error.strerror}", hint=os_hint(error, file)) from error
