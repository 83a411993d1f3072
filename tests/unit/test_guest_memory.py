"""When a guest that stalls is short of memory, and when it only makes room. Real stalls: tests/vm/test_relief.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ballonet.guest.report import GuestReport, parse_report
from ballonet.machine.guest_memory import GuestMemory, _only_gives_caches
from ballonet.vmm.convergence import State


@pytest.mark.parametrize(
    "state, target, actual, available, makes_room",
    [
        (State.CONVERGING, 200, 400, 100, True),
        (State.CONVERGING, 200, 400, 63, False),  # less than the guard leaves to it
        (State.CONVERGING, 400, 200, 100, False),  # it is growing: nothing is taken from it
        (State.APPLIED, 200, 200, 100, False),  # nothing moves: the stall is the guest's own
        (State.CONVERGING, 200, 400, None, False),  # unknown is not "plenty"
        (State.CONVERGING, 200, None, 100, False),
    ],
)
def test_a_stall_during_a_shrink_counts_only_when_little_is_available(
    state: State, target: int, actual: int | None, available: int | None, makes_room: bool
) -> None:
    balloon = SimpleNamespace(
        status=SimpleNamespace(state=state, target_mib=target, actual_mib=actual),
        spec=SimpleNamespace(guard_mib=64),
    )
    report = parse_report(b"" if available is None else f"mem_available_kib {available * 1024}\n".encode())
    assert _only_gives_caches(report, balloon) is makes_room  # type: ignore[arg-type]


class Shrinking:
    """A balloon on its way down, and the agent of its guest: each report tells the next of the given figures."""

    def __init__(self, *available_mib: int) -> None:
        self.status = SimpleNamespace(state=State.CONVERGING, target_mib=200, actual_mib=400)
        self.spec = SimpleNamespace(guard_mib=64)
        self.relieved: list[str] = []
        self._next = list(available_mib)

    async def relieve(self, reason: str) -> None:
        self.relieved.append(reason)

    async def stats(self, timeout_s: float) -> GuestReport:
        available = self._next.pop(0)
        if not self._next:
            self.status.state = State.APPLIED
        return tells(available)


def tells(available_mib: int) -> GuestReport:
    return parse_report(f"mem_available_kib {available_mib * 1024}\n".encode())


@pytest.mark.parametrize(
    "available, relieved",
    [
        ((90, 80, 70), False),  # the shrink ends with memory to spare
        ((90, 40, 40), True),  # a program takes what was left, right after the kernel told of a stall
    ],
)
async def test_a_stall_that_was_passed_over_is_looked_at_again_at_once(
    available: tuple[int, ...], relieved: bool
) -> None:
    guest = Shrinking(*available)
    memory = GuestMemory(guest, guest)  # type: ignore[arg-type]
    memory._stalls(tells(100))
    assert memory._relieving is not None
    await memory._relieving
    assert bool(guest.relieved) is relieved
