"""``ballonet top`` on terminals of 80, 200 and 60 columns, as a person drives it. How it ends: test_top_ending.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from ballonet.base.memory import MIB
from ballonet.control.client import Client
from ballonet.sdk.sandbox import Sandbox
from tests.vm.terminal import TOP, Terminal, terminal


def shows(top: Terminal, *words: str) -> bool:
    return all(word in top.text for word in words)


def row_has(top: Terminal, *sizes: int) -> bool:
    """The shared sandbox's row has these sizes side by side."""
    words = [str(size) for size in sizes]
    row = top.row("shared").split()
    return any(row[at : at + len(words)] == words for at in range(len(row)))


def test_keys_grow_shrink_trim_and_sort_at_80_columns(sandbox: Sandbox, client: Client) -> None:
    with terminal(80, 24) as top:
        top.wait(
            lambda: (
                "applied" in top.row("shared")
                and row_has(top, 1024, 1024, 1024)
                and shows(top, "GUEST ", "ENGINE", " ceiling ", " target ", " actual ", "limit 1024")
                and "q quit" in top.screen.display[-1]
            ),
            "the sandbox",
        )
        top.press("-")
        top.wait(lambda: "shared: target 896 MiB" in top.text, "the answer to -")
        top.wait(lambda: row_has(top, 1024, 896, 896) and "┃·" in top.row("shared"), "the shrink")
        top.press("+")
        top.wait(lambda: row_has(top, 1024, 1024, 1024), "the growth")
        top.press("+")
        top.wait(lambda: "limited by the ceiling" in top.text, "the clamped growth")
        top.press("t")
        top.wait(lambda: "shared: returned" in top.text, "the trim")

        top.wait(lambda: top.reverse("NAME"), "the order by name")
        top.press(">")
        top.wait(lambda: top.reverse("CEIL"), "another order")
        top.press("q")
        assert top.wait_end() == 0
        assert top.given_back()


def test_help_is_whole_at_80_columns_and_can_be_scrolled_at_60(sandbox: Sandbox) -> None:
    with terminal(80, 24) as top:
        top.wait(lambda: top.row("shared"), "the sandbox")
        top.press("h")
        top.wait(lambda: shows(top, "top: help", "Ctrl-C", "HISTORY", "harm the guest.", "q quit"), "help")
        assert "…" not in top.text
        top.resize(60, 20)
        top.wait(
            lambda: shows(top, "top: help", "up/down scroll") and "harm the guest." not in top.text,
            "a part of it",
        )
        top.press("\x1b[6~")
        top.press("\x1b[6~")
        top.wait(lambda: "harm the guest." in top.text, "the end of the help")
        assert "…" not in top.text
        top.press("h")
        top.wait(lambda: top.row("shared"), "the sandbox again")
        top.press("\x03")
        assert top.wait_end() == 128 + signal.SIGINT
        assert top.given_back()


def test_at_200_columns_everything_is_there_with_a_history(sandbox: Sandbox) -> None:
    headings = (
        "CEIL TARGET ACTUAL GUEST ENGINE AVAIL PSI% FLOOR LIMIT CACHES OOM MAJFLT RECLAIMED PSS HISTORY"
    )
    with terminal(200, 50) as top:
        top.wait(
            lambda: (
                shows(top, *headings.split(), "-10 min")
                and "applied" in top.row("shared")
                and top.row("shared").rstrip()[-1] in "▁▂▃▄▅▆▇█"
                and "q quit" in top.screen.display[-1]
            ),
            "the wide table",
        )
        top.resize(80, 24)
        top.wait(
            lambda: "HISTORY" not in top.text and top.row("shared") and "q quit" in top.screen.display[-1],
            "80 columns",
        )
        top.resize(60, 20)
        top.wait(
            lambda: "ENGINE 0" not in top.text and top.row("shared") and "q quit" in top.screen.display[-1],
            "60 columns",
        )
        assert "…" not in top.text
        top.resize(30, 8)
        top.wait(lambda: "…" in top.text and "q quit" in top.screen.display[-1], "a tiny one")
        top.process.send_signal(signal.SIGTERM)
        assert top.wait_end() == 128 + signal.SIGTERM
        assert top.given_back()


