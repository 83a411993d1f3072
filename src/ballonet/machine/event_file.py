"""A sandbox's own events, such as changes of its memory, in a file of its state directory, with at most 64 KiB.

The sandbox's process appends them, readers copy them to the registry (:mod:`ballonet.lifecycle.events`), so that the
process need not load a database. Each line is a JSON object whose ``id`` is unique. A line that a killed process has
not completed is ignored.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from ballonet.base.errors import HostError
from ballonet.base.paths import replace_file
from ballonet.machine.notes import EVENT_FILE

log = logging.getLogger(__name__)

#: When the file has this size, its older half is dropped.
_MOST_BYTES = 64 << 10
_TEXTS, _NUMBERS = ("id", "event", "run_id"), ("old_mib", "new_mib")


class EventFile:
    """Appends the events of one run."""

    def __init__(self, directory: Path, run_id: str) -> None:
        self._path = directory / EVENT_FILE
        self._run_id = run_id
        self._number = 0

    def append(self, event: str, **facts: Any) -> None:
        """Add an event; a failure is logged only: it must not disturb the sandbox."""
        self._number += 1
        line = {
            "id": f"{self._run_id}:{self._number}",
            "at": round(time.time(), 3),
            "event": event,
            "run_id": self._run_id,
            **facts,
        }
        try:
            self._write(json.dumps(line).encode() + b"\n")
        except (OSError, HostError) as error:
            log.warning("an event cannot be written: %s", error)

    def _write(self, line: bytes) -> None:
        with self._path.open("ab+", buffering=0) as file:
            size = file.tell()
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # this process, or the one before it, could not complete a line
                    line = b"\n" + line
            file.write(line)
        if size + len(line) > _MOST_BYTES:
            _, _, newer = self._path.read_bytes()[-_MOST_BYTES // 2 :].partition(b"\n")
            replace_file(self._path, newer)


def read_events(directory: Path) -> list[dict[str, Any]]:
    """The events in the file of this state directory, the oldest first."""
    try:
        content = (directory / EVENT_FILE).read_bytes()
    except OSError:
        return []
    return [event for line in content.splitlines() if (event := _read(line)) is not None]


def _read(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    right = (
        isinstance(event, dict)
        and all(isinstance(event.get(name), str) for name in _TEXTS)
        and all(isinstance(event.get(name), int | None) for name in _NUMBERS)
        and isinstance(event.get("at"), int | float)
        and isinstance(event.get("detail"), str | None)
    )
    return event if right else None
