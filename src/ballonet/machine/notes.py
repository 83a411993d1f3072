"""What a sandbox's process writes down for others: that it lives, as what, and how it ended.

Two small JSON files, written whole. ``machine.json`` lies in the sandbox's run directory while its process lives;
``end.json`` in its state directory from then on. Readers (:mod:`ballonet.lifecycle`) fold both into the registry, so
that this process, one per sandbox, need not carry a database. Each names the run that it is about.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ballonet.host.identity import ProcessId
from ballonet.paths import replace_file

MACHINE_NOTE = "machine.json"
END_NOTE = "end.json"
#: In the state directory: the command that the sandbox runs by itself. Not among its flags, which every user of the
#: host can read.
COMMAND_FILE = "command.json"
#: In the run directory: how many seconds the stop that follows may take (a number).
STOP_NOTE = "stop"


@dataclass(frozen=True, kw_only=True)
class MachineNote:
    """A sandbox's process that lives."""

    run_id: str
    process: ProcessId
    #: Whether the guest has booted.
    ready: bool = False
    #: The flags that it was started with: the running configuration.
    flags: tuple[str, ...] = ()
    engine_pid: int = 0
    control_socket: str | None = None
    #: The published ports as they came to be, with those that the host chose.
    ports: tuple[str, ...] = ()
    #: Unix time of the guest's first word, and how long it took from the start (seconds).
    started_at: float | None = None
    boot_s: float | None = None

    def write(self, directory: Path) -> None:
        """:raises HostError: it cannot be written."""
        facts = {**asdict(self), "process": self.process.to_json()}
        replace_file(directory / MACHINE_NOTE, json.dumps(facts).encode())

    @classmethod
    def read(cls, directory: Path) -> MachineNote | None:
        """The note in ``directory``; ``None`` if there is none that can be read."""
        facts = _read(directory / MACHINE_NOTE)
        if facts is None or (process := ProcessId.from_json(facts.pop("process", None))) is None:
            return None
        try:
            flags, ports = tuple(facts.pop("flags", ())), tuple(facts.pop("ports", ()))
            return cls(process=process, flags=flags, ports=ports, **facts)
        except TypeError:
            return None


@dataclass(frozen=True, kw_only=True)
class EndNote:
    """How a sandbox ended."""

    run_id: str
    #: A word: see :class:`ballonet.vmm.vm.ExitReason`, or ``completed``, ``guest-oom``, ``failed``, ``killed``.
    reason: str
    #: A sentence.
    detail: str
    #: Of the sandbox's own command, if it had one that ended; 128+n where signal n killed it.
    exit_code: int | None = None
    ended_at: float = 0.0

    def write(self, directory: Path) -> None:
        """:raises HostError: it cannot be written."""
        note = {**asdict(self), "ended_at": self.ended_at or time.time()}
        replace_file(directory / END_NOTE, json.dumps(note).encode())

    @classmethod
    def read(cls, directory: Path) -> EndNote | None:
        """The note in ``directory``; ``None`` if there is none that can be read."""
        facts = _read(directory / END_NOTE)
        try:
            return None if facts is None else cls(**facts)
        except TypeError:
            return None


def write_stop_seconds(directory: Path, seconds: float) -> None:
    """:raises HostError: it cannot be written."""
    replace_file(directory / STOP_NOTE, f"{seconds:g}".encode())


def read_stop_seconds(directory: Path, default: float) -> float:
    """What :func:`write_stop_seconds` wrote, or ``default``."""
    try:
        return float((directory / STOP_NOTE).read_text())
    except (OSError, ValueError):
        return default


def remove_notes(directory: Path) -> None:
    """Remove those of the run directory. What cannot be removed is of no harm: it names a process that is gone."""
    for name in (MACHINE_NOTE, STOP_NOTE):
        with contextlib.suppress(OSError):
            (directory / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