def test_the_selected_row_keeps_its_colours(sandbox: Sandbox) -> None:
    def is_there() -> bool:
        cells = top.styles("▶shared")
        return (
            bool(cells)
            and cells[0].reverse
            and any(cell.data == "█" and cell.fg == "blue" and not cell.reverse for cell in cells)
            and any(cell.data == "a" and cell.fg == "green" and cell.reverse for cell in cells)
            and "q quit" in top.screen.display[-1]
        )

    with terminal(80, 24) as top:
        top.wait(is_there, "the selected row in colour")
        assert top.screen.display[top.screen.cursor.y].startswith("▶shared"), "where screen readers look"
        top.press("q")
        assert top.wait_end() == 0


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "vt100"}])
def test_without_colour_nothing_is_lost(sandbox: Sandbox, env: dict[str, str]) -> None:
    with terminal(80, 24, env=env) as top:
        top.wait(
            lambda: (
                "applied" in top.row("shared")
                and "▶shared" in top.text
                and "q quit" in top.screen.display[-1]
            ),
            "the sandbox",
        )
        colours = {cell.fg for line in top.screen.buffer.values() for cell in line.values()}
        assert colours == {"default"}
        top.press("q")
        assert top.wait_end() == 0


def test_ascii_where_the_terminal_has_no_unicode(sandbox: Sandbox) -> None:
    # No xterm: the emulator that reads the screen here does not know its way to repeat a character.
    with terminal(
        80, 24, env={"TERM": "screen", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ) as top:
        top.wait(
            lambda: (
                "applied" in top.row("shared")
                and "#" in top.row("shared")
                and ">shared" in top.text
                and "q quit" in top.screen.display[-1]
            ),
            "the sandbox",
        )
        assert top.text.isascii()
        top.press("q")
        assert top.wait_end() == 0


def test_a_stuck_sandbox_stops_no_key(sandbox: Sandbox) -> None:
    os.kill(sandbox.pid, signal.SIGSTOP)
    try:
        with terminal(80, 24) as top:
            top.wait(lambda: "no answer" in top.row("shared"), "that it is stuck")
            top.press("+")
            top.wait(lambda: "shared: growing" in top.text, "the key's effect")
            top.press("-")
            top.wait(lambda: "shared: still growing, please wait" in top.text, "that it is busy")
            top.press("h")
            top.wait(lambda: "top: help" in top.text, "help")
            top.press("h>")
            top.wait(lambda: top.reverse("CEIL"), "another order")
            top.press("q")
            assert top.wait_end() == 0
            assert top.given_back()
    finally:
        os.kill(sandbox.pid, signal.SIGCONT)


def test_once_and_json(sandbox: Sandbox) -> None:
    done = subprocess.run([*TOP, "--once"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert any(line.startswith("shared ") for line in done.stdout.splitlines())
    document = json.loads(subprocess.run([*TOP, "--json"], capture_output=True, text=True, check=True).stdout)
    row = next(row for row in document["sandboxes"] if row["name"] == "shared")
    assert row["ceiling"] == 1024 * MIB
    assert row["unknown"] == {}
    assert document["host"]["committed"] >= 1024 * MIB


def test_a_terminal_that_cannot_show_it_is_told() -> None:
    for words, said in (([], "top requires a terminal"), (["--interval", "0"], "--interval 0 is outside")):
        done = subprocess.run([*TOP, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    for kind, told in (
        ("no-such-terminal", b"the terminal cannot be used"),
        ("dumb", b"'dumb' (TERM) cannot show"),
    ):
        with terminal(80, 24, env={"TERM": kind}) as top:
            assert top.wait_end() == 125
            assert told in top.written and b"ballonet top --once" in top.written
            assert b"Traceback" not in top.written and b"\x1b" not in top.written
            assert top.given_back()
