"""The autopilot's decisions on disk, for ``pilot explain``: bounded, one JSON object per line, newest last.

Two files rotate: when the newer one is full, it replaces the older one. Incomplete lines, as after a crash, are
ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ballonet.base.errors import HostError, os_hint

#: Maximum size of each of the two files (bytes).
SEGMENT_BYTES = 4 * 1024 * 1024
#: How often a line is written for a sandbox while nothing changes (seconds).
QUIET_S = 60.0

_NEWER, _OLDER = "decisions.jsonl", "decisions.1.jsonl"


class Journal:
    """Writes decisions. There is a single writer: the holder of the autopilot's lock."""

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._last: dict[str, tuple[object, float]] = {}
        # Start on a new line: an earlier writer may have left an incomplete one.
        self._before = "\n"

    def add(self, at: float, entries: list[dict[str, Any]]) -> None:
        """Record the relevant verdicts of one tick: new targets, changed problems, and one per :data:`QUIET_S`.

        :param at: unix time.
        :param entries: one per sandbox, with at least ``sandbox``, ``target_mib`` (the requested target or ``None``)
            and ``old_mib``.
        :raises HostError: the file cannot be written.
        """
        lines = []
        for entry in entries:
            name = entry["sandbox"]
            kind = (entry["target_mib"] is None, entry.get("problem"), entry.get("error"))
            moved = entry["target_mib"] is not None and entry["target_mib"] != entry["old_mib"]
            moved = moved or bool(entry.get("trim_mib")) or bool(entry.get("pause"))
            last_kind, last_at = self._last.get(name, (None, 0.0))
            if moved or kind != last_kind or at - last_at >= QUIET_S:
                self._last[name] = (kind, at)
                lines.append(json.dumps({"at": round(at, 3), **entry}) + "\n")
        if lines:
            self._append("".join(lines))

    def _append(self, text: str) -> None:
        path = self._directory / _NEWER
        try:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size + len(text) > self._segment_bytes:
                    path.replace(self._directory / _OLDER)
            with path.open("a", encoding="utf-8") as file:
                file.write(self._before + text)
            self._before = ""
        except OSError as error:
            raise HostError(
                f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path)
            ) from error


def read_decisions(directory: Path, sandbox: str, count: int) -> list[dict[str, Any]]:
    """The last ``count`` decisions about ``sandbox``, newest last."""
    found = [entry for entry in _entries(directory) if entry.get("sandbox") == sandbox]
    return found[-count:]


def _entries(directory: Path) -> Iterator[dict[str, Any]]:
    for name in (_OLDER, _NEWER):
        try:
            text = (directory / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry
