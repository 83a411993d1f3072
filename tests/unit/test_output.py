"""Tables and numbers for people."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.cli.balloon_stats import describe_stats
from ballonet.cli.output import layout, omitted, show_seconds, show_size
from ballonet.control.backend import GuestMemory, GuestPressure, HostMemory, Stats
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.samples import history_path
from ballonet.metrics.history import HistoryWriter
from ballonet.metrics.model import SandboxSample
from ballonet.settings.config import SandboxConfig
from tests.unit.terminal import screen_after

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


def test_numbers_stand_at_the_right_and_words_at_the_left() -> None:
    lines = layout(("NAME", "SIZE", "AGE"), [["a", "5M", "3s"], ["longer", "1024M", "-"]], None)
    assert ["  ".join(line) for line in lines] == [
        "NAME     SIZE  AGE",
        "a          5M   3s",
        "longer  1024M    -",
    ]


def test_a_table_that_is_too_wide_goes_on_below_and_keeps_words_whole() -> None:
    text = "a sentence that is much too long for the line that there is, " * 3
    name = "a-very-long-name-that-must-stay-whole-as-people-copy-it"
    lines = ["  ".join(line).rstrip() for line in layout(("NAME", "ABOUT"), [[name, text.strip()]], 100)]
    assert max(map(len, lines)) <= 100
    assert name in lines[1]
    assert " ".join(" ".join(lines[1:]).replace(name, "").split()) == text.strip()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_listings_fit_the_terminal_whole(columns: int) -> None:
    lines = screen_after([*BALLONET, "pilot", "--policy", "list"], os.environ, columns, 100)
    assert (
        "bursts (the default)" in " ".join(" ".join(line[-45:].split()) for line in lines) or columns != 200
    )
    for name in ("ballonet", "hypeman"):
        assert sum(line.split()[0] == name for line in lines if not line.startswith(" ")) == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.000003, "0.0 s"),
        (3.14, "3.1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (7620, "2 h 7 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_times(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"), [(None, None), (17, "17B"), (831488, "812K"), (41 << 20, "41M"), (3 << 29, "1.5G")]
)
def test_sizes(size: int | None, shown: str | None) -> None:
    assert show_size(size) == shown


def test_statistics_have_units_and_say_what_is_unknown() -> None:
    stats = Stats(
        guest=GuestMemory(age_s=1.147e-06, total_mib=478, uptime_s=185.2, swap_total_mib=0),
        pressure=GuestPressure(age_s=1.147e-06, some_avg10=0.5, some_avg60=1.25, some_total_us=8210),
        oom_kills=0,
        host=HostMemory(
            resident_mib=390, pss_mib=371, guest_ram_mib=288, engine_mib=102, pss_age_s=20.0, reclaimed_mib=7
        ),
    )
    guest, pressure, host = describe_stats(stats).values()
    assert guest["reported"] == "0.0 s ago"
    assert guest["uptime"] == "3 min 5 s"
    assert guest["memory"] == "478 MiB"
    assert guest["available"] == "unknown"
    assert guest["swap"] == "none"
    assert pressure["some tasks"] == "0.50 % of the last 10 s, 1.25 % of the last minute, 0.008 s since boot"
    assert pressure["all tasks"] == "unknown"
    assert (host["guest RAM"], host["engine"]) == ("288 MiB", "102 MiB")
    assert host["PSS"] == "371 MiB, measured 20 s ago"
    assert not any("e-0" in value for facts in (guest, pressure, host) for value in facts.values())


def test_sandboxes_are_listed_in_80_columns_whatever_their_end_was() -> None:
    headings = ("NAME", "STATE", "CEILING", "TARGET", "ACTUAL", "GUEST", "ENGINE", "AGE", "DETAIL")
    rows = [
        ("run-9df3a8c1", "stopped", "1024M", "-", "-", "-", "-", "16m", "its command ended with status 0"),
        ("b", "running", "192M", "192M", "192M", "80M", "153M", "11m", "-"),
    ]
    lines = ["  ".join(cells) for cells in layout(headings, rows, 80)]
    assert max(map(len, lines)) <= 80, lines
    assert " ".join(line[68:].strip() for line in lines[1:-1]) == "its command ended with status 0"


def test_long_words_of_the_last_column_are_broken_at_slashes_to_fit() -> None:
    path = "/root/.cache/ballonet/kernels/linux-image-6.12-cloud-amd64_1_amd64/boot/vmlinuz-6.12-cloud-amd64"
    lines = [
        "  ".join(line).rstrip()
        for line in layout(("CHECK", "RESULT", "DETAIL"), [["guest kernel", "ok", path]], 60)
    ]
    assert max(map(len, lines)) <= 60, lines
    parts = [line[22:] for line in lines[1:]]
    assert "".join(parts) == path
    assert all(part.endswith("/") for part in parts[:-1]), parts
    assert [line[:22] for line in lines[2:]] == [" " * 22] * (len(lines) - 2)


def test_columns_that_may_be_omitted_are_omitted_only_as_far_as_needed() -> None:
    headings, rows = ("NAME", "A", "B", "C"), [("x" * 10, "1", "2", "3")]
    assert omitted(headings, rows, None, ("B", "A")) == (headings, rows)
    assert omitted(headings, rows, 19, ("B", "A")) == (headings, rows)
    assert omitted(headings, rows, 18, ("B", "A")) == (("NAME", "A", "C"), [("x" * 10, "1", "3")])
    assert omitted(headings, rows, 5, ("B", "A")) == (("NAME", "C"), [("x" * 10, "3")])


@pytest.fixture
def sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sandbox with a history in which every column is as wide as it gets."""
    for variable in ("XDG_STATE_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    with Registry.open() as registry:
        lifecycle.create(registry, SandboxConfig(name="box"))
    writer = HistoryWriter(history_path("box"))
    for at in (1e9, 1e9 + 60):
        writer.write(
            SandboxSample(
                name="box",
                state="running",
                run_id="r",
                at=at,
                guest_at=at - 12,
                ceiling=64 << 30,
                target=64 << 30,
                actual=64 << 30,
                limit=64 << 30,
                guest_ram=64 << 30,
                resident=65 << 30,
                guest_available=60 << 30,
                pressure_some_us=round(at * 1e6),
                balloon_state="guest-refused",
            )
        )
    writer.close()
    return "box"


@pytest.mark.parametrize(
    ("columns", "missing"), [(80, {"AGE", "LIMIT", "STALLED"}), (94, {"AGE"}), (120, set())]
)
def test_a_history_fits_the_terminal_and_a_pipe_has_every_column(
    sampled: str, columns: int, missing: set[str]
) -> None:
    headings = "TIME (UTC) TARGET ACTUAL LIMIT GUEST ENGINE AVAILABLE AGE STALLED STATE"
    lines = screen_after([*BALLONET, "history", sampled], os.environ, columns)
    assert lines[0].split() == [word for word in headings.split() if word not in missing]
    assert len(lines) == 3, "no line is continued on another one"
    assert all(line.endswith("guest-refused") for line in lines[1:])
    piped = subprocess.run([*BALLONET, "history", sampled], capture_output=True, text=True, check=True).stdout
    assert piped.split("\n")[0].split() == headings.split()


def test_doctor_fits_80_columns(sampled: str, tmp_path: Path) -> None:
    # A long directory name, as long as a name of the run directory may be.
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / ("d" * 120))}
    lines = screen_after([*BALLONET, "doctor"], env, 80)
    piped = subprocess.run([*BALLONET, "doctor"], env=env, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        line.split()[0] for line in piped.splitlines() if not line.startswith(" ")
    ], "each check begins a line, and every other line is indented"
    assert max(map(len, piped.splitlines())) > 120
