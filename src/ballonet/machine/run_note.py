"""The notes of one run: its process writes them, and restores them if they are removed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.base.paths import private_dir
from ballonet.host.identity import ProcessId
from ballonet.machine.notes import EndNote, MachineNote
from ballonet.machine.owner_channel import Report
from ballonet.machine.run_options import RunOptions

log = logging.getLogger(__name__)


class RunNote:
    """The note of this process's run. A run without a state directory or an id has none, and nothing is written."""

    def __init__(self, options: RunOptions, flags: Sequence[str]) -> None:
        self._note = MachineNote(run_id=options.run_id or "", process=ProcessId.current(), flags=tuple(flags))
        self._directory: Path | None = options.state_dir if options.run_id is not None else None

    @property
    def ready(self) -> bool:
        return self._note.ready

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of the running configuration."""
        return self._note.flags

    def write(self, **facts: Any) -> None:
        """Update the note with new facts.

        :raises HostError: it cannot be written.
        """
        self._note = replace(self._note, **facts)
        if self._directory is not None:
            self._note.write(self._directory)

    def keep(self, **facts: Any) -> None:
        """Write the note again if it is missing, or if one of ``facts`` has changed.

        :raises HostError: it cannot be written.
        """
        if replace(self._note, **facts) != self._note or not self._is_there():
            self.write(**facts)

    def end(self, report: Report, exit_code: int | None) -> None:
        """Write the end note, for the registry."""
        if self._directory is None:
            return
        failed = report.event == "failed"
        note = EndNote(
            run_id=self._note.run_id,
            reason="failed" if failed else str(report.facts["reason"]),
            detail=str(report.facts["message" if failed else "detail"]),
            exit_code=exit_code,
        )
        try:
            note.write(self._directory)
        except BallonetError as error:  # a full disk must not keep the sandbox from ending
            log.error("the end note cannot be written: %s", error)

    def _is_there(self) -> bool:
        if self._directory is None:
            return True
        if not self._directory.is_dir():
            private_dir(self._directory)
        return MachineNote.read(self._directory) == self._note
