"""Tables and numbers for people."""

from __future__ import annotations

import os
import sys

import pytest

from ballonet.cli.balloon_stats import describe_stats
from ballonet.cli.output import layout, show_seconds, show_size
from ballonet.control.backend import GuestMemory, GuestPressure, HostMemory, Stats
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
    assert "bursts; the default" in " ".join(" ".join(line[-45:].split()) for line in lines) or columns != 200
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
    assert guest["up for"] == "3 min 5 s"
    assert guest["memory"] == "478 MiB"
    assert guest["available"] == "unknown"
    assert guest["swap"] == "none"
    assert pressure["some tasks"] == "0.50 % of the last 10 s, 1.25 % of the last minute, 0.008 s since boot"
    assert pressure["all tasks"] == "unknown"
    assert (host["guest RAM"], host["engine"]) == ("288 MiB", "102 MiB")
    assert host["PSS"] == "371 MiB, read 20 s ago"
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
