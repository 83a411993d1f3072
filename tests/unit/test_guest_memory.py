"""When a guest that stalls is short of memory, and when it only makes room. Real stalls: tests/vm/test_relief.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ballonet.guest.report import parse_report
from ballonet.machine.guest_memory import _only_gives_caches
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
