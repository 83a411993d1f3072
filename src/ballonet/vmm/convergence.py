"""How a balloon converges to its target: a pure state machine. No I/O and no clock: the caller passes the time.

*Target* is the requested size after clamping; *actual* is what the guest has; ``applied`` means that actual has reached
the target. The *engine's target* is what the device currently has as its target: the target itself; a size above it
during a guarded shrink; or what the guest has already if it refused, so that a driver that cannot allocate does not
spin.
"""

from __future__ import annotations

from enum import StrEnum

from ballonet.base.dataclass import dataclass
from ballonet.base.memory import MIB, bytes_to_mib, mib_to_bytes
from ballonet.vmm.config import BalloonSpec, Clamped
from ballonet.vmm.guard import GuestReading, permit

#: A guest that moves less than this rate …
STALL_RATE_MIB_S = 15
#: … for this time (seconds) counts as refusing.
STALL_WINDOW_S = 5.0
#: Time in which the engine waited for a processor of the host does not count, up to this much for one target (seconds).
EXCUSED_MOST_S = 60.0
#: While converging, actual is read at intervals of this fraction of the time since the target was set …
POLL_SHARE = 0.02
#: … within these bounds (seconds).
POLL_MIN_S, POLL_MAX_S = 0.005, 0.25
#: Interval at which the guest is asked for its statistics during a guarded shrink (seconds).
GUARD_INTERVAL_S = 0.5
#: A shrink ends at the guard if nothing more could be taken for this time (seconds). While pages move, the guest's
#: available memory drops temporarily: free-page reporting isolates up to 64 MiB (32 blocks of 2 MiB,
#: PAGE_REPORTING_CAPACITY), and pages that were just freed are on per-processor lists, which do not count as available.
GUARD_PATIENCE_S = 5.0
#: If the guest took memory back by itself, the target is sent again after this time (seconds), which doubles each time
#: it happens again, up to the second value.
RETRY_FIRST_S, RETRY_MOST_S = 10.0, 300.0


class State(StrEnum):
    """The state of a balloon (see the module's documentation)."""

    CONVERGING = "converging"
    APPLIED = "applied"
    GUEST_REFUSED = "guest-refused"
    GUEST_FLOOR = "guest-floor"
    NO_DRIVER = "no-driver"
    FAILED = "failed"


class Driver(StrEnum):
    """Whether the guest's driver has taken the device; unknown until the guest is up."""

    UNKNOWN = "unknown"
    PRESENT = "present"
    ABSENT = "absent"


@dataclass(frozen=True)
class BalloonStatus:
    """A balloon at one moment. ``actual_bytes`` is ``None`` until the engine has reported it."""

    spec: BalloonSpec
    requested_mib: int
    target_mib: int
    limit_mib: int | None
    actual_bytes: int | None
    state: State
    #: When the state was entered, on the caller's clock.
    since: float
    driver: Driver
    #: The reason for the state, for a person, if there is one.
    detail: str | None
    #: Counts the targets that were set. A waiter that sees a higher number was superseded.
    generation: int

    @property
    def actual_mib(self) -> int | None:
        """What the guest has, in whole MiB."""
        return None if self.actual_bytes is None else bytes_to_mib(self.actual_bytes)


