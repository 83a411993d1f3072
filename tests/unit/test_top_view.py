"""What top shows, for every size of terminal. Real terminals: tests/vm/test_top.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.memory import MIB
from ballonet.cli.top_bars import ASCII, UNICODE, WINDOW_S, Point, bar, chart, resample, sparkline, text_of
from ballonet.cli.top_columns import COLUMNS, state_of
from ballonet.cli.top_help import help_lines
from ballonet.cli.top_view import View, order, render, selected_line
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot

HOST = HostSample(at=0, total=24 << 30, available=2 << 30, committed=48 << 30, promised=1 << 30, held=5 << 30)


def sample(name: str, target: int | None = 512, held: int | None = 300) -> SandboxSample:
    return SandboxSample(
        name=name,
        state="running",
        at=0,
        guest_at=0,
        ceiling=1024 * MIB,
        target=None if target is None else target * MIB,
        actual=600 * MIB,
        guest_ram=None if held is None else held * MIB,
        resident=None if held is None else (held + 100) * MIB,
        balloon_state="applied",
    )


SAMPLES = [sample("b", 512), sample("a", 300), sample("c", None, None)]


@given(
    st.integers(1, 250),
    st.integers(1, 60),
    st.integers(0, 80),
    st.booleans(),
    st.booleans(),
    st.integers(0, 14),
)
def test_it_fits_every_terminal(
    width: int, height: int, count: int, help_: bool, reverse: bool, sort: int
) -> None:
    samples = [sample(f"box-with-a-name-{n}", n * 10, n) for n in range(count)]
    chosen = f"box-with-a-name-{count // 2}"
    view = View(
        selected=chosen,
        help=0 if help_ else None,
        reverse=reverse,
        sort=sort - 1 if sort else None,
        message="said",
    )
    trails = {one.name: [Point(-60.0, one.guest_ram, one.actual, one.target)] for one in samples}
    lines = render(Snapshot(HOST, samples), view, width, height, trails=trails)
    assert len(lines) <= height
    assert all(len(text_of(line)) <= width for line in lines)
    if count and height >= 8 and width >= 30 and not help_:
        at = selected_line(lines)
        assert at is not None and text_of(lines[at]).startswith("▶box-with")
        assert text_of(lines[-1]).startswith("q quit")


def test_order() -> None:
    def names(view: View) -> list[str]:
        return [one.name for one in order(SAMPLES, view)]

    target = next(at for at, column in enumerate(COLUMNS) if column.heading == "TARGET")
    assert names(View()) == ["a", "b", "c"]
    assert names(View(reverse=True)) == ["c", "b", "a"]
    assert names(View(sort=target)) == ["b", "a", "c"]
    assert names(View(sort=target, reverse=True)) == ["a", "b", "c"], "unknown comes last either way"


def test_moving_and_sorting_stay_within_bounds() -> None:
    names = ["a", "b"]
    view = View().moved(names, 1)
    assert view.selected == "a"
    assert view.moved(names, 1).selected == "b"
    assert view.moved(names, 1).moved(names, 1).selected == "b"
    assert view.moved(names, -1).selected == "a"
    assert view.moved([], 1).selected is None
    assert View().sorted_by_next(1).sort == 0
    assert View().sorted_by_next(-1).sort == len(COLUMNS) - 1
    assert View(sort=0).sorted_by_next(-1).sort is None


def test_a_bar_shows_what_is_held_actual_ceiling_and_target() -> None:
    assert text_of(bar(sample("a", 512, 256), 16, 1024 * MIB, ASCII)) == "####===|=......."
    assert text_of(bar(sample("a", 1024, 256), 16, 2048 * MIB, UNICODE)) == "██▒▒▒··┃        "
    assert text_of(bar(sample("a", None, None), 8, 1024 * MIB, ASCII)) == "=====..."
    assert (
        text_of(
            bar(replace(sample("a"), ceiling=None, actual=None, target=None, guest_ram=None), 4, 0, ASCII)
        )
        == "    "
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "applied"),
        ({"balloon_state": "guest-refused"}, "guest-refused"),
        ({"state": "stopped"}, "stopped"),
        ({"unknown": {"balloon": "?", "guest": "?"}, "guest_at": None, "balloon_state": None}, "no answer"),
        ({"unknown": {"guest": "no answer"}, "guest_at": None}, "silent guest"),
    ],
)  # fmt: skip
def test_the_state_that_matters_most(changes: dict[str, object], word: str) -> None:
    assert state_of(replace(sample("a"), **changes)) == word  # type: ignore[arg-type]


def test_foreign_words_cannot_rearrange_the_terminal() -> None:
    told = replace(sample("a"), unknown={"guest": "bad \x1b[2J words"})
    lines = render(Snapshot(HOST, [told]), View(selected="a"), 120, 40)
    assert "\x1b" not in "".join(map(text_of, lines))
    assert any("bad �[2J words" in text_of(line) for line in lines)


def test_an_empty_host_says_what_to_do() -> None:
    lines = render(Snapshot(HOST, []), View(), 80, 24)
    assert any("ballonet run" in text_of(line) for line in lines)
    assert any(span.style == "bad" and "2.0 GiB available" in span.text for line in lines for span in line)


def test_help_fits_a_terminal_of_80_by_24_whole_and_says_each_column() -> None:
    lines = render(Snapshot(HOST, SAMPLES), View(help=0), 80, 24)
    shown = "\n".join(map(text_of, lines))
    assert "…" not in shown
    assert all(line in shown for line in help_lines(80))
    assert all(column.heading in shown for column in COLUMNS)


@given(st.integers(1, 120), st.integers(3, 40))
def test_help_can_be_scrolled_to_its_end(width: int, height: int) -> None:
    view = View(help=0).help_moved(1000, width, height)
    shown = [text_of(line).rstrip() for line in render(Snapshot(HOST, []), view, width, height)]
    assert help_lines(width)[-1] in shown
    assert view.help_moved(-1000, width, height).help == 0


def test_the_selected_row_keeps_its_styles_and_has_a_pointer() -> None:
    lines = render(Snapshot(HOST, SAMPLES), View(selected="b"), 80, 24)
    at = selected_line(lines)
    assert at is not None
    assert text_of(lines[at]).startswith("▶b ")
    assert {"held", "actual", "target", "good"} <= {span.style for span in lines[at]}
    assert [text_of(line)[0] for line in lines[at - 1 : at + 2]] == [" ", "▶", " "]


def test_guest_and_engine_are_told_apart() -> None:
    headings, row = (
        text_of(line).split() for line in render(Snapshot(HOST, [sample("a")]), View(), 80, 24)[5:7]
    )
    told = dict(zip(headings[3:], row[-7:], strict=True))
    assert told["GUEST"] == "300"
    assert told["ENGINE"] == "100"


@pytest.mark.parametrize(
    ("width", "shown", "missing"),
    [
        (60, ["TARGET", "ACTUAL", "GUEST"], ["CEIL", "HISTORY"]),
        (80, ["CEIL", "TARGET", "ACTUAL", "GUEST", "ENGINE", "AVAIL", "PSI%"], ["FLOOR", "HISTORY"]),
        (200, [column.heading for column in COLUMNS] + ["HISTORY"], []),
    ],
)  # fmt: skip
def test_columns_by_width(width: int, shown: list[str], missing: list[str]) -> None:
    lines = render(Snapshot(HOST, [sample("a")]), View(), width, 24, trails={"a": [Point(0, 1, 1, 1)]})
    headings = next(text for line in lines if " NAME" in (text := text_of(line)))
    assert all(word in headings.split() or word in headings for word in shown)
    assert not any(word in headings for word in missing)
    assert not any("…" in text_of(line) for line in lines)


def test_hundreds_scroll_with_the_selection_in_sight() -> None:
    many = [sample(f"box-{n:03}") for n in range(300)]
    lines = render(Snapshot(HOST, many), View(selected="box-250"), 60, 20)
    assert any(text_of(line).startswith("▶box-250") for line in lines)
    assert "of 300" in text_of(lines[0])


def test_a_long_message_is_wrapped() -> None:
    said = "sandbox b: " + "word " * 25 + "end"
    lines = render(Snapshot(HOST, SAMPLES), View(selected="b", message=said), 60, 24)
    assert (
        " ".join(text_of(line).strip() for line in lines if line and line[0].style == "message").split()
        == said.split()
    )


def test_a_history_holds_its_last_value_and_shows_bursts() -> None:
    points = [Point(-300, 10, 100, 100), Point(-151, 80, 100, 100), Point(-150, 20, 100, 100)]
    cells = resample(points, 0, 8)  # 75 s each
    assert [None if point is None else point.held for point in cells] == [
        None,
        None,
        None,
        10,
        10,
        80,
        20,
        20,
    ]
    assert text_of(sparkline(points, 0, 8, 80, UNICODE)) == "   ▁▁█▂▂"
    assert resample([], 0, 2) == [None, None]
    assert resample([Point(-2 * WINDOW_S, 1, 1, 1)], 0, 2) == [Point(-2 * WINDOW_S, 1, 1, 1)] * 2


def test_a_chart_has_held_actual_and_target() -> None:
    lines = chart([Point(-600, 50, 75, 100)], 0, 2, 4, 100, ASCII)
    assert [text_of(line) for line in lines] == ["--", "==", "##", "##"]
