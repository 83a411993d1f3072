"""The pause switch, and what the autopilot last saw and decided: two files in its directory."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from ballonet.base.paths import replace_file, state_dir
from ballonet.pilot.lock import pilot_dir, user_name

_PAUSED, _STATUS = "paused", "status.json"


def pause() -> None:
    """Pause the autopilot from the next tick on: it sets no targets. Each sandbox's own pressure relief continues.

    :raises HostError: the switch cannot be written.
    """
    replace_file(pilot_dir() / _PAUSED, json.dumps({"since": time.time(), "user": user_name()}).encode())


def resume() -> bool:
    """Undo :func:`pause`; returns whether it was paused."""
    try:
        (pilot_dir() / _PAUSED).unlink()
    except FileNotFoundError:
        return False
    return True


def paused_since() -> float | None:
    """Unix time since when the autopilot is paused; ``None`` if it is not."""
    try:
        document = json.loads((state_dir() / "pilot" / _PAUSED).read_bytes())
        return float(document["since"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # the file is unreadable, but it exists: stay paused


def write_status(status: Mapping[str, Any]) -> None:
    """Record what the autopilot last saw and decided, for ``pilot status`` and for admission control.

    :raises HostError: it cannot be written.
    """
    replace_file(pilot_dir() / _STATUS, json.dumps(status).encode(), durable=False)


def read_status() -> dict[str, Any] | None:
    """What :func:`write_status` wrote last; ``None`` if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        status = json.loads((state_dir() / "pilot" / _STATUS).read_bytes())
        if isinstance(status, dict):
            return status
    return None
