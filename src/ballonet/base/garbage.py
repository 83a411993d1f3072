"""How often Python looks for unreachable cycles of objects.

A command loads up to 200 modules before it begins, and a sandbox's process as many. That makes hardly any cycles: with
Python's own thresholds, a twentieth of a command's processor time goes into collections that find nothing.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
#: Collect when there are so many more objects than after the last collection: more than modules create.
_SELDOM_OBJECTS = 100_000


def collect_seldom() -> None:
    """While modules are loaded."""
    gc.set_threshold(_SELDOM_OBJECTS, *_USUAL[1:])


def collect_as_usual() -> None:
    """From now on. What exists already is not looked at again, as it will not become garbage."""
    gc.freeze()
    gc.set_threshold(*_USUAL)
