"""The expected state of each sandbox, and checks of every result. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """A sandbox's state as ``ls`` shows it, or ``absent`` if it does not exist."""

    ABSENT = "absent"
    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


#: It exists and has no process.
IDLE = frozenset({State.CREATED, State.STOPPED, State.FAILED})
#: It has no process, whether or not it exists.
DEAD = IDLE | {State.ABSENT}
RUNNING = frozenset({State.RUNNING})
ABSENT = frozenset({State.ABSENT})


class WrongError(AssertionError):
    """ballonet did not do what it promises."""


class SkippedError(Exception):
    """The step does not apply to this sandbox, or is not possible on this host."""


@dataclass
class Box:
    """A sandbox of one worker: its settings and its expected state."""

    name: str
    state: State = State.ABSENT
    memory_mib: int = 160
    floor_mib: int = 96
    volume: str | None = None
    disk: bool = False
    relief: bool = True
    #: Its processes by pid, while it runs.
    processes: dict[int, str] = field(default_factory=dict)
    #: Whether an autopilot may move its target.
    piloted: bool = False


#: Text that no output of ballonet may contain: tracebacks, internal errors, lost exceptions.
_DEFECTS = (
    "Traceback (most recent call last)",
    "internal error",
    "internal-error",
    "exception was never retrieved",
    "Exception ignored",
    "was never awaited",
    "ResourceWarning",
)
_ERROR_LINE = re.compile(r"^ballonet: error: \S", re.MULTILINE)


def defect_in(text: str) -> str | None:
    """The first line of ``text`` that shows a defect of ballonet; ``None`` if there is none."""
    for line in text.splitlines():
        if any(defect in line for defect in _DEFECTS):
            return line
    return None


def unclean(status: int, stderr: str, *, own_status: bool) -> str | None:
    """Why the result of a ballonet command is not clean; ``None`` if it is.

    :param own_status: a status other than 0 is ballonet's, not that of a command in a guest.
    """
    line = defect_in(stderr)
    if line is not None:
        return f"it shows a defect: {line}"
    if status < 0:
        return f"signal {-status} terminated it"
    if own_status and status not in (0, 3) and not _ERROR_LINE.search(stderr):
        return f"status {status} without an error message"
    return None


def clamp(asked_mib: int, floor_mib: int, ceiling_mib: int) -> int:
    return min(max(asked_mib, floor_mib), ceiling_mib)


def wrong_reply(reply: dict[str, Any], asked_mib: int, box: Box, limit_mib: int | None = None) -> str | None:
    """Why a reply to ``balloon set`` is wrong; ``None`` if it is correct."""
    upper = box.memory_mib if limit_mib is None else min(limit_mib, box.memory_mib)
    wanted = clamp(asked_mib, box.floor_mib, upper)
    if reply["requested_mib"] != asked_mib and reply["outcome"] != "superseded":
        return f"requested {asked_mib} MiB, the reply says {reply['requested_mib']}"
    may_move = reply["outcome"] == "superseded" or box.piloted or box.relief
    if reply["target_mib"] != wanted and not (may_move and reply["target_mib"] >= box.floor_mib):
        return f"{asked_mib} MiB must give a target of {wanted} MiB, not {reply['target_mib']}"
    if reply["outcome"] == "superseded":
        return None  # state and actual are then those of the later target
    if reply["state"] == "applied" and reply["actual_mib"] != reply["target_mib"]:
        return f"applied, but the target is {reply['target_mib']} MiB and actual is {reply['actual_mib']} MiB"
    return None


def wrong_balloon(shown: dict[str, Any], target_mib: int, box: Box) -> str | None:
    """Why the output of ``balloon get`` after a target was applied is wrong; ``None`` if it is correct."""
    if shown["target_mib"] == target_mib:
        if shown["state"] == "applied" and shown["actual_mib"] != target_mib:
            return f"applied, but actual is {shown['actual_mib']} of {target_mib} MiB"
        return None
    if box.piloted or (box.relief and shown["target_mib"] > target_mib):
        return None
    return f"a target of {target_mib} MiB was applied, but {shown['target_mib']} MiB is shown"


def show_states(states: Iterable[State]) -> str:
    return " or ".join(sorted(states))
