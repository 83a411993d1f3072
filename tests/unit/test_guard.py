"""Guarded shrinking: how far a guest is taken down, and what happens when it takes memory back."""

from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.memory import mib_to_bytes as mib
from ballonet.vmm.config import BalloonSpec
from ballonet.vmm.convergence import GUARD_PATIENCE_S, RETRY_FIRST_S, Convergence, Driver, State
from ballonet.vmm.guard import GuestReading, default_guard_mib, permit

SPEC = BalloonSpec(ceiling_mib=1024, initial_mib=1024, floor_mib=128, guard_mib=100)


def running_at(actual_mib: int, spec: BalloonSpec = SPEC) -> Convergence:
    balloon = Convergence(spec, now=0)
    balloon.observe(mib(spec.initial_mib), 0)
    balloon.driver_seen(Driver.PRESENT, 0)
    balloon.set_target(actual_mib, 0)
    balloon.observe(mib(actual_mib), 1)
    return balloon


def state_of(balloon: Convergence) -> State:
    return balloon.status.state


def reading(available_mib: int | None, at: float = 0, faults: int | None = 0) -> GuestReading:
    return GuestReading(at, None if available_mib is None else mib(available_mib), faults)


def test_the_default_guard_is_a_tenth_and_at_least_64_mib() -> None:
    assert (default_guard_mib(512), default_guard_mib(1024), default_guard_mib(8192)) == (64, 102, 819)


def test_what_is_spare_above_the_guard_is_taken_in_one_step() -> None:
    permission = permit(mib(256), mib(1024), 100, reading(900), None)
    assert (permission.lowest_bytes, permission.reason) == (mib(256), None)


def test_a_shrink_stops_where_the_guard_begins() -> None:
    permission = permit(mib(256), mib(1024), 100, reading(500), None)
    assert permission.lowest_bytes == mib(1024 - 400)
    assert "500 MiB available; the guard leaves it 100 MiB" in str(permission.reason)


def test_a_guest_that_does_not_report_is_not_shrunk() -> None:
    assert permit(mib(256), mib(1024), 100, reading(None), None).lowest_bytes == mib(1024)


def test_a_thrashing_guest_is_not_shrunk_further() -> None:
    before = reading(900, at=10, faults=0)
    assert permit(mib(256), mib(1024), 100, reading(900, at=11, faults=99), before).reason is None
    thrashing = permit(mib(256), mib(1024), 100, reading(900, at=11, faults=500), before)
    assert thrashing.lowest_bytes == mib(1024)
    assert "500 major faults per second" in str(thrashing.reason)


@given(
    target=st.integers(0, 1024),
    actual=st.integers(0, 1024),
    guard=st.integers(0, 1024),
    available=st.none() | st.integers(0, 2048),
    faults=st.none() | st.integers(0, 10**6),
)
def test_a_permission_never_takes_the_guard_and_never_passes_the_target(
    target: int, actual: int, guard: int, available: int | None, faults: int | None
) -> None:
    target = min(target, actual)
    permission = permit(
        mib(target), mib(actual), guard, reading(available, 1, faults), reading(available, 0, 0)
    )
    assert mib(target) <= permission.lowest_bytes <= mib(actual)
    taken = mib(actual) - permission.lowest_bytes
    if taken:
        assert available is not None
        assert mib(available) - taken >= min(mib(guard), mib(available) - taken)
        assert taken <= max(0, mib(available) - mib(guard))


def test_a_guarded_shrink_waits_for_the_guests_word() -> None:
    balloon = running_at(1024)
    balloon.set_target(256, 10, force=False)
    assert balloon.engine_target_bytes == mib(1024)
    assert balloon.reading_due(10)
    balloon.guest_reported(reading(900), mib(1024), 10)
    assert balloon.engine_target_bytes == mib(256)
    assert not balloon.reading_due(10.1)
    assert balloon.reading_due(11)


def test_a_guarded_shrink_ends_at_the_guest_floor_and_says_why() -> None:
    balloon = running_at(1024)
    balloon.set_target(256, 10, force=False)
    balloon.guest_reported(reading(500), mib(1024), 10)
    assert balloon.engine_target_bytes == mib(624)
    balloon.observe(mib(624), 10.5)
    assert state_of(balloon) is State.CONVERGING
    balloon.guest_reported(reading(101), mib(624), 11)
    assert state_of(balloon) is State.CONVERGING, "it may be but a moment"
    balloon.guest_reported(reading(101), mib(624), 11 + GUARD_PATIENCE_S)
    assert state_of(balloon) is State.GUEST_FLOOR
    assert balloon.engine_target_bytes == mib(624)
    assert balloon.status.target_mib == 256
    assert "101 MiB available" in str(balloon.status.detail)


