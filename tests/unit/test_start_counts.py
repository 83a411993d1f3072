"""The totals of starts, which many processes add to."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from ballonet.machine.start_counts import START_COUNTS, StartKind, count_start, read_starts

_COUNTING = """
import sys, time
from pathlib import Path
from ballonet.machine.start_counts import StartKind, count_start
for _ in range(20):
    count_start(Path(sys.argv[1]), StartKind(sys.argv[2]), 0.5)
    time.sleep(0.003)
"""


def test_starts_are_added_and_other_kinds_stay(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == dict.fromkeys(("template", "boot", "cold", "saved"), (0, 0.0))
    count_start(tmp_path, StartKind.BOOT, 2.5)
    count_start(tmp_path, StartKind.SAVED, 0.25)
    count_start(tmp_path, StartKind.BOOT, 1.5)
    assert read_starts(tmp_path) == {"template": (0, 0), "boot": (2, 4.0), "cold": (0, 0), "saved": (1, 0.25)}
    assert (tmp_path / START_COUNTS).stat().st_mode & 0o777 == 0o600


def test_processes_add_at_the_same_time(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-c", _COUNTING, str(tmp_path)]
    running = [subprocess.Popen([*words, kind]) for kind in ("template", "template", "cold")]
    assert [each.wait(60) for each in running] == [0, 0, 0]
    found = read_starts(tmp_path)
    # One that finds the lock held for too long is not counted; nothing is counted twice or lost by another's write.
    assert 1 <= found["template"][0] <= 40
    assert found["template"][1] == found["template"][0] * 0.5
    assert 1 <= found["cold"][0] <= 20


def test_a_damaged_file_begins_at_zero_and_a_lock_or_a_missing_directory_delays_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / START_COUNTS
    file.write_bytes(b"something else")
    assert read_starts(tmp_path)["boot"] == (0, 0.0)
    count_start(tmp_path, StartKind.BOOT, 1.0)
    assert read_starts(tmp_path)["boot"] == (1, 1.0)
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        count_start(tmp_path, StartKind.BOOT, 1.0)
    assert read_starts(tmp_path)["boot"] == (1, 1.0)
    count_start(tmp_path / "missing", StartKind.BOOT, 1.0)
    assert not (tmp_path / "missing").exists()
