"""Moves a sandbox between hosts, as their agents see it: pause and export on one, import and resume on the other.

From its pause until the directory has decided, the source neither uses nor wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from ballonet.base.errors import BallonetError, HostError, os_hint
from ballonet.base.paths import private_dir, state_dir
from ballonet.cluster.host_notes import HostNotes
from ballonet.cluster.ledger import Order
from ballonet.cluster.stream_kinds import PIECE_BYTES
from ballonet.lifecycle.record import State
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.snapshots import Snapshots


def file_of(name: str) -> Path:
    """The file of something that is sent to another host, or received from one."""
    return private_dir(state_dir() / "cluster" / "moving") / f"{name}.snapshot"


def _snapshot_of(name: str) -> str:
    return f"moving-{name}"[:63]


async def pack_up(notes: HostNotes, box: Sandbox) -> None:
    """Pause a sandbox, and make one file of it.

    :raises BallonetError: it cannot be moved: it has volumes, or commands of clients run in it. It runs on.
    """
    name = box.name
    notes.moving.add(name)
    notes.write()
    try:
        await box.pause()
        snapshot = await box.snapshot(_snapshot_of(name))
        await asyncio.to_thread(Snapshots.export, snapshot.name, file_of(name))
    except BaseException:
        await put_back(notes, box)
        raise
    finally:
        await clean_up(name, file=False)


async def put_back(notes: HostNotes, box: Sandbox) -> None:
    """It was not moved: it is used here again, and resumed."""
    await clean_up(box.name)
    notes.moving.discard(box.name)
    notes.write()
    if box.record().state is State.PAUSED:
        await box.resume()


def piece(name: str, offset: int) -> bytes:
    """The bytes of its file from ``offset`` on; empty at the end."""
    path = file_of(name)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES * 4)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint=os_hint(error, path)) from error


async def take_over(
    notes: HostNotes,
    order: Order,
    piece_at: Callable[[int], Awaitable[bytes]],
    expires_s: Callable[[], float],
) -> Sandbox:
    """Make it here what it was there, and return when it runs.

    :param piece_at: the bytes of its file from an offset on.
    :param expires_s: when the host's lease expires.
    :raises BallonetError: it does not fit this host; nothing is left.
    """
    name, path = order.name, file_of(order.name)
    settings: dict[str, Any] = {
        word: order.settings[word] for word in ("ports", "labels") if order.settings.get(word)
    }
    try:
        await receive(path, piece_at)
        await asyncio.to_thread(Snapshots.load, path, _snapshot_of(name))
        notes.begin(order)
        notes.write_lease(expires_s())
        try:
            box = await Sandbox.restore(_snapshot_of(name), name, detached=True, **settings)
        except BaseException:
            notes.forget(name)
            raise
        notes.created(name)
        return box
    finally:
        await clean_up(name)


async def receive(path: Path, piece_at: Callable[[int], Awaitable[bytes]]) -> None:
    try:
        with path.open("wb") as file:
            async for data in _pieces(piece_at):
                await asyncio.to_thread(file.write, data)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint=os_hint(error, path)) from error


async def _pieces(piece_at: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    offset = 0
    while data := await piece_at(offset):
        offset += len(data)
        yield data


async def clean_up(name: str, *, file: bool = True) -> None:
    """Remove what a move left: the snapshot, and the file."""
    with contextlib.suppress(BallonetError):
        await asyncio.to_thread(Snapshots.remove, _snapshot_of(name))
    if file:
        file_of(name).unlink(missing_ok=True)
