"""Signals of ``top``."""

from __future__ import annotations

import signal
from typing import Any, cast

from ballonet.cli.top_signals import Signals


class Late(set[int]):
    """Signals, of which one arrives right after somebody has looked."""

    def __init__(self, signals: Signals, number: signal.Signals) -> None:
        super().__init__()
        self._signals = signals
        self._number: signal.Signals | None = number

    def __contains__(self, number: object) -> bool:
        found = super().__contains__(number)
        if (arriving := self._number) is not None:
            self._number = None
            self._signals._note(arriving, None)
        return found


class Bell:
    def ring(self) -> None: ...


def test_a_signal_that_comes_while_one_looks_is_there_at_the_next_look() -> None:
    signals = Signals.__new__(Signals)
    signals.bell = cast("Any", Bell())
    signals._others = Late(signals, signal.SIGTSTP)
    assert not signals.taken(signal.SIGTSTP)
    assert signals.taken(signal.SIGTSTP), "Ctrl-Z would be lost"
    assert not signals.taken(signal.SIGTSTP)
