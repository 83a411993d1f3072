"""The balloon's state machine: what may be called applied, and when a guest refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.memory import mib_to_bytes
from ballonet.vmm.builder import default_floor_mib
from ballonet.vmm.config import BalloonSpec
from ballonet.vmm.convergence import EXCUSED_MOST_S, STALL_WINDOW_S, Convergence, Driver, State

SPEC = BalloonSpec(ceiling_mib=1024, initial_mib=512, floor_mib=256)


def state_of(balloon: Convergence) -> State:
    return balloon.status.state


def settled_at_initial() -> Convergence:
    balloon = Convergence(SPEC, now=0)
    balloon.observe(mib_to_bytes(1024), 0)
    balloon.driver_seen(Driver.PRESENT, 1)
    balloon.observe(mib_to_bytes(512), 2)
    assert state_of(balloon) is State.APPLIED
    return balloon


def test_a_booting_guest_is_converging_however_long_it_takes() -> None:
    balloon = Convergence(SPEC, now=0)
    balloon.observe(mib_to_bytes(1024), 0)
    balloon.tick(1000)
    assert state_of(balloon) is State.CONVERGING
    assert balloon.status.detail == "the guest is booting"
    assert balloon.next_look(1000) is None


def test_applied_only_when_actual_is_there_to_the_byte() -> None:
    balloon = settled_at_initial()
    balloon.set_target(300, 10)
    for actual in (mib_to_bytes(400), mib_to_bytes(300) + 4096):
        balloon.observe(actual, 11)
        assert state_of(balloon) is State.CONVERGING
    balloon.observe(mib_to_bytes(300), 12)
    assert state_of(balloon) is State.APPLIED
    assert balloon.status.since == 12


@pytest.mark.parametrize(
    ("requested", "effective", "by"),
    [
        (2000, 1024, "ceiling"),
        (100, 256, "floor"),
        (0, 256, "floor"),
        (700, 700, None),
        (10**30, 1024, "ceiling"),
    ],
)
def test_targets_are_clamped_and_the_request_is_remembered(
    requested: int, effective: int, by: str | None
) -> None:
    balloon = settled_at_initial()
    assert balloon.set_target(requested, 10).by == by
    assert balloon.status.requested_mib == requested
    assert balloon.status.target_mib == effective
    assert balloon.engine_target_bytes == mib_to_bytes(effective)


def test_no_progress_for_the_window_is_refused_and_the_engine_is_asked_for_what_is_there() -> None:
    balloon = settled_at_initial()
    balloon.set_target(256, 10)
    balloon.observe(mib_to_bytes(400), 10.5)
    balloon.tick(10 + STALL_WINDOW_S - 0.1)
    assert state_of(balloon) is State.CONVERGING
    balloon.observe(mib_to_bytes(390), 10.4 + STALL_WINDOW_S)
    assert state_of(balloon) is State.CONVERGING, "112 MiB at 10.5 s were progress"
    balloon.tick(10.5 + STALL_WINDOW_S)
    status = balloon.status
    assert status.state is State.GUEST_REFUSED
    assert status.target_mib == 256, "the target goes on saying what was asked"
    assert balloon.engine_target_bytes == mib_to_bytes(390)
    assert "134 MiB short" in str(status.detail)
    assert balloon.next_look(100) is None


def test_steady_progress_is_never_refused() -> None:
    balloon = Convergence(BalloonSpec(8192, 8192, 128), now=0)
    balloon.observe(mib_to_bytes(8192), 0)
    balloon.driver_seen(Driver.PRESENT, 0)
    balloon.set_target(128, 0)
    now, actual = 0.0, 8192
    while actual > 128:
        now, actual = now + 1, max(128, actual - 16)
        balloon.observe(mib_to_bytes(actual), now)
        assert balloon.status.state in (State.CONVERGING, State.APPLIED)
    assert state_of(balloon) is State.APPLIED


def test_a_new_target_after_a_refusal_is_tried_again() -> None:
    balloon = settled_at_initial()
    balloon.set_target(256, 10)
    balloon.tick(16)
    assert state_of(balloon) is State.GUEST_REFUSED
    balloon.set_target(300, 20)
    assert state_of(balloon) is State.CONVERGING
    assert balloon.engine_target_bytes == mib_to_bytes(300)


def test_a_refused_guest_that_gets_there_after_all_is_applied() -> None:
    balloon = settled_at_initial()
    balloon.set_target(256, 10)
    balloon.tick(16)
    assert balloon.engine_target_bytes == mib_to_bytes(512)
    balloon.observe(mib_to_bytes(256), 17)
    assert state_of(balloon) is State.APPLIED
    assert balloon.engine_target_bytes == mib_to_bytes(256)


def test_memory_the_guest_took_back_is_said() -> None:
    balloon = settled_at_initial()
    balloon.observe(mib_to_bytes(552), 20)
    assert state_of(balloon) is State.GUEST_REFUSED
    assert "took back 40 MiB" in str(balloon.status.detail)


def test_an_absent_driver_is_no_driver_and_a_late_one_is_given_its_time() -> None:
    balloon = Convergence(SPEC, now=0)
    balloon.observe(mib_to_bytes(1024), 0)
    balloon.driver_seen(Driver.ABSENT, 3)
    assert state_of(balloon) is State.NO_DRIVER
    balloon.set_target(300, 4)
    assert state_of(balloon) is State.NO_DRIVER
    assert balloon.engine_target_bytes == mib_to_bytes(300), "it applies when a driver comes"
    balloon.driver_seen(Driver.PRESENT, 50)
    assert state_of(balloon) is State.CONVERGING
    balloon.tick(52)
    assert state_of(balloon) is State.CONVERGING


def test_a_target_is_not_applied_without_a_driver_and_is_at_once_when_one_is_seen() -> None:
    balloon = Convergence(SPEC, now=0)
    balloon.observe(mib_to_bytes(1024), 0)
    balloon.driver_seen(Driver.ABSENT, 3)
    balloon.set_target(300, 4)
    balloon.observe(mib_to_bytes(300), 5)  # by a driver that has just come, faster than the next look
    assert (state_of(balloon), balloon.status.driver) == (State.NO_DRIVER, Driver.ABSENT)
    balloon.driver_seen(Driver.PRESENT, 6)
    assert (state_of(balloon), balloon.status.driver) == (State.APPLIED, Driver.PRESENT)


@pytest.mark.parametrize("actual", [-4096, mib_to_bytes(1024) + 4096, 2**63, -(2**63)])
def test_an_impossible_actual_is_said_and_shown_within_range(actual: int) -> None:
    balloon = settled_at_initial()
    balloon.observe(actual, 20)
    status = balloon.status
    assert status.state is State.FAILED
    assert "impossible" in str(status.detail)
    assert 0 <= (status.actual_mib or 0) <= 1024


def test_polling_slows_down_and_stops_when_settled() -> None:
    balloon = settled_at_initial()
    balloon.set_target(300, 10)
    intervals = [balloon.next_look(10 + t) for t in (0, 1, 5, 50)]
    assert intervals == sorted(intervals, key=lambda i: i or 0)
    assert intervals[0] == 0.005
    assert intervals[-1] == 0.25
    balloon.observe(mib_to_bytes(300), 11)
    assert balloon.next_look(11) is None


def test_every_set_has_a_generation_of_its_own() -> None:
    balloon = settled_at_initial()
    first = balloon.status.generation
    balloon.set_target(300, 10)
    balloon.set_target(300, 11)
    assert balloon.status.generation == first + 2


@pytest.mark.parametrize(
    ("ceiling", "initial", "floor"), [(1024, 512, 256), (512, 512, 128), (256, 100, 100), (8192, 8192, 2048)]
)
def test_the_default_floor_is_safe_and_never_above_initial(ceiling: int, initial: int, floor: int) -> None:
    assert default_floor_mib(ceiling, initial) == floor


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["set", "observe", "tick", "present", "absent"]),
            st.integers(-(2**64), 2**64),
            st.floats(0, 10),
        )
    )
)
def test_whatever_happens_applied_means_actual_is_the_target(steps: list[tuple[str, int, float]]) -> None:
    balloon = Convergence(SPEC, now=0)
    now = 0.0
    for what, value, passed in steps:
        now += passed
        if what == "set":
            balloon.set_target(value, now)
        elif what == "observe":
            balloon.observe(value, now)
        elif what == "tick":
            balloon.tick(now)
        else:
            balloon.driver_seen(Driver(what), now)
        status = balloon.status
        assert SPEC.floor_mib <= status.target_mib <= SPEC.ceiling_mib
        if status.state is State.APPLIED:
            assert status.actual_mib == status.target_mib
        assert 0 <= balloon.engine_target_bytes <= mib_to_bytes(SPEC.ceiling_mib)


def test_a_guest_that_the_host_did_not_run_has_not_refused() -> None:
    balloon = settled_at_initial()
    balloon.set_target(300, 10)
    balloon.observe(mib_to_bytes(400), 11)
    balloon.engine_waited(STALL_WINDOW_S, 10 + STALL_WINDOW_S)
    balloon.tick(10 + STALL_WINDOW_S)
    assert state_of(balloon) is State.CONVERGING
    balloon.tick(10 + 2 * STALL_WINDOW_S)
    assert state_of(balloon) is State.GUEST_REFUSED


def test_a_busy_host_does_not_excuse_a_guest_for_ever() -> None:
    balloon = settled_at_initial()
    balloon.set_target(300, 10)
    balloon.observe(mib_to_bytes(400), 10)
    now = 10.0
    while state_of(balloon) is State.CONVERGING:
        now += 1
        balloon.engine_waited(1, now)
        balloon.tick(now)
        assert now < 10 + EXCUSED_MOST_S + 2 * STALL_WINDOW_S
    assert now >= 10 + EXCUSED_MOST_S


def test_waiting_before_the_target_excuses_nothing() -> None:
    balloon = settled_at_initial()
    balloon.set_target(300, 1000)
    balloon.engine_waited(500, 1000)
    balloon.tick(1000 + STALL_WINDOW_S)
    assert state_of(balloon) is State.GUEST_REFUSED


def test_a_squeeze_that_ran_out_of_time_says_what_it_did_not_reach() -> None:
    balloon = settled_at_initial()
    assert balloon.squeeze(mib_to_bytes(300), 20, 10)
    balloon.observe(mib_to_bytes(420), 15)
    balloon.tick(20)
    assert balloon.squeeze_missed_bytes == mib_to_bytes(120)
    balloon.observe(mib_to_bytes(512), 21)
    assert state_of(balloon) is State.APPLIED
    assert balloon.squeeze(mib_to_bytes(300), 40, 30)
    balloon.observe(mib_to_bytes(300), 31)
    balloon.observe(mib_to_bytes(512), 32)
    assert balloon.squeeze_missed_bytes == 0
