"""The balloon device against a scripted monitor, for what a real one cannot be driven to on purpose.

That the scripted monitor tells the truth is shown by tests/vm/test_balloon.py, which does the same against QEMU.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ballonet.base.errors import EngineError
from ballonet.base.memory import mib_to_bytes
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.config import BalloonSpec, Machine
from ballonet.vmm.convergence import Driver, State
from ballonet.vmm.qemu.balloon_device import QemuBalloonDevice, changed_actual
from ballonet.vmm.qemu.qmp import Qmp

SPEC = BalloonSpec(ceiling_mib=1024, initial_mib=1024, floor_mib=128)


class ScriptedQmp(Qmp):
    """Answers as QEMU with a guest that follows at once, when it is allowed to."""

    def __init__(self) -> None:
        super().__init__("scripted", lambda name, data: None)
        self.actual = mib_to_bytes(1024)
        self.target = self.actual
        self.follows = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuse: str | None = None
        self.without_status = False
        self.reported_at = int(time.time())
        self.intervals: list[object] = []

    async def execute(self, command: str, **arguments: object) -> Any:
        await self.gate.wait()
        if command == "balloon":
            if self.refuse is not None:
                raise EngineError(self.refuse)
            value = arguments["value"]
            assert isinstance(value, int)
            self.target = value
        if command == "query-balloon":
            if self.follows:
                self.actual = self.target
            return {"actual": self.actual}
        if command == "qom-set":
            self.intervals.append(arguments["value"])
        if command == "qom-get":
            return {"stats": {}, "last-update": self.reported_at}
        if command == "x-query-virtio-status":
            if self.without_status:
                raise EngineError("The command x-query-virtio-status has not been found")
            return {"status": {"statuses": ["VIRTIO_CONFIG_S_DRIVER_OK: ready"]}}
        return {}


@asynccontextmanager
async def balloon_over(qmp: ScriptedQmp) -> AsyncIterator[Balloon]:
    balloon = Balloon(SPEC, QemuBalloonDevice(Machine.MICROVM, SPEC.ceiling_mib, qmp), os.getpid())
    await balloon.start()
    await balloon.check_driver()
    try:
        yield balloon
    finally:
        await balloon.stop()


async def test_overlapping_sets_each_have_their_own_generation_and_the_first_is_superseded() -> None:
    qmp = ScriptedQmp()
    async with balloon_over(qmp) as balloon:
        qmp.gate.clear()
        first = asyncio.create_task(balloon.set_target(300, force=True))
        second = asyncio.create_task(balloon.set_target(400, force=True))
        await asyncio.sleep(0)
        qmp.gate.set()
        (_, older), (_, newer) = await asyncio.gather(first, second)
        assert newer == older + 1
        assert (await balloon.wait_settled(older)).generation == newer
        status = await balloon.wait_settled(newer)
        assert (status.state, status.actual_mib) == (State.APPLIED, 400)
    assert qmp.target == mib_to_bytes(400)


async def test_an_engine_that_refuses_a_target_is_said_to_the_caller_and_in_the_state() -> None:
    qmp = ScriptedQmp()
    async with balloon_over(qmp) as balloon:
        qmp.refuse = "QEMU refused balloon"
        with pytest.raises(EngineError, match="refused"):
            await balloon.set_target(300, force=True)
        assert balloon.status.state is State.FAILED
        qmp.refuse = None
        _, generation = await balloon.set_target(300, force=True)
        status = await balloon.wait_settled(generation)
        assert status.state is State.APPLIED, "a refusal is not the end of it"


async def test_a_driver_that_was_off_course_while_nobody_followed_is_set_right_again() -> None:
    qmp = ScriptedQmp()
    async with balloon_over(qmp) as balloon:
        await balloon.stop()
        qmp.target = qmp.actual = mib_to_bytes(700)  # somebody else moved it
        await balloon.start()
        balloon.actual_changed(qmp.actual)
        assert balloon.status.state is not State.APPLIED
        assert balloon.status.actual_mib == 700


@pytest.mark.parametrize(("reported", "driver"), [(True, Driver.PRESENT), (False, Driver.ABSENT)])
async def test_an_engine_without_the_experimental_command_is_asked_for_statistics(
    reported: bool, driver: Driver
) -> None:
    qmp = ScriptedQmp()
    qmp.without_status = True
    qmp.reported_at = int(time.time()) if reported else 0
    async with balloon_over(qmp) as balloon:
        assert balloon.status.driver is driver


def test_events_of_other_devices_and_without_a_number_are_ignored() -> None:
    assert changed_actual("RESUME", {}) is None
    assert changed_actual("RESUME", {"actual": 1}) is None
    assert changed_actual("BALLOON_CHANGE", {"actual": "lots"}) is None
    assert changed_actual("BALLOON_CHANGE", {}) is None
    assert changed_actual("BALLOON_CHANGE", {"actual": 7}) == 7


async def test_a_question_that_is_given_up_does_not_leave_the_engine_asking_its_guest() -> None:
    """A guest that does not answer, and a client that goes away: the engine's timer is off again."""
    qmp = ScriptedQmp()
    qmp.reported_at = 1
    async with balloon_over(qmp) as balloon:
        asking = asyncio.create_task(balloon.statistics(max_age_s=0))
        async with asyncio.timeout(30):
            while qmp.intervals[-1:] != [1]:
                await asyncio.sleep(0)
            asking.cancel()
            while qmp.intervals[-1:] != [0]:
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asking
