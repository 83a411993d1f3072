"""Progress output on standard error: bars on a terminal, otherwise one line per step."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

#: The steps of :class:`ballonet.images.store.ImageStore`, as shown to the user.
_STEPS = {"fetch": "fetching", "read": "reading layers", "root": "writing the root"}

Bars = Callable[[str, int, int], None]
Report = Callable[[str], None]


@contextlib.contextmanager
def shown_progress() -> Iterator[tuple[Report, Bars | None]]:
    """A function that reports a step, and one that updates its bar; the second is ``None`` without a terminal."""
    if not sys.stderr.isatty():
        yield report_progress, None
        return
    try:
        from tqdm import tqdm
    except ImportError:  # the extra 'progress' is not installed
        yield report_progress, None
        return
    bars: dict[str, Any] = {}

    def show(step: str, done: int, total: int) -> None:
        bar = bars.get(step)
        if bar is None:
            for other in bars.values():
                other.close()
            bar = bars[step] = tqdm(
                desc=f"ballonet: {_STEPS.get(step, step)}",
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                leave=False,
            )
        bar.total = max(total, done) or None
        bar.n = done
        bar.update(0)
        bar.refresh()

    def report(line: str) -> None:
        tqdm.write(f"ballonet: {line}", file=sys.stderr)

    try:
        yield report, show
    finally:
        for bar in bars.values():
            bar.close()


def report_progress(line: str) -> None:
    """Print a step that takes time to standard error."""
    print(f"ballonet: {line}", file=sys.stderr, flush=True)
