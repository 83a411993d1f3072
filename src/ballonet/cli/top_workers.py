"""The threads of ``ballonet top`` that query and change sandboxes, so that a stuck sandbox does not block the keys."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from ballonet.base.errors import BallonetError
from ballonet.cli.top_bars import WINDOW_S, Point, point_of
from ballonet.cli.top_source import Balloon, Source
from ballonet.control.backend import TrimRequest
from ballonet.metrics.model import SandboxSample, Snapshot

#: How long one sandbox may take to answer (seconds).
_DEADLINE_S = 1.0
_MOVE_S = 5.0
_TRIM_S = 30.0
#: One key grows or shrinks by this share of the ceiling.
_STEP_SHARE = 8
#: Points closer together than this are merged: a cell of a chart covers more time (seconds).
_LEAST_APART_S = 2.0


class Trails:
    """Each sandbox's memory over the last :data:`~ballonet.cli.top_bars.WINDOW_S`: the end of its history, read once,
    and every sample since."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._trails: dict[tuple[str, str | None], deque[Point]] = {}

    def add(self, samples: Sequence[SandboxSample]) -> None:
        found = {}
        for sample in samples:
            if sample.state == "running":
                key = sample.name, sample.run_id
                found[key] = self._trails.get(key) or self._from_history(sample)
                _append(found[key], point_of(sample))
        self._trails = found

    def by_name(self) -> Mapping[str, Sequence[Point]]:
        return {name: tuple(trail) for (name, _), trail in self._trails.items()}

    def _from_history(self, sample: SandboxSample) -> deque[Point]:
        return deque(point_of(one) for one in self._source.earlier(sample, sample.at - WINDOW_S))


def _append(trail: deque[Point], point: Point) -> None:
    if len(trail) > 1 and point.at - trail[-2].at < _LEAST_APART_S:
        most = max((held for held in (trail[-1].held, point.held) if held is not None), default=None)
        trail[-1] = point._replace(held=most)
    else:
        trail.append(point)
    # The first point may be older than the window: it is in force until the second one.
    while len(trail) > 1 and trail[1].at < point.at - WINDOW_S:
        trail.popleft()


class Collector:
    """Collects the figures of all sandboxes periodically, in a thread.

    :param ring: called after each update.
    """

    def __init__(self, source: Source, interval_s: float, ring: Callable[[], None]) -> None:
        self._source = source
        self._interval_s = interval_s
        self._ring = ring
        self._due = threading.Event()
        self._history = Trails(source)
        self.snapshot: Snapshot | None = None
        self.trails: Mapping[str, Sequence[Point]] = {}
        self.error = ""
        self.version = 0
        threading.Thread(target=self._run, name="collector", daemon=True).start()

    def update_now(self) -> None:
        self._due.set()

    def _run(self) -> None:
        while True:
            self._due.clear()
            try:
                snapshot, self.error = self._source.collect(_DEADLINE_S)
                self._history.add(snapshot.sandboxes)
                self.trails, self.snapshot = self._history.by_name(), snapshot
            except BallonetError as error:
                self.error = error.message
            except Exception as error:  # the thread must survive: the next update may succeed
                self.error = f"the figures cannot be read: {type(error).__name__}: {error}"
            self.version += 1
            self._ring()
            self._due.wait(self._interval_s)


class Actor:
    """Performs the actions of keys, each in a thread, one at a time for each sandbox.

    :param done: called after each action.
    """

    def __init__(self, source: Source, done: Callable[[], None]) -> None:
        self._source = source
        self._done = done
        self._busy: dict[str, str] = {}
        #: The results of actions, as messages to show.
        self.results: queue.SimpleQueue[str] = queue.SimpleQueue()

    def grow(self, name: str | None) -> str:
        """Start the action; returns the message to show meanwhile."""
        return self._act(name, "growing", lambda balloon: _move(balloon, 1), _MOVE_S)

    def shrink(self, name: str | None) -> str:
        return self._act(name, "shrinking", lambda balloon: _move(balloon, -1), _MOVE_S)

    def trim(self, name: str | None) -> str:
        return self._act(name, "trimming", _trim, _TRIM_S + _MOVE_S)

    def _act(self, name: str | None, what: str, do: Callable[[Balloon], str], deadline_s: float) -> str:
        if name is None:
            return "Select a sandbox first (up, down)"
        if name in self._busy:
            return f"{name}: still {self._busy[name]}, please wait"
        self._busy[name] = what

        def work() -> None:
            try:
                with self._source.balloon(name, deadline_s) as balloon:
                    result = "the sandbox has no balloon" if balloon is None else do(balloon)
            except BallonetError as error:
                result = error.message + (f" ({error.hint})" if error.hint else "")
            except Exception as error:  # must not leave the sandbox marked as busy
                result = f"{what} failed: {type(error).__name__}: {error}"
            del self._busy[name]
            self.results.put(result if result.startswith(name) else f"{name}: {result}")
            self._done()

        threading.Thread(target=work, name=f"act on {name}", daemon=True).start()
        return f"{name}: {what}"


def _move(balloon: Balloon, direction: int) -> str:
    now = balloon.get()
    step = max(16, now.ceiling_mib // _STEP_SHARE)
    reply = balloon.set(max(0, now.target_mib + direction * step))
    clamped = f", limited by the {reply.clamped}" if reply.clamped else ""
    return f"target {reply.target_mib} MiB{clamped}"


def _trim(balloon: Balloon) -> str:
    result = balloon.trim(TrimRequest(timeout_s=_TRIM_S))
    returned = "an unknown amount" if result.returned_mib is None else f"{result.returned_mib} MiB"
    return f"returned {returned} to the host" + (f" ({result.detail})" if result.detail else "")
