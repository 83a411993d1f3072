"""Whether a guest is at work when a snapshot of it is made: seen at processes that stand for its engine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.machine.snapshotting import _works
from tests.unit.test_processor_wait import BUSY

#: Processes that all compute on one processor: each gets a twelfth of it, far less than a quarter.
CROWD = 12
IDLE = "import time; print(flush=True); time.sleep(1000)"


@contextlib.contextmanager
def running(*codes: str) -> Iterator[list[int]]:
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in codes]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()


async def test_one_that_works_is_seen_although_it_gets_little_of_a_processor() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("this kernel has no schedstat")
    code = BUSY.format(cpu=min(os.sched_getaffinity(0)))
    with running(*[code] * CROWD) as pids:
        assert await _works(pids[0])


async def test_one_that_sleeps_does_not_work_and_one_that_has_ended_may() -> None:
    with running(IDLE) as pids:
        assert not await _works(pids[0])
    assert await _works(pids[0])
