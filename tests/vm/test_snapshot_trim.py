"""What a snapshot saves of the memory of an idle guest, and of one that works."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.base.memory import MIB
from ballonet.control.client import Client
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from tests.vm.test_snapshot import WAIT_S, memfd_bytes, text_of

#: Files that the guest has written, and that its caches contain.
_FILES_MIB = 120


@pytest.fixture(autouse=True)
def store(
    guest: object, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Snapshots]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield Snapshots.open()


async def with_caches(name: str) -> Sandbox:
    balloon = Balloon(initial="300M", min="128M")
    box = await Sandbox.create(name, memory="512M", disk="512M", balloon=balloon)
    await text_of(
        box, f"head -c {_FILES_MIB * MIB} /dev/urandom > /disk/x && md5sum /disk/x > /disk/sum && sync"
    )
    return box


async def trims(box: Sandbox) -> int:
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as client:
        count = (await client.stats()).guest.trims
    assert count is not None
    return count


async def small_snapshot(store: Snapshots, box: Sandbox, most_bytes: float) -> None:
    """Make the snapshot ``small`` until it is no larger: on a busy host, an idle guest may look as if it worked."""
    async with asyncio.timeout(WAIT_S):
        while True:
            held = memfd_bytes(box.engine_pid)
            found = await box.snapshot("small")
            assert found.readable().resident_bytes == pytest.approx(held, abs=16 * MIB)
            if found.state_path.stat().st_size <= most_bytes:
                return
            store.remove("small")


async def test_a_snapshot_of_an_idle_guest_has_no_caches_and_the_guest_keeps_its_target(
    store: Snapshots,
) -> None:
    async with await with_caches("idle") as box:
        held = memfd_bytes(box.engine_pid)
        assert held > _FILES_MIB * MIB
        whole = await box.snapshot("whole", trim=False)
        assert whole.state_path.stat().st_size > _FILES_MIB * MIB
        await small_snapshot(store, box, 0.5 * held)
        assert memfd_bytes(box.engine_pid) <= 0.6 * held, "the host has the memory"
        status = await box.balloon.get()
        assert (status.target_mib, status.actual_mib, status.state) == (300, 300, "applied")
        for name in ("whole", "small"):
            async with await Sandbox.restore(name, f"of-{name}") as restored:
                assert "OK" in await text_of(restored, "md5sum -c /disk/sum")
                assert (await restored.balloon.get()).target_mib == 300
        (fork,) = await box.fork("forked", trim=True)
        async with fork:
            assert memfd_bytes(fork.engine_pid) <= 0.6 * held


async def test_nothing_is_taken_from_a_guest_at_work(store: Snapshots) -> None:
    async with await with_caches("busy") as box:
        working = await box.exec_stream(["sh", "-c", "echo begun; while true; do :; done"])
        async with asyncio.timeout(WAIT_S):
            assert await anext(aiter(working.stdout)) is not None
        before = await trims(box)
        snapshot = await box.snapshot("busy")
        assert snapshot.state_path.stat().st_size > _FILES_MIB * MIB
        assert await trims(box) == before
        assert working.running
