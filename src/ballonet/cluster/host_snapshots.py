"""Snapshots as a host's agent makes, sends, receives and restores them for the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from ballonet.base.errors import BallonetError, UnknownSnapshotError
from ballonet.base.paths import private_dir
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.host_moving import file_of, receive
from ballonet.cluster.host_notes import HostNotes
from ballonet.cluster.ledger import Order
from ballonet.lifecycle.snapshots import Snapshots as Store
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.snapshots import Snapshots


class HostSnapshots:
    """The snapshots of this host. :meth:`call` never raises a :class:`BallonetError`."""

    def __init__(self, notes: HostNotes, box: Callable[[str], Awaitable[Sandbox]]) -> None:
        self._notes = notes
        self._box = box

    async def call(self, method: str, *what: Any) -> Answer:
        """Call one of the methods whose names begin with ``_``."""
        try:
            return Answer(await getattr(self, "_" + method)(*what))
        except BallonetError as error:
            return failed(error)

    async def _save(self, name: str, snapshot: str, automatic: bool, trim: bool) -> str:
        """Save a sandbox as a snapshot of this host.

        :param automatic: it is the cluster's, which removes it again.
        """
        self._note(snapshot, automatic)
        await (await self._box(name)).snapshot(snapshot, trim=trim)
        return snapshot

    async def _export(self, snapshot: str, target: str) -> str:
        """Make one file of a snapshot for another host; its name for :meth:`HostAgent.piece`."""
        name = f"{snapshot}.to-{target}"
        await asyncio.to_thread(Snapshots.export, snapshot, file_of(name))
        return name

    async def _end_export(self, name: str) -> None:
        file_of(name).unlink(missing_ok=True)

    async def _remove(self, snapshot: str) -> None:
        """Remove a snapshot; one that is gone already is no error."""
        with contextlib.suppress(UnknownSnapshotError):
            await asyncio.to_thread(Snapshots.remove, snapshot)
        if snapshot in self._notes.automatic:
            self._notes.automatic.discard(snapshot)
            self._notes.write()

    async def fetch(
        self, snapshot: str, automatic: bool, piece_at: Callable[[int], Awaitable[bytes]]
    ) -> None:
        """Take a copy of a snapshot of another host.

        :param piece_at: the bytes of its file from an offset on.
        :raises BallonetError: it does not fit this host; nothing is left.
        """
        Store.open().check_free(snapshot)  # before it is sent
        self._note(snapshot, automatic)
        path = file_of(f"{snapshot}.here")
        try:
            await receive(path, piece_at)
            await asyncio.to_thread(Snapshots.load, path, snapshot)
        finally:
            path.unlink(missing_ok=True)

    async def restore(self, order: Order, snapshot: str, expires_s: Callable[[], float]) -> Sandbox:
        """Make a sandbox of a snapshot of this host.

        :param expires_s: when the host's lease expires.
        :raises BallonetError: it cannot be restored; nothing is left.
        """
        notes = self._notes
        settings: dict[str, Any] = {
            word: order.settings[word] for word in ("ports", "labels") if order.settings.get(word)
        }
        notes.begin(order)
        notes.write_lease(expires_s())
        try:
            box = await Sandbox.restore(snapshot, order.name, detached=True, **settings)
        except BaseException:
            notes.forget(order.name)
            raise
        notes.created(order.name)
        return box

    def remove_transfers(self) -> None:
        """Remove the files that an agent before this one was sending or receiving; forget snapshots that are gone."""
        keep = {file_of(name) for name in self._notes.moving}
        for path in private_dir(file_of("any").parent).iterdir():
            if path not in keep:
                path.unlink(missing_ok=True)
        if gone := self._notes.automatic - snapshots_here():
            self._notes.automatic -= gone
            self._notes.write()

    def _note(self, snapshot: str, automatic: bool) -> None:
        """Written before there is anything: what a killed agent leaves is known to be the cluster's."""
        if automatic and snapshot not in self._notes.automatic:
            self._notes.automatic.add(snapshot)
            self._notes.write()


def snapshots_here() -> frozenset[str]:
    """The names of all snapshots of this host."""
    try:
        return frozenset(Store.open().names())
    except (BallonetError, OSError):
        return frozenset()
