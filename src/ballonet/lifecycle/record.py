"""One row of the registry: a sandbox as it was asked for, and what is known of its last run. Pure."""

from __future__ import annotations

import functools
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.host.identity import ProcessId
from ballonet.settings.flags import parse_config


class State(StrEnum):
    """Where a sandbox is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    #: It did not come up.
    FAILED = "failed"

    @property
    def lives(self) -> bool:
        """Whether it has a process."""
        return self in (State.STARTING, State.RUNNING)


@dataclass(frozen=True)
class Command:
    """What a sandbox runs by itself. Without one it idles until it is stopped."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    #: ``USER[:GROUP]``, names or numbers, which the guest looks up; ``None`` is root.
    user: str | None = None
    #: The number of the signal that asks it to end; ``None`` is SIGTERM.
    stop_signal: int | None = None


@dataclass(frozen=True)
class Defaults:
    """What the sandbox was told for commands: its own and every other gets this unless it says otherwise."""

    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    #: As it was typed; ``None`` is the image's user, or root.
    user: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A sandbox. Times are unix seconds."""

    name: str
    created_at: float
    #: The desired configuration, as the flags of :mod:`ballonet.settings.flags`: what the next start uses.
    flags: tuple[str, ...]
    #: What the root was asked to be made from; ``None`` is the built-in root.
    image: str | None = None
    #: The id of the image that the root is (``sha256:…``), once the reference has been resolved.
    image_id: str | None = None
    command: Command | None = None
    #: ``None`` in rows of older versions: see :attr:`inherited`.
    defaults: Defaults | None = None
    #: The sandbox goes away when it ends.
    auto_remove: bool = False
    #: Share of memory that the host's autopilot gives it, against 100 for the others.
    weight: int = 100
    #: Memory that the autopilot never takes from it (MiB).
    reserve_mib: int = 0
    state: State = State.CREATED
    #: Names the last run; its notes carry the same.
    run_id: str | None = None
    #: Who started the last run: it is waited for as long as this process lives.
    starter: ProcessId | None = None
    #: The sandbox's own process of the last run, once it has been started.
    process: ProcessId | None = None
    #: Where the last run has its sockets: the directory that its starter's environment led to.
    run_dir: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    end_reason: str | None = None
    end_detail: str | None = None
    exit_code: int | None = None
    #: Why the row cannot be read; the other fields then hold what can be. No column: see :func:`stored_fields`.
    unreadable: str | None = None

    @property
    def inherited(self) -> Defaults:
        """What commands inherit: :attr:`defaults`; of older rows, what the sandbox's own command runs with."""
        if self.defaults is not None:
            return self.defaults
        if self.command is None:
            return Defaults()
        return Defaults(self.command.env, self.command.cwd, self.command.user)


def stored_fields() -> list[Field[Any]]:
    """The fields of :class:`Record` that are columns of the registry."""
    return [field for field in fields(Record) if field.name != "unreadable"]


def unreadable_hint(name: str) -> str:
    """What a person can do about a row that cannot be read."""
    return f"remove it: ballonet rm --force {name}"


@functools.lru_cache(maxsize=4096)
def flags_problem(flags: tuple[str, ...]) -> str | None:
    """Why ``flags`` are not a configuration; ``None`` if they are one."""
    try:
        parse_config(flags)
    except BallonetError as error:
        return error.message
    return None
