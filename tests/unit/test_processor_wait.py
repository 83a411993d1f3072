"""How long an engine waited for a processor, as Linux accounts for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.vmm.processor_wait import ProcessorWait

BUSY = "import os; os.sched_setaffinity(0, [{cpu}]); print(flush=True)\nwhile True: pass"


def test_the_wait_of_the_thread_that_waited_longest_counts_since_the_last_look(tmp_path: Path) -> None:
    def write(**waited_ns: int) -> None:
        for thread, ns in waited_ns.items():
            directory = tmp_path / "7" / "task" / thread.removeprefix("t")
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "schedstat").write_text(f"123 {ns} 45\n")

    write(t7=1_000_000_000, t8=5_000_000_000)
    wait = ProcessorWait(7, tmp_path)
    assert wait.since_last() == 0
    write(t7=3_500_000_000, t8=6_000_000_000, t9=60_000_000_000)
    assert wait.since_last() == 2.5
    assert wait.since_last() == 0


def test_a_process_that_is_gone_has_not_waited(tmp_path: Path) -> None:
    assert ProcessorWait(7, tmp_path).since_last() == 0


def test_two_that_share_one_processor_wait_for_each_other() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel has no schedstat")
    code = BUSY.format(cpu=min(os.sched_getaffinity(0)))
    busy = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for child in busy:
            assert child.stdout is not None
            child.stdout.readline()
        waits = [ProcessorWait(child.pid) for child in busy]
        waited = [0.0, 0.0]
        while min(waited) < 0.1:
            waited = [total + wait.since_last() for total, wait in zip(waited, waits, strict=True)]
    finally:
        for child in busy:
            child.kill()
            child.communicate()