def test_a_moment_of_little_memory_does_not_end_a_shrink() -> None:
    balloon = running_at(1024)
    balloon.set_target(256, 10, force=False)
    balloon.guest_reported(reading(90), mib(1024), 10)
    assert balloon.engine_target_bytes == mib(1024), "meanwhile nothing is taken"
    balloon.guest_reported(reading(900), mib(1024), 10.5)
    assert balloon.engine_target_bytes == mib(256)
    balloon.guest_reported(reading(90), mib(600), 13)
    assert state_of(balloon) is State.CONVERGING


def test_force_and_growth_go_in_one_step_without_asking() -> None:
    balloon = running_at(1024)
    balloon.set_target(256, 10, force=True)
    assert balloon.engine_target_bytes == mib(256)
    assert not balloon.reading_due(10)
    balloon.observe(mib(256), 11)
    balloon.set_target(1000, 12, force=False)
    assert balloon.engine_target_bytes == mib(1000)
    assert not balloon.reading_due(12)


def test_relief_gives_everything_back_in_one_step_and_says_so() -> None:
    balloon = running_at(300)
    assert balloon.relieve("the guest stalls on memory", 20)
    assert balloon.engine_target_bytes == mib(1024)
    balloon.observe(mib(1024), 21)
    assert state_of(balloon) is State.APPLIED
    assert balloon.status.detail == "raised from 300 MiB: the guest stalls on memory"
    assert not balloon.relieve("again", 22)


def test_relief_stops_at_the_hosts_limit() -> None:
    balloon = running_at(300)
    balloon.set_limit(512, 10)
    assert balloon.status.target_mib == 300
    assert balloon.relieve("pressure", 20)
    assert balloon.status.target_mib == 512


def test_a_limit_brings_the_target_down_at_once_and_gives_it_back_when_lifted() -> None:
    balloon = running_at(800)
    balloon.set_limit(400, 10)
    assert (balloon.status.target_mib, balloon.status.requested_mib, balloon.status.limit_mib) == (
        400,
        800,
        400,
    )
    assert balloon.set_target(900, 11).by == "limit"
    balloon.set_limit(None, 12)
    assert balloon.status.target_mib == 900


def test_a_limit_below_the_floor_means_the_floor() -> None:
    balloon = running_at(800)
    balloon.set_limit(10, 10)
    assert balloon.status.target_mib == 128


def test_memory_taken_back_is_asked_for_again_later_and_later() -> None:
    balloon = running_at(300)
    now = 20.0
    waited = []
    for _ in range(3):
        balloon.observe(mib(340), now)
        assert state_of(balloon) is State.GUEST_REFUSED
        wait = balloon.next_look(now)
        assert wait is not None
        waited.append(wait)
        balloon.tick(now + wait - 0.1)
        assert state_of(balloon) is State.GUEST_REFUSED
        now += wait
        balloon.tick(now)
        assert state_of(balloon) is State.CONVERGING
        assert balloon.reading_due(now), "asked again with the guard on"
        balloon.guest_reported(reading(900, now), mib(340), now)
        balloon.observe(mib(300), now + 0.1)
        assert state_of(balloon) is State.APPLIED
    assert waited == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S]


def test_asking_again_does_not_supersede_the_one_who_asked() -> None:
    balloon = running_at(300)
    generation = balloon.status.generation
    balloon.observe(mib(340), 20)
    balloon.tick(20 + RETRY_FIRST_S)
    assert balloon.status.generation == generation


def test_a_squeeze_takes_memory_for_a_moment_and_keeps_the_target() -> None:
    balloon = running_at(1024)
    assert balloon.squeeze(mib(300), until=30, now=20)
    assert (balloon.engine_target_bytes, balloon.status.target_mib) == (mib(300), 1024)
    balloon.observe(mib(1024), 20.1)
    assert state_of(balloon) is State.CONVERGING, "still at the target is not yet done"
    balloon.observe(mib(300), 21)
    assert balloon.engine_target_bytes == mib(1024)
    balloon.observe(mib(1024), 22)
    assert state_of(balloon) is State.APPLIED


def test_a_squeeze_that_gets_nowhere_ends_in_time_and_gives_back() -> None:
    balloon = running_at(1024)
    assert balloon.squeeze(mib(300), until=30, now=20)
    balloon.observe(mib(900), 29)
    balloon.tick(30)
    assert balloon.engine_target_bytes == mib(1024)


def test_a_squeeze_ends_when_the_guest_suffers_or_a_target_is_set() -> None:
    balloon = running_at(1024)
    assert balloon.squeeze(mib(300), until=30, now=20)
    balloon.relieve("pressure", 21)
    assert balloon.engine_target_bytes == mib(1024)
    balloon.observe(mib(1024), 22)
    assert balloon.squeeze(mib(300), until=40, now=30)
    balloon.set_target(500, 31)
    assert balloon.engine_target_bytes == mib(500)
    assert not balloon.squeeze(mib(300), until=50, now=32), "not while on the way"
