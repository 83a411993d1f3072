"""A modelled guest: its memory, page cache, balloon and stalls. Deterministic; time is passed in.

For speed this uses plain floats in one object with slots and few calls: a simulation takes millions of steps.
``docs/simulator.md`` describes what is modelled, what is not, and the sources of the constants.
"""

from __future__ import annotations

from ballonet.pilot.model import SandboxView
from ballonet.pilot.simulator.behaviour import Kind
from ballonet.pilot.simulator.physics import Physics
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.vmm.convergence import STALL_RATE_MIB_S, STALL_WINDOW_S
from ballonet.vmm.guard import default_guard_mib


class Guest:
    """The state of a guest. Sizes are MiB; totals are since the start."""

    __slots__ = (
        "actual",
        "anon",
        "below_s",
        "busy_s",
        "ceiling",
        "cpu_s",
        "debt_s",
        "drop_left",
        "faults",
        "fragments",
        "goal",
        "guard",
        "hot",
        "hot_ever",
        "hot_want",
        "io_mib",
        "is_busy",
        "kernel",
        "kills",
        "loose",
        "lost_s",
        "next_at",
        "once",
        "oom_deflated",
        "other_s",
        "physics",
        "point",
        "progress_at",
        "progress_mib",
        "read_rate",
        "refaulted",
        "relieved",
        "report_at",
        "reporting",
        "slope",
        "spec",
        "stall_s",
        "starving_s",
        "state",
        "target",
        "window",
        "work_base",
        "work_from",
    )  # fmt: skip

    def __init__(self, spec: GuestSpec, physics: Physics, *, reporting: bool) -> None:
        self.spec = spec
        self.physics = physics
        self.reporting = reporting
        self.ceiling = float(spec.ceiling_mib)
        self.target = spec.ceiling_mib if spec.initial_mib is None else spec.initial_mib
        self.actual = float(self.target)
        self.goal = self.actual
        self.guard = float(default_guard_mib(spec.ceiling_mib) if spec.guard_mib is None else spec.guard_mib)
        self.kernel = physics.kernel_mib + spec.ceiling_mib * physics.kernel_share
        first = spec.trace.points[0]
        room = max(0.0, self.actual - self.kernel - physics.watermark_mib)
        self.anon = min(first.work_mib, room)
        self.once = min(spec.caches_mib, room - self.anon)
        self.hot = self.hot_ever = 0.0
        self.fragments = self.loose = 0.0
        self.report_at = -1.0
        self.state = "applied"
        self.progress_at, self.progress_mib = 0.0, self.actual
        self.point = -1
        self.next_at = self.work_from = 0.0
        self.work_base, self.slope, self.hot_want, self.read_rate = first.work_mib, 0.0, 0.0, 0.0
        self.is_busy = True
        self.below_s = self.busy_s = self.lost_s = self.stall_s = self.faults = self.refaulted = (
            self.window
        ) = 0.0
        self.starving_s = self.oom_deflated = 0.0
        #: Of the engine: processor time and transfers. Time that is still to be lost: by the work's page faults on the
        #: host, and to others in the guest. What a gentle trim has still to drop.
        self.cpu_s = self.io_mib = self.debt_s = self.other_s = self.drop_left = 0.0
        self.kills = 0
        self.relieved = False

    @property
    def free(self) -> float:
        """Free memory in the guest."""
        return self.actual - self.kernel - self.anon - self.once - self.hot

    @property
    def resident(self) -> float:
        """Host memory that it holds: what it uses, and what it freed without reporting it."""
        return self.kernel + self.anon + self.once + self.hot + self.fragments + self.loose

    def set_target(self, target_mib: int, at_s: float) -> None:
        """Like the control socket: clamp the target and pass it to the engine."""
        spec = self.spec
        self.target = min(spec.ceiling_mib, max(spec.floor_mib, target_mib))
        self.goal = float(self.target)
        self.state = "applied" if abs(self.goal - self.actual) < 1.0 else "converging"
        self.progress_at, self.progress_mib = at_s, self.actual

    def view(self, at_s: float) -> SandboxView:
        """What the autopilot's loop would observe."""
        spec = self.spec
        free = self.free
        caches = self.once + self.hot
        stall_us = int(self.stall_s * 1e6)
        resident = int(self.resident)
        return SandboxView(
            spec.name,
            spec.ceiling_mib,
            spec.floor_mib,
            self.target,
            int(self.actual),
            self.state,
            spec.weight,
            spec.reserve_mib,
            resident,
            resident,
            spec.ceiling_mib,
            int(free),
            max(0, int(free + caches - self.physics.watermark_mib)),
            int(caches),
            0.0,
            stall_us,
            stall_us,
            int(self.faults),
            self.kills,
            int(self.refaulted),
            at_s,
            guest_inactive_mib=int(self.once),
            engine_cpu_s=self.cpu_s,
            engine_io_mib=int(self.io_mib),
        )

    def step(self, at_s: float, dt: float) -> None:
        """Advance by ``dt`` from ``at_s``."""
        if at_s >= self.next_at:
            self._next_point(at_s)
        physics = self.physics
        stalled = 0.0
        cost = 0.0
        if self.actual != self.goal:
            cost = self._move_balloon(at_s, dt)
        # What the work allocates, or frees.
        want = self.work_base + self.slope * (at_s - self.work_from)
        anon = self.anon
        self.cpu_s += cost + (dt if self.is_busy or want != anon else physics.idle_cpu * dt)
        short = False
        if want < anon:
            freed = anon - want
            self.anon = want
            self.fragments += freed * physics.fragmented
            self.loose += freed - freed * physics.fragmented
        elif want > anon:
            need = want - anon
            most = physics.allocate_mib_s * dt
            if need > most:
                need = most
            reclaimed = self.once + self.hot
            got, fresh = self._take(need)
            self.anon = anon + got
            self.debt_s += fresh / physics.touch_mib_s
            reclaimed -= self.once + self.hot
            if reclaimed > 0.0:
                took_s = reclaimed / physics.reclaim_mib_s - dt
                stalled = took_s if took_s > 0.0 else 0.0
            if got < need - 0.01:
                short = True
                stalled += (dt - stalled) * (1 - got / need) if stalled < dt else 0.0
                if self.once + self.hot < 1.0:
                    stalled += self._starve(need - got, at_s, dt)
            else:
                self.starving_s = 0.0
        else:
            self.starving_s = 0.0
        hot = self.hot_want
        if hot > self.hot:
            lost = self._read_again(hot, dt)
            stalled += lost
            if lost > 0.05 * dt:
                short = True
        if self.read_rate > 0.0:
            self._read_once(self.read_rate * dt)
        if self.loose > 0.0 and self.reporting:
            if self.report_at < 0.0:
                self.report_at = at_s + physics.report_delay_s
            elif at_s >= self.report_at:
                self.other_s += self.loose / physics.report_mib_s
                self.loose = 0.0
                self.report_at = -1.0
        if stalled > dt:
            stalled = dt
        if short:
            self.below_s += dt
        if self.drop_left > 0.0:
            self._drop_gently(dt)
        if self.is_busy:
            self.busy_s += dt
            cost += stalled
            if self.other_s > 0.0:
                # Both get half of the processor: the work takes twice as long, or longer, because of common locks.
                self.other_s -= (taken := self.other_s if self.other_s < dt else dt)
                self.lost_s += taken * physics.contention
            self.lost_s += self.debt_s + (cost if cost < dt else dt)
            self.debt_s = 0.0
        else:
            self.debt_s = 0.0
            if self.other_s > 0.0:
                taken = self.other_s if self.other_s < dt else dt
                self.other_s -= taken
                self.cpu_s += taken
        self.stall_s += stalled
        if stalled > 0.0 or self.window > 0.0:
            self.window = self.window * (1 - dt / physics.relief_window_s) + stalled
            if self.window >= physics.relief_stall_s and self.spec.relief and self.target < self.ceiling:
                self.relieved = True
            elif self.window < 1e-4:
                self.window = 0.0

    def relieve(self, at_s: float) -> None:
        """Pressure relief by the sandbox's process: back to the ceiling in one step."""
        self.relieved = False
        self.window = 0.0
        self.set_target(self.spec.ceiling_mib, at_s)

    def trim(self, mib: float, gentle: bool = False) -> None:
        """Drop this much of the caches, files read once first. The freed memory is reported like any other.

        :param gentle: only while the work rests, and slowly.
        """
        if gentle:
            self.drop_left = mib
            return
        self._drop(mib)
        self.other_s += mib / self.physics.trim_mib_s + self.actual / self.physics.compact_mib_s

    def _drop_gently(self, dt: float) -> None:
        if self.is_busy:
            self.drop_left = 0.0  # the agent ends it
            return
        # Compaction, too, runs only while the work rests, so that it costs the work nothing.
        self.cpu_s += self.physics.gentle_share * dt
        mib = min(self.drop_left, self.physics.trim_mib_s * self.physics.gentle_share * dt)
        self._drop(mib)
        self.drop_left -= mib
        if self.drop_left <= 0.0:
            self.loose += (joined := self.fragments * self.physics.compacted)
            self.fragments -= joined

    def _drop(self, mib: float) -> None:
        once = min(mib, self.once)
        hot = min(mib - once, self.hot)
        self.once -= once
        self.hot -= hot
        self.fragments += (once + hot) * self.physics.trim_fragmented
        self.loose += (once + hot) * (1 - self.physics.trim_fragmented)

    def _next_point(self, at_s: float) -> None:
        points = self.spec.trace.points
        while self.point + 1 < len(points) and points[self.point + 1].at_s <= at_s:
            self.point += 1
        here = points[max(0, self.point)]
        self.work_base, self.work_from = here.work_mib, here.at_s
        self.hot_want, self.read_rate, self.is_busy = here.hot_mib, here.read_mib_s, here.busy
        if self.point + 1 < len(points):
            after = points[self.point + 1]
            self.next_at = after.at_s
            self.slope = (
                (after.work_mib - here.work_mib) / (after.at_s - here.at_s) if self.point >= 0 else 0.0
            )
        else:
            self.next_at, self.slope = float("inf"), 0.0

    def _move_balloon(self, at_s: float, dt: float) -> float:
        """Move one step towards the goal; returns the guest time that it cost."""
        physics = self.physics
        actual, goal = self.actual, self.goal
        if goal < actual:
            most = physics.inflate_mib_s * dt
            room = self.free + self.once + self.hot - physics.watermark_mib - self.guard
            if most > room:
                most = max(0.0, room)
            reached = self.spec.behaviour.reach(actual, goal, most, at_s)
            if reached < actual:
                self._take(actual - reached)
            cost = (actual - reached) / physics.inflate_mib_s
        else:
            reached = self.spec.behaviour.reach(actual, goal, physics.deflate_mib_s * dt, at_s)
            cost = (reached - actual) / physics.deflate_mib_s
        self.actual = reached
        if abs(goal - reached) < 1.0 and self.spec.behaviour.kind is Kind.IDEAL:
            self.actual = goal
            self.state = "applied"
        elif reached == goal:
            self.state = "applied"
        elif abs(reached - self.progress_mib) >= STALL_RATE_MIB_S * STALL_WINDOW_S:
            self.progress_at, self.progress_mib = at_s, reached
        elif at_s - self.progress_at >= STALL_WINDOW_S:
            guarded = goal < reached and self.spec.behaviour.kind is Kind.IDEAL
            self.state = "guest-floor" if guarded else "guest-refused"
            self.goal = reached
        return cost * physics.balloon_cost

    def _take(self, need: float) -> tuple[float, float]:
        """Take ``need`` from free memory, then from caches; returns what was taken, and the part new to the host.

        Small blocks are taken first, then blocks that the host still backs, then blocks that it must allocate.
        """
        physics = self.physics
        free = self.actual - self.kernel - self.anon - self.once - self.hot
        spare = free - physics.watermark_mib
        got = need if need <= spare else max(0.0, spare)
        rest = got
        part = rest if rest < self.fragments else self.fragments
        self.fragments -= part
        rest -= part
        part = rest if rest < self.loose else self.loose
        self.loose -= part
        rest -= part
        if got < need:
            short = need - got
            part = short if short < self.once else self.once
            self.once -= part
            got += part
            if part < short and self.hot > 0.0:
                part = short - part if short - part < self.hot else self.hot
                self.hot -= part
                got += part
        return got, rest

    def _starve(self, lacking: float, at_s: float, dt: float) -> float:
        """Nothing is left to reclaim: the balloon deflates, or a process is killed; returns the time that it cost."""
        physics = self.physics
        self.starving_s += dt
        if self.actual < self.goal - 1.0 or self.starving_s <= physics.oom_after_s:
            return 0.0
        if self.spec.deflate_on_oom and self.actual < self.ceiling - 1.0:
            back = min(lacking, physics.oom_deflate_mib_s * dt, self.ceiling - self.actual)
            reached = self.spec.behaviour.reach(self.actual, self.actual + back, back, at_s)
            self.oom_deflated += reached - self.actual
            self.actual = self.goal = reached  # it stays there until a target is sent again
            return 0.0
        self.kills += 1
        self.starving_s = 0.0
        self.fragments += self.anon * physics.fragmented
        self.loose += self.anon * (1 - physics.fragmented)
        self.anon = 0.0
        return dt

    def _read_again(self, hot: float, dt: float) -> float:
        """Load the files that the work reads repeatedly; returns the time lost to rereading reclaimed ones."""
        physics = self.physics
        missing = hot - self.hot
        known = self.hot_ever if self.hot_ever < hot else hot
        again = known - self.hot
        lost = 0.0
        if again > 0.0:
            share = again / physics.reread_s / physics.disk_mib_s
            lost = share / (1 + share) * dt
            self.refaulted += again / physics.reread_s * dt
            self.io_mib += again / physics.reread_s * dt
            self.faults += again / physics.reread_s * dt * physics.faults_per_mib
        fetched = missing / physics.reread_s * (dt - lost)
        room = self.free - physics.watermark_mib
        if fetched > room + self.once:
            fetched = max(0.0, room + self.once)
        got, _ = self._take(fetched)
        self.hot += got
        if self.hot > self.hot_ever:
            self.hot_ever = self.hot
        return lost

    def _read_once(self, size: float) -> None:
        """Files read once fill the free memory and then replace other files read once."""
        self.io_mib += size
        files = self.spec.files_mib
        if files is not None and self.once + size > files:
            self.once -= (old := min(self.once, self.once + size - files))
            self.loose += old
        room = self.free - self.physics.watermark_mib
        if room > 0.0:
            got, fresh = self._take(size if size < room else room)
            self.debt_s += fresh / self.physics.touch_mib_s
            self.once += got
