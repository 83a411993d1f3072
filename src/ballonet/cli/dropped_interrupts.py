"""Ctrl-C that Python would drop.

Python's handler raises ``KeyboardInterrupt`` wherever the main thread is. In a finalizer or a callback of a weak
reference, where no caller could catch it, Python prints "Exception ignored" and goes on: the import of a module runs
such callbacks.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time

#: By then the main thread has left the callback; if not, the signal comes once more (seconds).
_LATER_S = 0.01


def send_dropped_interrupts_again() -> None:
    """From now on, send the signal of an interrupt that was dropped again."""
    sys.unraisablehook = _hook


def _hook(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _thread.start_new_thread(_send, ())
    else:
        sys.__unraisablehook__(unraisable)


def _send() -> None:
    time.sleep(_LATER_S)
    os.kill(os.getpid(), signal.SIGINT)
