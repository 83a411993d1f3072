"""Compares the tables, columns and formats in ``docs/metrics.md`` with the code."""

from __future__ import annotations

import re
from pathlib import Path

from ballonet.base.memory import MIB
from ballonet.lifecycle.samples import DEADLINE_S, GUEST_AGE_S, OVERALL_S
from ballonet.machine.sampler import BUSY_BYTES, BUSY_SHARE, HEARTBEAT_S, PRESSURE_US, Pace
from ballonet.metrics.columns import COLUMNS
from ballonet.metrics.figures import HOST_FIGURES, SANDBOX_FIGURES, STORED_FIGURES, Figure
from ballonet.metrics.history import FIELDS, SLOT_BYTES, SLOTS, STATES
from ballonet.metrics.model import STALE_S
from tests.monitoring import documented_queries
from tests.unit.test_monitoring import metric_names

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()


def line(figure: Figure) -> str:
    ending = "_total" if figure.kind == "counter" else ""
    return f"| `{figure.metric}{ending}` | {figure.help} | {figure.source} |"


def test_every_metric_has_its_row_and_no_row_is_of_another() -> None:
    lines = PAGE.splitlines()
    for figure in (*SANDBOX_FIGURES, *HOST_FIGURES, *STORED_FIGURES):
        assert line(figure) in lines
    assert set(re.findall(r"^\| `(ballonet_[a-z0-9_]+)` \|", PAGE, re.MULTILINE)) == metric_names()


def test_columns_and_format_are_the_codes() -> None:
    columns = PAGE.split("CSV and JSON have the columns ")[1].split(". Sizes")[0]
    assert re.findall(r"`([a-z0-9_]+)`", columns) == list(COLUMNS)
    fields = next(line for line in PAGE.splitlines() if line.startswith("| 48 |"))
    assert re.findall(r"`([a-z0-9_]+)`", fields) == list(FIELDS)
    assert f"{len(FIELDS)} × i64" in fields
    states = next(line for line in PAGE.splitlines() if line.startswith("| 4 | u8 |"))
    assert re.findall(r"\b(\d) ([a-z-]+)", states) == [(str(at), state) for at, state in enumerate(STATES)]
    assert f"{SLOTS} samples, {SLOTS * SLOT_BYTES // MIB} MiB" in PAGE
    assert f"slots of {SLOT_BYTES} bytes" in PAGE


def test_the_rates_are_the_codes() -> None:
    assert (Pace.QUICK.look_s, Pace.BUSY.look_s, Pace.IDLE.look_s) == (0.5, 2.0, 5.0)
    assert (HEARTBEAT_S, GUEST_AGE_S, STALE_S) == (55, 60, 120)
    assert (BUSY_SHARE, BUSY_BYTES, PRESSURE_US) == (0.1, 4 * MIB, 10_000)
    assert (DEADLINE_S, OVERALL_S) == (2, 8)


def test_every_documented_query_names_metrics_that_exist() -> None:
    queries = documented_queries()
    assert len(queries) == 8
    for query in queries:
        names = set(re.findall(r"\bballonet_[a-z0-9_]+", query))
        assert names
        assert names <= metric_names()
