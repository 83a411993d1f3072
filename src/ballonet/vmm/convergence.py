"""How a balloon approaches its target: a pure state machine. No I/O, no clock: the caller passes the time.

The words are those of the whole project. *Target* is what was asked after clamping; *actual* is what the guest
has; ``applied`` means that actual has reached the target, never anything less. A guest that makes no progress
is ``guest-refused``: from then on the engine is asked for what the guest has already, so that a driver that
cannot allocate does not spin, while the target goes on saying what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ballonet.memory import MIB, bytes_to_mib, mib_to_bytes
from ballonet.vmm.config import BalloonSpec, Clamped

#: A guest that moves less than this …
STALL_RATE_MIB_S = 15
#: … for this long, in seconds, refuses.
STALL_WINDOW_S = 5.0
#: While converging, actual is read at intervals of this share of the time since the target was set …
POLL_SHARE = 0.02
#: … but never more often, or more rarely, than this (seconds).
POLL_MIN_S, POLL_MAX_S = 0.005, 0.25


class State(StrEnum):
    """Where a balloon stands (see the module's text)."""

    CONVERGING = "converging"
    APPLIED = "applied"
    GUEST_REFUSED = "guest-refused"
    NO_DRIVER = "no-driver"
    FAILED = "failed"


class Driver(StrEnum):
    """Whether the guest's driver has taken the device; unknown until the guest is up."""

    UNKNOWN = "unknown"
    PRESENT = "present"
    ABSENT = "absent"


@dataclass(frozen=True)
class BalloonStatus:
    """A balloon at one moment. ``actual_bytes`` is ``None`` until the engine has told it."""

    spec: BalloonSpec
    requested_mib: int
    target_mib: int
    actual_bytes: int | None
    state: State
    #: When the state was entered, on the caller's clock.
    since: float
    driver: Driver
    #: The reason for the state, in words, where there is one.
    detail: str | None
    #: Counts the targets that were set: a waiter that sees another number was superseded.
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
        self._actual: int | None = None
        self._driver = Driver.UNKNOWN
        self._generation = 0
        self._state = State.CONVERGING
        self._since = now
        self._detail: str | None = "the guest is booting"
        self._set_at = now
        self._mark = (now, 0)
        self._engine_target = self._target_bytes

    @property
    def status(self) -> BalloonStatus:
        return BalloonStatus(
            spec=self._spec,
            requested_mib=self._clamped.requested_mib,
            target_mib=self._clamped.effective_mib,
            actual_bytes=self._actual,
            state=self._state,
            since=self._since,
            driver=self._driver,
            detail=self._detail,
            generation=self._generation,
        )

    @property
    def engine_target_bytes(self) -> int:
        """What the engine should be asked for now: the target, or near actual where the guest refused."""
        return self._engine_target

    def poll_interval(self, now: float) -> float | None:
        """Seconds until actual should be read again; ``None`` while nothing moves: then events are enough."""
        if self._state is not State.CONVERGING or self._driver is not Driver.PRESENT:
            return None
        return min(POLL_MAX_S, max(POLL_MIN_S, (now - self._set_at) * POLL_SHARE))

    def set_target(self, requested_mib: int, now: float) -> Clamped:
        """A new target, which supersedes the one before."""
        self._clamped = self._spec.clamp(requested_mib)
        self._generation += 1
        self._set_at = now
        self._engine_target = self._target_bytes
        self._restart(now)
        return self._clamped

    def observe(self, actual_bytes: int, now: float) -> None:
        """The engine told ``actual``: in an event, or when asked."""
        lied = not 0 <= actual_bytes <= mib_to_bytes(self._spec.ceiling_mib)
        self._actual = min(max(actual_bytes, 0), mib_to_bytes(self._spec.ceiling_mib))
        if lied:
            self._enter(
                State.FAILED, now, f"the guest claims an impossible balloon (actual {actual_bytes} bytes)"
            )
        elif self._actual == self._target_bytes:
            self._enter(State.APPLIED, now, None)
        elif self._state is State.APPLIED:
            took = (self._actual - self._target_bytes) / MIB
            way = "took back" if took > 0 else "gave away"
            self._refuse(now, f"the guest {way} {abs(took):.0f} MiB after the target had been reached")
        elif self._state is State.CONVERGING:
            self._watch_progress(now)

    def driver_seen(self, driver: Driver, now: float) -> None:
        """The device's status told whether a driver drives it."""
        if driver is self._driver:
            return
        self._driver = driver
        self._restart(now)

    def tick(self, now: float) -> None:
        """Time has passed without news."""
        if self._state is State.CONVERGING:
            self._watch_progress(now)

    def fail(self, reason: str, now: float) -> None:
        """The engine refused a command, or is gone."""
        self._enter(State.FAILED, now, reason)

    @property
    def _target_bytes(self) -> int:
        return mib_to_bytes(self._clamped.effective_mib)

    @property
    def _distance(self) -> int:
        return abs((self._actual or 0) - self._target_bytes)

    def _restart(self, now: float) -> None:
        """Judge anew from here: a new target, or a driver that came or went."""
        self._mark = (now, self._distance)
        if self._driver is Driver.ABSENT:
            self._enter(State.NO_DRIVER, now, "no driver in the guest has taken the balloon device")
        elif self._actual == self._target_bytes:
            self._enter(State.APPLIED, now, None)
        else:
            booting = self._driver is Driver.UNKNOWN
            self._enter(State.CONVERGING, now, "the guest is booting" if booting else None, restart=True)

    def _watch_progress(self, now: float) -> None:
        if self._driver is not Driver.PRESENT or self._actual is None:
            return  # nothing can be expected of a guest that is still booting
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

    def _refuse(self, now: float, detail: str) -> None:
        if self._actual is not None:
            self._engine_target = self._actual
        self._enter(State.GUEST_REFUSED, now, detail)

    def _enter(self, state: State, now: float, detail: str | None, *, restart: bool = False) -> None:
        if state is not self._state or restart:
            self._since = now
        self._state = state
        self._detail = detail
