"""The files in which a sandbox's process records that it runs, its configuration, and how it ended.

There are two JSON files in the sandbox's state directory, written atomically: ``machine.json`` from the start of a run,
``end.json`` at its end. They are not in the run directory, which depends on the reader's environment and may be removed
while the sandbox runs. Readers (:mod:`ballonet.lifecycle.liveness`, :mod:`ballonet.lifecycle.sandboxes`) copy both to
the registry, so that the sandbox's process need not load a database. Each file has the id of its run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from ballonet.base.dataclass import asdict, dataclass, fields
from ballonet.base.paths import replace_file
from ballonet.host.identity import ProcessId

AGENT_SOCKET = "agent.sock"
CONTROL_SOCKET = "control.sock"
MACHINE_NOTE = "machine.json"
END_NOTE = "end.json"
#: In the state directory: the sandbox's own command. It is not among the flags, which every user of the host can read.
COMMAND_FILE = "command.json"
#: In the state directory: events of the sandbox's process (:mod:`ballonet.machine.event_file`).
EVENT_FILE = "events.jsonl"
#: In the state directory: the timeout of the following stop (seconds).
STOP_NOTE = "stop"


@dataclass(frozen=True, kw_only=True)
class MachineNote:
    """The process of a sandbox's run. :mod:`ballonet.lifecycle.liveness` finds out whether it is running."""

    run_id: str
    process: ProcessId
    #: The engine's process, once it exists.
    engine: ProcessId | None = None
    #: The directory with its sockets.
    run_dir: str = ""
    #: Whether the guest has booted.
    ready: bool = False
    #: Whether it was resumed, or is being resumed.
    resumed: bool = False
    #: The flags with which it was started: the running configuration.
    flags: tuple[str, ...] = ()
    control_socket: str | None = None
    #: The published ports, with the host ports that the kernel chose.
    ports: tuple[str, ...] = ()
    #: Unix time at which the guest was ready, and how long that took (seconds).
    started_at: float | None = None
    boot_s: float | None = None
    #: The guest's health: ``starting``, ``healthy`` or ``unhealthy``; ``None``: it is not checked.
    health: str | None = None

    @property
    def engine_pid(self) -> int:
        """The pid of the engine; 0 if there is none yet."""
        return 0 if self.engine is None else self.engine.pid

    @property
    def agent_socket(self) -> Path:
        """The socket of the guest's agent, for programs of the sandbox's owner."""
        return Path(self.run_dir) / AGENT_SOCKET

    def alive(self) -> bool:
        """Whether its process, or at least its engine, is running."""
        return self.process.alive() or (self.engine is not None and self.engine.alive())

    def write(self, directory: Path) -> None:
        """:raises HostError: it cannot be written."""
        facts = {
            **asdict(self),
            "process": self.process.to_json(),
            "engine": None if self.engine is None else self.engine.to_json(),
        }
        replace_file(directory / MACHINE_NOTE, json.dumps(facts).encode())

    @classmethod
    def read(cls, directory: Path) -> MachineNote | None:
        """The note in ``directory``; ``None`` if there is none or it is damaged."""
        facts = _read(directory / MACHINE_NOTE)
        if facts is None or (process := ProcessId.from_json(facts.pop("process", None))) is None:
            return None
        try:
            flags, ports = tuple(facts.pop("flags", ())), tuple(facts.pop("ports", ()))
            engine = ProcessId.from_json(facts.pop("engine", None))
            facts.pop("engine_pid", None)  # of earlier versions: the pid may have been reused
            return _checked(cls(process=process, engine=engine, flags=flags, ports=ports, **facts))
        except TypeError:
            return None


@dataclass(frozen=True, kw_only=True)
class EndNote:
    """How a sandbox ended."""

    run_id: str
    #: See :class:`ballonet.vmm.engine.ExitReason`; also ``failed`` and ``killed``.
    reason: str
    #: A sentence.
    detail: str
    #: Exit status of the sandbox's own command, if it had one that ended; 128+n if signal n killed it.
    exit_code: int | None = None
    ended_at: float = 0.0

    def write(self, directory: Path) -> None:
        """:raises HostError: it cannot be written."""
        note = {**asdict(self), "ended_at": self.ended_at or time.time()}
        replace_file(directory / END_NOTE, json.dumps(note).encode())

    @classmethod
    def read(cls, directory: Path) -> EndNote | None:
        """The note in ``directory``; ``None`` if there is none or it is damaged."""
        facts = _read(directory / END_NOTE)
        try:
            return None if facts is None else _checked(cls(**facts))
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


_Note = TypeVar("_Note", MachineNote, EndNote)

#: The types of values by the annotation of the field.
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "float": (int, float),
    "str | None": (str, NoneType),
    "int | None": (int, NoneType),
    "float | None": (int, float, NoneType),
    "tuple[str, ...]": (tuple,),
}


def _checked(note: _Note) -> _Note:
    """``note``, read from a file that may be damaged.

    :raises TypeError: a value has a wrong type.
    """
    for field in fields(note):
        value, wanted = getattr(note, field.name), _TYPES.get(str(field.type))
        right = wanted is None or isinstance(value, wanted)
        if not right or (isinstance(value, tuple) and not all(isinstance(item, str) for item in value)):
            raise TypeError(f"{field.name} {value!r}")
    return note


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
