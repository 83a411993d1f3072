"""What top shows, for every size of terminal. Real terminals: tests/vm/test_top.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.cli.top_view import ASCII, COLUMNS, UNICODE, Span, View, bar, order, render, state_of
from ballonet.memory import MIB
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot

HOST = HostSample(at=0, total=24 << 30, available=2 << 30, committed=48 << 30, promised=1 << 30, held=5 << 30)


def sample(name: str, target: int | None = 512, resident: int | None = 300) -> SandboxSample:
    return SandboxSample(
        name=name,
        state="running",
        at=0,
        guest_at=0,
        ceiling=1024 * MIB,
        target=None if target is None else target * MIB,
        actual=600 * MIB,
        resident=None if resident is None else resident * MIB,
        balloon_state="applied",
    )


SAMPLES = [sample("b", 512), sample("a", 300), sample("c", None, None)]


def text(line: list[Span]) -> str:
    return "".join(span.text for span in line)


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
    view = View(selected=chosen, help=help_, reverse=reverse, sort=sort - 1 if sort else None, message="said")
    lines = render(Snapshot(HOST, samples), view, width, height)
    assert len(lines) <= height
    assert all(len(text(line)) <= width for line in lines)
    if count and height >= 30 and width >= 80:
        assert any(span.style == "selected" and "box-with" in span.text for line in lines for span in line)


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


def test_a_bar_shows_resident_actual_ceiling_and_target() -> None:
    assert text(bar(sample("a", 512, 256), 16, 1024 * MIB, ASCII)) == "####===|=......."
    assert text(bar(sample("a", 1024, 256), 16, 2048 * MIB, UNICODE)) == "██▒▒▒··┃        "
    assert text(bar(sample("a", None, None), 8, 1024 * MIB, ASCII)) == "=====..."
    assert (
        text(bar(replace(sample("a"), ceiling=None, actual=None, target=None, resident=None), 4, 0, ASCII))
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
    assert "\x1b" not in "".join(map(text, lines))
    assert any("bad �[2J words" in text(line) for line in lines)


def test_an_empty_host_says_what_to_do() -> None:
    lines = render(Snapshot(HOST, []), View(), 80, 24)
    assert any("ballonet run" in text(line) for line in lines)
    assert any(span.style == "bad" and "2.0 available" in span.text for line in lines for span in line)
