"""Results of tests inside an outer machine: reported one by one, and read outside as they come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machines.catalogue import KVM, ROOT
from tests.machines.host import HostProcess
from tests.machines.inner import InnerRun, Place

pytestmark = pytest.mark.long

_TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError("no fixture")

@pytest.fixture
def left():
    yield
    assert False, "something is left"

def test_passes(): print("what it printed")
def test_fails(): assert 1 + 1 == 3
def test_is_skipped(): pytest.skip("not here")
def test_has_no_fixture(broken): pass
def test_leaves_something(left): pass
@pytest.mark.parametrize("number", [1, 2])
def test_takes(number): assert number == 1
"""


def reported(directory: Path, text: str) -> list[dict[str, Any]]:
    """What the plugin says of a file of tests."""
    (directory / "test_it.py").write_text(text)
    script = 'exec 3>&1 1>&2; exec "$0" "$@"'
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.machines.inside.report",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        ["sh", "-c", script, *words, "test_it.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/src"},
        capture_output=True,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


class _Process:
    """A command whose standard output has these lines, in two pieces that end anywhere."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self._said = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def events(self) -> Iterator[tuple[str, bytes]]:
        middle = len(self._said) // 2
        yield "stdout", self._said[:middle]
        yield "stderr", b"some log"
        yield "stdout", self._said[middle:]

    def kill(self) -> None: ...


PLACE = Place("/ballonet", "python3", {})


def run_of(lines: list[dict[str, Any]], tests: list[str]) -> InnerRun:
    return InnerRun(lambda _: _Process(lines), KVM, tests, PLACE)


def test_each_result_is_reported_with_its_cause(tmp_path: Path) -> None:
    collected, *lines = reported(tmp_path, _TESTS)
    names = [name.partition("::")[2] for name in collected["collected"]]
    assert names[:2] == ["test_passes", "test_fails"]
    found = {line["test"].partition("::")[2]: (line["outcome"], line["text"]) for line in lines}
    assert list(found) == names
    assert found["test_passes"] == ("passed", "")
    assert found["test_fails"][0] == "failed"
    assert "assert (1 + 1) == 3" in found["test_fails"][1]
    assert found["test_is_skipped"] == ("skipped", "Skipped: not here")
    assert found["test_has_no_fixture"][0] == "failed"
    assert "no fixture" in found["test_has_no_fixture"][1]
    assert found["test_leaves_something"][0] == "failed"
    assert "something is left" in found["test_leaves_something"][1]


def test_a_test_has_the_result_of_all_its_parameters(tmp_path: Path) -> None:
    run = run_of(reported(tmp_path, _TESTS), [])
    assert run.result("test_it.py::test_takes", 10).outcome == "failed"
    assert run.result("test_it.py::test_passes", 10).outcome == "passed"
    assert run.result("test_it.py::test_is_skipped", 10).text == "Skipped: not here"
    assert run.log() == "some log"


def test_a_file_that_cannot_be_imported_fails_its_tests_with_the_cause(tmp_path: Path) -> None:
    run = run_of(reported(tmp_path, "import no_such_module\ndef test_it(): pass\n"), [])
    result = run.result("test_it.py::test_it", 10)
    assert result.outcome == "failed"
    assert "no_such_module" in result.text


def test_an_end_before_a_test_is_told() -> None:
    run = run_of([{"collected": ["a.py::test_a", "a.py::test_b"]}], [])
    result = run.result("a.py::test_b", 10)
    assert (result.outcome, result.text) == ("failed", "pytest ended inside before this test did")


def test_the_two_suites_have_a_pytest_each() -> None:
    started: list[list[str]] = []

    def start(argv: list[str]) -> _Process:
        started.append(argv)
        return _Process([])

    InnerRun(start, KVM, ["tests/vm/test_a.py::test_a", "tests/machines/inside/kvm/b.py::test_b"], PLACE)
    script = started[0][-1].splitlines()
    assert [line.split()[-1] for line in script[1:]] == [
        "tests/machines/inside/kvm/b.py::test_b",
        "tests/vm/test_a.py::test_a",
    ]


def test_a_command_on_this_host_gives_both_its_streams() -> None:
    said = {"stdout": b"", "stderr": b""}
    for stream, piece in HostProcess(["sh", "-c", "echo out; echo err >&2"]).events():
        said[stream] += piece
    assert said == {"stdout": b"out\n", "stderr": b"err\n"}


def test_a_command_on_this_host_ends_with_all_that_it_started() -> None:
    process = HostProcess(["sh", "-c", "trap '' INT; echo $$; sleep 1000 & wait; sleep 1000"], end_s=0.1)
    events = process.events()
    assert next(events)[0] == "stdout"
    process.kill()
    assert list(events) == []  # both streams have ended: nothing holds them any more
