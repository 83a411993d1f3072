"""Whether there is room for one more sandbox."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ballonet.pilot.admission import ENGINE_MIB, Admission, admit, held_mib
from ballonet.pilot.model import HostView, SandboxView
from tests.unit.policy_inputs import host, sandbox


def ask(tick: HostView, views: list[SandboxView], **changes: int) -> Admission:
    wanted = {"ceiling_mib": 1024, "initial_mib": 1024, "floor_mib": 256, "reserve_mib": 0} | changes
    return admit(tick, views, **wanted)


def test_an_empty_host_takes_one_and_says_what_it_needs() -> None:
    answer = ask(host(), [])
    # 100 to boot, 16 of page tables, a guard of 102: its floor is more.
    assert (answer.ok, answer.needed_mib, answer.free_mib) == (True, 256 + ENGINE_MIB, 4096 - 400)
    assert "it needs 356 MiB (256 for the guest, 100 for the engine), and 3696 MiB are free" in answer.reason


def test_what_others_merely_hold_counts_as_free() -> None:
    idle = sandbox(guest_ram_mib=1000)
    assert held_mib(idle) == 300 + 102
    answer = ask(host(available_mib=0), [idle])
    assert answer.free_mib == 1000 - 400 - 402
    assert not answer.ok


def test_a_refusal_has_the_numbers() -> None:
    busy = sandbox(guest_available_mib=30, guest_caches_mib=20, guest_free_mib=10, guest_ram_mib=1000)
    answer = ask(host(available_mib=700), [busy])
    assert not answer.ok
    assert answer.reason == (
        "it needs 356 MiB (256 for the guest, 100 for the engine), but only 276 MiB are free: of the host's 8192 MiB, "
        "400 are reserved and 1300 may be promised to sandboxes; running sandboxes (1) need 1024"
    )


def test_a_reserve_is_needed_in_full_and_a_small_start_is_enough_otherwise() -> None:
    assert ask(host(), [], reserve_mib=900).needed_mib == 900 + ENGINE_MIB
    assert ask(host(), [], initial_mib=200, floor_mib=128).needed_mib == 200 + ENGINE_MIB


def test_one_whose_balloon_does_not_follow_gives_nothing() -> None:
    assert held_mib(sandbox(state="guest-refused", target_mib=300, actual_mib=900)) == 900
    assert held_mib(sandbox(state="no-driver")) == 1024
    assert held_mib(sandbox(guest_available_mib=None)) == 1024
    assert held_mib(sandbox(actual_mib=None, target_mib=300)) == 1024


def test_nothing_is_admitted_while_available_memory_is_unknown() -> None:
    answer = ask(host(available_mib=None), [])
    assert (answer.ok, answer.free_mib) == (False, None)
    assert "the host does not report its available memory" in answer.reason


@given(st.integers(0, 8192), st.integers(0, 8000), st.integers(64, 4096))
def test_what_is_admitted_fits(available: int, reserve: int, ceiling: int) -> None:
    tick = host(available_mib=available, reserve_mib=reserve)
    answer = ask(tick, [sandbox()], ceiling_mib=ceiling, initial_mib=ceiling, floor_mib=ceiling // 4)
    assert answer.free_mib is not None
    assert answer.ok == (answer.needed_mib <= answer.free_mib)
    assert answer.free_mib <= available + 500
