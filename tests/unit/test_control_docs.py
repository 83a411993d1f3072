"""``docs/control-protocol.md`` says the truth: its examples are run as they stand, its tables compared."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from ballonet.control.backend import BalloonSnapshot, Capabilities, State, TrimRequest
from ballonet.control.connection import Limits
from ballonet.control.protocol import ERRORS, METHODS, LimitParams, SetParams
from ballonet.control.wire import field_specs
from tests.unit.fake_backend import FakeBackend, serving

PAGE = (Path(__file__).parents[2] / "docs" / "control-protocol.md").read_text()
EXAMPLES = re.findall(r"^```control\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def matches(expected: object, got: object) -> bool:
    if expected == "<varies>":
        return True
    if isinstance(expected, dict) and isinstance(got, dict):
        return expected.keys() == got.keys() and all(matches(expected[name], got[name]) for name in expected)
    return expected == got and type(expected) is type(got)


@pytest.mark.parametrize("example", EXAMPLES)
async def test_example_runs_literally(tmp_path: Path, example: str) -> None:
    backend = FakeBackend()
    async with serving(tmp_path / "s", backend), asyncio.timeout(60):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        for line in example.splitlines():
            if line.startswith("→ "):
                writer.write(line.removeprefix("→ ").encode() + b"\n")
            elif line.startswith("← "):
                expected = line.removeprefix("← ")
                got = (await reader.readline()).decode().removesuffix("\n")
                if expected.startswith("{"):
                    assert matches(json.loads(expected), json.loads(got)), (
                        f"documented {expected}\nanswered {got}"
                    )
                else:
                    assert got == expected
            else:
                assert line == "(another client sets 300)"
                await backend.set_target(300, force=False)
        if "jsonrpc" in example:  # nothing else was said: the next line answers the next request
            writer.write(b'{"jsonrpc":"2.0","id":"last","method":"version"}\n')
            assert json.loads(await reader.readline())["id"] == "last"
        else:
            assert await reader.read() == b""
        writer.close()


def test_every_method_has_a_section_with_an_example() -> None:
    for method in METHODS:
        section = PAGE.split(f"\n### {method}\n")[1].split("\n### ")[0]
        assert f'"method":"{method}"' in section


def test_every_error_is_in_the_table() -> None:
    rows = dict(re.findall(r"^\| (-32\d+) \| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert rows == {str(code): name for code, (name, _) in ERRORS.items()}


def test_bounds_are_the_default_ones() -> None:
    limits = Limits()
    assert (limits.line_s, limits.idle_s, limits.write_s, limits.call_s) == (5, 300, 10, 30)
    assert f"{limits.per_user} per user, {limits.total} in all" in PAGE
    assert f"closed {limits.linger_s:g} s later" in PAGE


@pytest.mark.parametrize("cls", [SetParams, LimitParams, TrimRequest, BalloonSnapshot, Capabilities])
def test_every_field_is_explained(cls: type) -> None:
    for name in field_specs(cls):
        assert f"`{name}`" in PAGE


def test_every_state_is_in_the_table() -> None:
    rows = re.search(r"^\| state \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert rows is not None
    assert re.findall(r"^\| `([a-z-]+)` \|", rows[1], re.MULTILINE) == list(get_args(State))


def test_comparison_of_examples_sees_differences() -> None:
    assert matches({"a": "<varies>", "b": [1]}, {"a": 5, "b": [1]})
    assert not matches({"a": 1}, {"a": 2})
    assert not matches({"a": 1}, {"a": 1, "b": 2})
    assert not matches({"a": 1}, {"a": True})
