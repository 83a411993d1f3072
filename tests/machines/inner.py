"""The pytest that runs the tests of a machine, inside it or, for another engine, on this host.

The results come back one by one while the tests run: see :mod:`tests.machines.inside.report`.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ballonet.base.errors import BallonetError
from tests.machines.catalogue import Machine

_PYTEST = (
    *("-m", "pytest", "-p", "tests.machines.inside.report", "-p", "no:cacheprovider"),
    *("-v", "--color=no"),
)


class NotHereError(Exception):
    """This host cannot run the machine; the message says why."""


@dataclass(frozen=True)
class Result:
    """How a test ended inside: ``passed``, ``failed`` or ``skipped``, with pytest's own text."""

    outcome: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where the project is, with which Python its tests run, and with which environment beside its own."""

    project: str
    python: str
    env: Mapping[str, str]


class Process(Protocol):
    """A command that runs, as :meth:`ballonet.sync.Sandbox.exec_stream` gives it."""

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Pieces of ``stdout`` and ``stderr`` until it has ended."""

    def kill(self) -> None: ...


class InnerRun:
    """One pytest. ``start`` starts a command.

    The VM suite and the tests for machines have a pytest each: their shared fixtures are not the same.
    """

    def __init__(
        self, start: Callable[[list[str]], Process], machine: Machine, tests: Sequence[str], place: Place
    ) -> None:
        groups = [[test for test in tests if test.startswith("tests/vm/") is vm] for vm in (False, True)]
        env = {"BALLONET_MACHINE": machine.name, **place.env}
        pytest = [place.python, *_PYTEST, f"--timeout={machine.test_s}"]
        # Results have descriptor 3, which is the stream of standard output; all else goes to standard error.
        script = "\n".join(
            [f"exec 3>&1 1>&2; cd {shlex.quote(place.project)}"]
            + [shlex.join([*pytest, *group]) for group in groups if group]
        )
        words = ["env", *(f"{name}={value}" for name, value in env.items()), "sh", "-c", script]
        self._process = start([*machine.enter, *words])
        self._log = bytearray()
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._collected: list[str] = []
        self._results: dict[str, Result] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def result(self, test: str, timeout_s: float) -> Result:
        ends = time.monotonic() + timeout_s
        while not self._is_done(test):
            try:
                line = self._lines.get(timeout=max(0, ends - time.monotonic()))
            except queue.Empty:
                return Result("failed", f"no result within {timeout_s:g} s", timeout_s)
            if line is None:
                self._ended = True
            elif "collected" in line:
                self._collected += line["collected"]
            else:
                self._results[line["test"]] = Result(line["outcome"], line["text"], line["seconds"])
        if broken := self._results.get(test.partition("::")[0]):
            return broken  # the file cannot be imported
        found = [result for name, result in self._results.items() if _is_of(name, test)]
        if not found or len(found) < sum(_is_of(name, test) for name in self._collected):
            return Result("failed", "pytest ended inside before this test did", 0)
        worst = next((r for o in ("failed", "skipped") for r in found if r.outcome == o), found[0])
        return Result(worst.outcome, worst.text, sum(result.seconds for result in found))

    def _is_done(self, test: str) -> bool:
        wanted = [name for name in self._collected if _is_of(name, test)]
        return self._ended or (bool(wanted) and all(name in self._results for name in wanted))

    def log(self) -> str:
        return self._log.decode(errors="replace")

    def stop(self) -> None:
        with contextlib.suppress(BallonetError):  # the machine may have ended
            self._process.kill()
        self._reader.join(30)

    def _read(self) -> None:
        rest = b""
        try:
            for stream, piece in self._process.events():
                if stream == "stderr":
                    self._log += piece
                    continue
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._lines.put(json.loads(line))
        except BallonetError as error:  # the machine ended: whoever waits for a result is told
            self._log += f"\n{error}\n".encode()
        finally:
            self._lines.put(None)


def _is_of(name: str, test: str) -> bool:
    return name == test or name.startswith(f"{test}[")
