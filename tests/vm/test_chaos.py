"""Chaos, for two minutes: see ``tests/chaos``. Each time another seed; a failure says which, and how to do it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.regressions import REGRESSIONS, Regression

pytestmark = pytest.mark.extended

#: Steps that are begun when the time is over are done to their ends, and then all is removed (seconds).
_END_S = 400


def chaos(*words: str) -> None:
    """Run the program by itself, with its own directories; what it says is the failure."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", *words],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = child.communicate(timeout=120 + _END_S)
    except BaseException:
        child.send_signal(signal.SIGTERM)  # it ends all that it has started
        child.communicate()
        raise
    assert child.returncode == 0, said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_minutes_of_chaos_leave_nothing_and_nothing_is_lost(guest: object) -> None:
    seed = os.environ.get("CHAOS_SEED")
    chaos("--seconds", "120", "--freeze", "5", *(["--seed", seed] if seed else []))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("known", REGRESSIONS, ids=lambda known: known.script.partition(",")[0])
def test_what_chaos_once_found_stays_right(guest: object, known: Regression) -> None:
    chaos(*known.words)
