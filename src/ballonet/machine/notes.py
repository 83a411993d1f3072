"""What a sandbox's process writes down for others: that it lives, as what, and how it ended.

Two small JSON files in the sandbox's state directory, beside the registry, written whole: ``machine.json`` from the
beginning of a run on, ``end.json`` at its end. They never lie in the run directory: which one that is depends on the
environment of the one who looks, and it may go away while the sandbox lives. Readers
(:mod:`ballonet.lifecycle.liveness`, :mod:`ballonet.lifecycle.sandboxes`) fold both into the registry, so that this
process, one per sandbox, need not carry a database. Each names the run that it is about.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from ballonet.base.paths import replace_file
from ballonet.host.identity import ProcessId

AGENT_SOCKET = "agent.sock"
CONTROL_SOCKET = "control.sock"
MACHINE_NOTE = "machine.json"
END_NOTE = "end.json"
#: In the state directory: the command that the sandbox runs by itself. Not among its flags, which every user of the
#: host can read.
COMMAND_FILE = "command.json"
#: How many seconds the stop that follows may take (a number).
STOP_NOTE = "stop"


@dataclass(frozen=True, kw_only=True)
class MachineNote:
    """The process of a sandbox's run; whether it lives, :mod:`ballonet.lifecycle.liveness` finds out."""

    run_id: str
    process: ProcessId
    #: The engine's process, once there is one.
    engine: ProcessId | None = None
    #: Where its sockets are.
    run_dir: str = ""
    #: Whether the guest has booted.
    ready: bool = False
    #: The flags that it was started with: the running configuration.
    flags: tuple[str, ...] = ()
    control_socket: str | None = None
    #: The published ports as they came to be, with those that the host chose.
    ports: tuple[str, ...] = ()
    #: Unix time of the guest's first word, and how long it took from the start (seconds).
    started_at: float | None = None
    boot_s: float | None = None

    @property
    def engine_pid(self) -> int:
        """0: there is none yet."""
        return 0 if self.engine is None else self.engine.pid

    @property
    def agent_socket(self) -> Path:
        """Where programs of the sandbox's owner reach its guest's agent."""
        return Path(self.run_dir) / AGENT_SOCKET

    def alive(self) -> bool:
        """Whether anything of the run lives: its process, or at least its engine."""
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
        """The note in ``directory``; ``None`` if there is none that can be read."""
        facts = _read(directory / MACHINE_NOTE)
        if facts is None or (process := ProcessId.from_json(facts.pop("process", None))) is None:
            return None
        try:
            flags, ports = tuple(facts.pop("flags", ())), tuple(facts.pop("ports", ()))
            engine = ProcessId.from_json(facts.pop("engine", None))
            facts.pop(
                "engine_pid", None
            )  # of earlier versions: a number alone may mean another process by now
            return _checked(cls(process=process, engine=engine, flags=flags, ports=ports, **facts))
        except TypeError:
            return None


@dataclass(frozen=True, kw_only=True)
class EndNote:
    """How a sandbox ended."""

    run_id: str
    #: A word: see :class:`ballonet.vmm.engine.ExitReason`, or ``completed``, ``guest-oom``, ``failed``, ``killed``.
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

#: By the annotation of a field, what its value must be.
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
    """``note``, as read from a file that anything may have happened to.

    :raises TypeError: something in it is of another type.
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
