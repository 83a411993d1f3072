"""Keeps the notes of a run (:mod:`ballonet.machine.notes`), and its sockets, while it lasts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError
from ballonet.base.paths import private_dir
from ballonet.machine.notes import EndNote, MachineNote
from ballonet.machine.owner_channel import Report
from ballonet.machine.run_directory import RunDirectory

if TYPE_CHECKING:
    from ballonet.machine.services import Services

log = logging.getLogger(__name__)

#: How often the sandbox checks that its sockets and its note exist (seconds).
_UPKEEP_S = 2.0


class RunNotes:
    """The notes of one run.

    :param directory: the sandbox's state directory; ``None``: the run is not registered, and has no notes.
    """

    def __init__(self, note: MachineNote, directory: Path | None) -> None:
        self.note = note
        self._directory = directory

    def write(self, **facts: Any) -> None:
        """Update the note with new facts.

        :raises HostError: it cannot be written.
        """
        self.note = replace(self.note, **facts)
        if self._directory is not None:
            self.note.write(self._directory)

    def write_end(self, report: Report, exit_code: int | None) -> None:
        """Write the end note, for the registry."""
        if self._directory is None:
            return
        failed = report.event == "failed"
        note = EndNote(
            run_id=self.note.run_id,
            reason="failed" if failed else str(report.facts["reason"]),
            detail=str(report.facts["message" if failed else "detail"]),
            exit_code=exit_code,
        )
        try:
            note.write(self._directory)
        except BallonetError as error:  # a full disk must not keep the sandbox from ending
            log.error("the end note cannot be written: %s", error)

    async def maintain(self, services: Services, run_directory: RunDirectory) -> None:
        """Restore the sandbox's sockets and note if they are removed."""
        logged = ""
        while True:
            await asyncio.sleep(_UPKEEP_S)
            try:
                if not run_directory.intact():
                    await services.repair()
                control = run_directory.control_path
                facts: dict[str, Any] = {
                    "run_dir": str(run_directory.path),
                    "control_socket": None if control is None else str(control),
                }
                if replace(self.note, **facts) != self.note or not self._is_there():
                    self.write(**facts)
            except BallonetError as error:
                if error.message != logged:  # once, not every two seconds
                    log.error("%s", error)
                logged = error.message

    def _is_there(self) -> bool:
        if self._directory is None:
            return True
        if not self._directory.is_dir():
            private_dir(self._directory)
        return MachineNote.read(self._directory) == self.note
