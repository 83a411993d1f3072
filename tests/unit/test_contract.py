"""The page of promises names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_is_shown_by_a_test() -> None:
    page = (ROOT / "docs/contract.md").read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"def (test_\w+)\(", sources))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    assert named - known == set()
    for line in page.splitlines():
        if line.startswith("| ") and "shown by" not in line:
            assert "`test_" in line, f"no test shows: {line}"
