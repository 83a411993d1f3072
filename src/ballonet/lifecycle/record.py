"""One row of the registry: the desired configuration of a sandbox, and its last run. Pure."""

from __future__ import annotations

import functools
from enum import StrEnum
from typing import Any

from ballonet.base.dataclass import Field, dataclass, field, fields
from ballonet.base.errors import BallonetError
from ballonet.host.identity import ProcessId
from ballonet.settings.flags import parse_config


class State(StrEnum):
    """The state of a sandbox."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    #: Its guest is saved, with its processes, and has no process on the host.
    PAUSED = "paused"
    #: It did not start.
    FAILED = "failed"

    @property
    def lives(self) -> bool:
        """Whether it has a process."""
        return self in (State.STARTING, State.RUNNING)


@dataclass(frozen=True)
class Command:
    """The sandbox's own command. A sandbox without one runs until it is stopped."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    #: ``USER[:GROUP]``, names or numbers, which the guest looks up; ``None`` is root.
    user: str | None = None
    #: The number of its stop signal; ``None`` is SIGTERM.
    stop_signal: int | None = None


@dataclass(frozen=True)
class Defaults:
    """The defaults of a sandbox for all its commands."""

    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    #: As typed; ``None`` is the image's user, or root.
    user: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A sandbox. Times are unix seconds."""

    name: str
    created_at: float
    #: The desired configuration, as the flags of :mod:`ballonet.settings.flags`: what the next start uses.
    flags: tuple[str, ...]
    #: The image reference as requested; ``None`` is the built-in root.
    image: str | None = None
    #: The id of the image (``sha256:…``), once the reference has been resolved.
    image_id: str | None = None
    command: Command | None = None
    #: ``None`` in rows of older versions: see :attr:`inherited`.
    defaults: Defaults | None = None
    labels: dict[str, str] = field(default_factory=dict)
    #: Remove the sandbox when it ends.
    auto_remove: bool = False
    #: Its weight when the autopilot shares memory; the default is 100.
    weight: int = 100
    #: Memory that the autopilot leaves to it in any case (MiB).
    reserve_mib: int = 0
    state: State = State.CREATED
    #: Id of the last run; the status files of the run have the same.
    run_id: str | None = None
    #: The process that started the last run, which is starting at most as long as this process runs.
    starter: ProcessId | None = None
    #: The sandbox's own process of the last run, once it was started.
    process: ProcessId | None = None
    #: The run directory of the last run, from the environment of its starter.
    run_dir: str | None = None
    #: Whether the last run continued a saved guest that had run before.
    resumed: bool = False
    #: The last event of the sandbox's process that the registry has: see :mod:`ballonet.lifecycle.events`.
    events_seen: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end_reason: str | None = None
    end_detail: str | None = None
    exit_code: int | None = None
    #: Why the row cannot be read; the other fields then have what can be read. Not a column: see :func:`stored_fields`.
    unreadable: str | None = None

    @property
    def inherited(self) -> Defaults:
        """The defaults of commands: :attr:`defaults`, or in older rows the settings of the sandbox's own command."""
        if self.defaults is not None:
            return self.defaults
        if self.command is None:
            return Defaults()
        return Defaults(self.command.env, self.command.cwd, self.command.user)


@functools.cache
def stored_fields() -> tuple[Field[Any], ...]:
    """The fields of :class:`Record` that are columns of the registry."""
    return tuple(field for field in fields(Record) if field.name != "unreadable")


def unreadable_hint(name: str) -> str:
    """What a person can do about a row that cannot be read."""
    return f"remove it: ballonet rm --force {name}"


def flags_problem(flags: tuple[str, ...]) -> str | None:
    """Why ``flags`` are not a configuration; ``None`` if they are one."""
    try:
        parse_config(flags)
    except BallonetError as error:
        return error.message
    return None
