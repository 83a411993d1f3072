"""The notes in the file of a saved sandbox, beside its guest's memory and devices
(:mod:`ballonet.vmm.saved_state`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from ballonet.base.dataclass import asdict, dataclass
from ballonet.guest.channel_stream import StreamAccount
from ballonet.machine.disk import DISK_FILE
from ballonet.vmm.saved_state import SavedState, SavedStateError


@dataclass(frozen=True, kw_only=True)
class SavedSandbox:
    """What is noted about a saved sandbox."""

    name: str
    #: The flags with which it ran; none if another sandbox is to be made of it.
    flags: tuple[str, ...]
    #: Unix time.
    saved_at: float
    #: The published ports, with the host ports that the kernel chose.
    ports: tuple[str, ...] = ()
    #: The stream of its own command, if that was running.
    command: StreamAccount | None = None
    #: Target and limit of its balloon (MiB).
    target_mib: int | None = None
    limit_mib: int | None = None
    #: Size and modification time (ns) of its disk, if it has one: see :func:`disk_facts`.
    disk: tuple[int, int] | None = None
    #: How long it had run (seconds).
    ran_s: float = 0.0
    #: The totals of runs before the one that was saved.
    earlier: dict[str, int] | None = None

    def encode(self) -> bytes:
        """The notes for :meth:`ballonet.vmm.engine.Vm.save`."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, state: SavedState) -> Self:
        """:raises SavedStateError: the state has no such notes."""
        try:
            facts: dict[str, Any] = json.loads(state.notes)
            command, disk = facts.pop("command"), facts.pop("disk")
            facts["flags"], facts["ports"] = tuple(facts["flags"]), tuple(facts["ports"])
            return cls(
                command=None if command is None else StreamAccount(**command),
                disk=None if disk is None else (int(disk[0]), int(disk[1])),
                **facts,
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise SavedStateError(f"the saved state {state.path} is not that of a sandbox") from error


def disk_facts(directory: Path) -> tuple[int, int] | None:
    """Size and modification time of the disk in a state directory; ``None`` if there is none. Every write of a guest
    changes the time."""
    try:
        facts = (directory / DISK_FILE).stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


def read_saved(path: Path) -> SavedSandbox:
    """The notes in a saved sandbox's file.

    :raises FileNotFoundError: there is none.
    :raises SavedStateError: it is damaged, or not one of a sandbox.
    """
    with SavedState.open(path, None) as state:
        return SavedSandbox.decode(state)