class Convergence:
    """Follows one balloon from target to target."""

    def __init__(self, spec: BalloonSpec, now: float) -> None:
        self._spec = spec
        self._clamped = Clamped(spec.initial_mib, spec.initial_mib, None)
        self._limit: int | None = None
        self._actual: int | None = None
        self._driver = Driver.UNKNOWN
        self._generation = 0
        self._state = State.CONVERGING
        self._since = now
        self._detail: str | None = "the guest is booting"
        #: Why the target was set, if no client set it; shown as detail when there is nothing else.
        self._note: str | None = None
        self._set_at = now
        self._mark = (now, 0)
        self._excusable_s = EXCUSED_MOST_S
        self._engine_target = self._target_bytes
        self._guarded = False
        self._reading: GuestReading | None = None
        self._reading_due = 0.0
        self._held_since: float | None = None
        #: What the last :meth:`squeeze` did not reach before its time was over (bytes).
        self.squeeze_missed_bytes = 0
        self._squeeze: tuple[int, float] | None = None
        self._retry_at: float | None = None
        self._retry_s = RETRY_FIRST_S

    @property
    def status(self) -> BalloonStatus:
        return BalloonStatus(
            spec=self._spec,
            requested_mib=self._clamped.requested_mib,
            target_mib=self._clamped.effective_mib,
            limit_mib=self._limit,
            actual_bytes=self._actual,
            state=self._state,
            since=self._since,
            driver=self._driver,
            detail=self._detail,
            generation=self._generation,
        )

    @property
    def engine_target_bytes(self) -> int:
        """The target that the engine should have now (see the module's documentation)."""
        return self._engine_target

    def next_look(self, now: float) -> float | None:
        """Seconds until actual should be read or a target sent again; ``None``: events are enough."""
        if self._state is State.CONVERGING and self._driver is Driver.PRESENT:
            return min(POLL_MAX_S, max(POLL_MIN_S, (now - self._set_at) * POLL_SHARE))
        if self._retry_at is not None:
            return max(0.0, self._retry_at - now)
        return None

    def reading_due(self, now: float) -> bool:
        """Whether the guest's statistics are needed now, to continue a guarded shrink."""
        moving = self._state is State.CONVERGING and self._driver is Driver.PRESENT
        return moving and self._guarded and now >= self._reading_due

    def set_target(self, requested_mib: int, now: float, *, force: bool = True) -> Clamped:
        """Set a target, which supersedes the previous one. ``force``: a shrink does not stop at the guard."""
        self._note = None
        self._retry_s = RETRY_FIRST_S
        self._aim(requested_mib, now, force)
        return self._clamped

    def set_limit(self, limit_mib: int | None, now: float) -> None:
        """Limit targets. The current one is lowered to the limit, or raised again to what was requested."""
        self._limit = limit_mib
        if (
            self._spec.clamp(self._clamped.requested_mib, limit_mib).effective_mib
            != self._clamped.effective_mib
        ):
            self.set_target(self._clamped.requested_mib, now, force=False)

    def relieve(self, reason: str, now: float) -> bool:
        """Give the guest all memory up to the limit back, in one step. False if it has it already."""
        if self._squeeze is not None:
            self._end_squeeze(now)
        most = self._spec.clamp(self._spec.ceiling_mib, self._limit).effective_mib
        if self._clamped.effective_mib >= most:
            return False
        before = self._clamped.effective_mib
        self._aim(self._spec.ceiling_mib, now, force=True)
        self._note = self._detail = f"raised from {before} MiB: {reason}"
        return True

    def squeeze(self, lowest_bytes: int, until: float, now: float) -> bool:
        """Inflate to ``lowest_bytes`` for a short time, then deflate, so that the host gets free memory back.

        The target does not change. Ends when actual is reached, at ``until``, or when the guest needs relief. False:
        the balloon is still moving, or there is nothing to take.
        """
        if self._state is not State.APPLIED or self._actual is None or lowest_bytes >= self._actual:
            return False
        self._squeeze = (lowest_bytes, until)
        self.squeeze_missed_bytes = 0
        self._engine_target = lowest_bytes
        self._set_at = now
        self._enter(State.CONVERGING, now, "trimming: free memory is being taken temporarily")
        return True

    def _end_squeeze(self, now: float) -> None:
        self._squeeze = None
        self._set_at = now
        self._engine_target = self._target_bytes
        self._mark = (now, self._distance)
        self._detail = "trimmed: memory is being given back"

    def observe(self, actual_bytes: int, now: float) -> None:
        """The engine reported ``actual``."""
        lied = not 0 <= actual_bytes <= mib_to_bytes(self._spec.ceiling_mib)
        self._actual = min(max(actual_bytes, 0), mib_to_bytes(self._spec.ceiling_mib))
        if lied:
            reason = f"the guest claims an impossible balloon (actual {actual_bytes} bytes)"
            self._enter(State.FAILED, now, reason)
        elif self._squeeze is not None:
            if self._actual <= self._squeeze[0]:
                self._end_squeeze(now)
        elif self._driver is Driver.ABSENT:
            pass  # one that has just come back may be quicker than the next look at the device's status
        elif self._actual == self._target_bytes:
            self._guarded = False
            self._retry_at = None
            self._engine_target = self._target_bytes
            self._enter(State.APPLIED, now, self._note)
        elif self._state is State.APPLIED:
            self._drifted(now)
        elif self._state is State.CONVERGING:
            self._watch_progress(now)

    def guest_reported(self, reading: GuestReading, actual_before: int, now: float) -> None:
        """The guest's statistics, read because of :meth:`reading_due`: continue, or stop at the guard."""
        if not self._guarded or self._state is not State.CONVERGING:
            return
        before, self._reading = self._reading, reading
        self._reading_due = now + GUARD_INTERVAL_S
        permission = permit(self._target_bytes, actual_before, self._spec.guard_mib, reading, before)
        if permission.lowest_bytes < actual_before:
            if permission.lowest_bytes < self._engine_target:
                self._mark = (now, self._distance)
            self._engine_target = permission.lowest_bytes
            self._held_since = None
            return
        self._engine_target = self._actual if self._actual is not None else actual_before
        self._mark = (now, self._distance)  # the guard stops it, not the guest
        if self._held_since is None:
            self._held_since = now
        elif now - self._held_since >= GUARD_PATIENCE_S:
            self._enter(State.GUEST_FLOOR, now, permission.reason)

    def engine_waited(self, seconds: float, now: float) -> None:
        """The host was too busy to run the engine for ``seconds``: the guest has that much longer to make progress."""
        marked_at, marked_distance = self._mark
        excused = min(seconds, now - marked_at, self._excusable_s)
        self._excusable_s -= excused
        self._mark = (marked_at + excused, marked_distance)

    def driver_seen(self, driver: Driver, now: float) -> None:
        """The device's status shows whether a driver uses it."""
        if driver is self._driver:
            return
        self._driver = driver
        self._restart(now)

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self._squeeze is not None:
            if now >= self._squeeze[1]:
                self.squeeze_missed_bytes = (self._actual or 0) - self._squeeze[0]
                self._end_squeeze(now)
        elif self._state is State.CONVERGING:
            self._watch_progress(now)
        elif self._retry_at is not None and now >= self._retry_at:
            self._retry_s = min(RETRY_MOST_S, self._retry_s * 2)
            self._aim(self._clamped.requested_mib, now, force=False, keep_generation=True)
            self._detail = "set again after the guest took memory back"

    def fail(self, reason: str, now: float) -> None:
        """The engine refused a command, or has ended."""
        self._retry_at = None
        self._enter(State.FAILED, now, reason)

    @property
    def _target_bytes(self) -> int:
        return mib_to_bytes(self._clamped.effective_mib)

    @property
    def _distance(self) -> int:
        return abs((self._actual or 0) - self._target_bytes)

    def _aim(self, requested_mib: int, now: float, force: bool, *, keep_generation: bool = False) -> None:
        self._clamped = self._spec.clamp(requested_mib, self._limit)
        self._generation += 0 if keep_generation else 1
        self._set_at = now
        self._excusable_s = EXCUSED_MOST_S
        self._retry_at = None
        self._reading = None
        self._reading_due = now
        self._held_since = None
        self._squeeze = None
        shrinks = self._actual is not None and self._target_bytes < self._actual
        self._guarded = shrinks and not force and self._spec.guard_mib > 0
        # A guarded shrink begins only when the guest has reported its available memory.
        self._engine_target = self._actual if self._guarded and self._actual else self._target_bytes
        self._restart(now)

    def _restart(self, now: float) -> None:
        """Start from here: for a new target, or when a driver came or went."""
        self._mark = (now, self._distance)
        if self._driver is Driver.ABSENT:
            self._engine_target = self._target_bytes  # for a driver that comes back
            self._retry_at = None
            self._enter(State.NO_DRIVER, now, "no driver in the guest has taken the balloon device")
        elif self._actual == self._target_bytes:
            self._enter(State.APPLIED, now, self._note)
        else:
            booting = self._driver is Driver.UNKNOWN
            self._enter(State.CONVERGING, now, "the guest is booting" if booting else None, restart=True)

    def _watch_progress(self, now: float) -> None:
        if self._driver is not Driver.PRESENT or self._actual is None:
            return  # the guest is still booting
        marked_at, marked_distance = self._mark
        if marked_distance - self._distance >= STALL_RATE_MIB_S * STALL_WINDOW_S * MIB:
            self._mark = (now, self._distance)
        elif now - marked_at >= STALL_WINDOW_S:
            missing = self._distance / MIB
            self._refuse(
                now,
                f"no progress for {STALL_WINDOW_S:g} s (less than {STALL_RATE_MIB_S} MiB/s), "
                f"{missing:.0f} MiB short of the target",
            )

    def _drifted(self, now: float) -> None:
        """Actual left the target that it had reached: only the guest does that, when it needs memory or is hostile."""
        assert self._actual is not None
        moved = (self._actual - self._target_bytes) / MIB
        if moved < 0:
            self._refuse(now, f"the guest gave up {-moved:.0f} MiB after the target had been reached")
            return
        self._refuse(
            now, f"the guest took back {moved:.0f} MiB after the target had been reached (out of memory)"
        )
        self._retry_at = now + self._retry_s

    def _refuse(self, now: float, detail: str) -> None:
        if self._actual is not None:
            self._engine_target = self._actual
        self._enter(State.GUEST_REFUSED, now, detail)

    def _enter(self, state: State, now: float, detail: str | None, *, restart: bool = False) -> None:
        if state is not self._state or restart:
            self._since = now
        self._state = state
        self._detail = detail
