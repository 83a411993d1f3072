"""The log: one line per step with time, worker, step, sandbox, result and duration."""

from __future__ import annotations

import time
from collections import deque
from typing import TextIO

KEPT = 30


class Log:
    """Prints lines to standard output and to a file, and remembers the last ones."""

    def __init__(self, out: TextIO, file: TextIO) -> None:
        self._out, self._file = out, file
        self._started = time.monotonic()
        self.last: deque[str] = deque(maxlen=KEPT)
        #: The step in progress, by worker.
        self.under_way: dict[str, str] = {}

    def begin(self, who: str, what: str, box: str) -> None:
        at = time.monotonic() - self._started
        self.under_way[who] = f"{what} {box} since {at:.1f}"

    def end(self, who: str, what: str, box: str, result: str, took_s: float) -> None:
        self.under_way.pop(who, None)
        at = time.monotonic() - self._started
        self.line(f"{at:7.1f}  {who:<4} {what:<23} {box:<12} {result}  ({took_s:.1f} s)")

    def line(self, text: str) -> None:
        self.last.append(text)
        for stream in (self._out, self._file):
            print(text, file=stream, flush=True)
