"""How long an engine's threads have waited for a processor of the host: what a slow guest is not to blame for."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


class ProcessorWait:
    """Accounts for the time that the threads of one process were ready to run and did not run.

    The source is the second figure of ``/proc/PID/task/TID/schedstat`` (nanoseconds; Linux,
    Documentation/scheduler/sched-stats.rst). Where the kernel does not offer it, the time is 0.
    """

    def __init__(self, pid: int, proc: Path = PROC) -> None:
        self._tasks = proc / str(pid) / "task"
        self._before = self._read()

    def since_last(self) -> float:
        """Seconds since the last call (or the construction), of the thread that waited longest."""
        before, self._before = self._before, self._read()
        waits = [ns - before[thread] for thread, ns in self._before.items() if thread in before]
        return max([0, *waits]) / 1e9

    def _read(self) -> dict[str, int]:
        waited = {}
        try:
            for thread in self._tasks.iterdir():
                waited[thread.name] = int((thread / "schedstat").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            pass  # a thread or the process has ended, or the kernel has no such accounting
        return waited
