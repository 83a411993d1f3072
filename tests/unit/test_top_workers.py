"""What top remembers of each sandbox's last minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ballonet.cli.top_bars import WINDOW_S
from ballonet.cli.top_source import ThisHost
from ballonet.cli.top_workers import Trails
from ballonet.lifecycle.samples import history_path
from ballonet.metrics.history import HistoryWriter
from ballonet.metrics.model import SandboxSample

SAMPLE = SandboxSample(
    name="box", state="running", run_id="b", at=1000.0, guest_ram=50, actual=100, target=100
)


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def held(trails: Trails) -> list[tuple[float, int | None]]:
    return [(point.at, point.held) for point in trails.by_name().get("box", ())]


def test_a_trail_begins_with_the_history_of_this_run() -> None:
    path = history_path("box")
    path.parent.mkdir(parents=True)
    writer = HistoryWriter(path)
    for at, run in ((100, "a"), (380, "b"), (390, "b"), (950, "a"), (990, "b")):
        writer.write(replace(SAMPLE, at=float(at), guest_ram=at, run_id=run))
    writer.close()
    trails = Trails(ThisHost())
    trails.add([SAMPLE])
    assert held(trails) == [(390, 390), (990, 990), (1000, 50)], (
        "the one before the window holds at its beginning"
    )


def test_a_trail_keeps_the_window_and_the_most_of_what_is_close_together() -> None:
    trails = Trails(ThisHost())
    for at, size in ((1000, 1), (1000.5, 9), (1001, 2), (1004, 3), (1004 + WINDOW_S + 1, 4)):
        trails.add([replace(SAMPLE, at=float(at), guest_ram=size)])
    assert held(trails) == [(1004, 3), (1005 + WINDOW_S, 4)]


def test_a_trail_ends_with_its_run() -> None:
    trails = Trails(ThisHost())
    trails.add([SAMPLE])
    trails.add([replace(SAMPLE, run_id="c", at=1010.0)])
    assert held(trails) == [(1010, 50)]
    trails.add([replace(SAMPLE, run_id="c", state="stopped")])
    assert held(trails) == []
