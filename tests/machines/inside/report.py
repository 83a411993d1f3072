"""A plugin of the pytest that runs inside an outer machine: it reports each result on descriptor 3, one JSON a line.

First ``{"collected": [TEST, …]}``, then ``{"test", "outcome", "text", "seconds"}`` for each test when it has ended.
"""

from __future__ import annotations

import json
import os

import pytest

_FD = 3
os.set_inheritable(_FD, False)


def pytest_collection_finish(session: pytest.Session) -> None:
    _send({"collected": [item.nodeid for item in session.items]})


class _Ending:
    """A test's phases become one result: it fails if any of them does."""

    def __init__(self) -> None:
        self.outcome, self.text, self.seconds = "passed", "", 0.0

    def add(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.outcome != "passed" and self.outcome != "failed":
            self.outcome = report.outcome
            is_skip = report.skipped and isinstance(report.longrepr, tuple)
            self.text = str(report.longrepr[2] if is_skip else report.longreprtext)  # type: ignore[index]
            for name, section in report.sections:
                self.text += f"\n--- {name} ---\n{section}"


_endings: dict[str, _Ending] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    ending = _endings.setdefault(report.nodeid, _Ending())
    ending.add(report)
    if report.when == "teardown":
        _send({"test": report.nodeid, **vars(ending)})


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _send({"test": report.nodeid, "outcome": "failed", "text": report.longreprtext, "seconds": 0.0})


def _send(document: dict[str, object]) -> None:
    os.write(_FD, json.dumps(document).encode() + b"\n")
