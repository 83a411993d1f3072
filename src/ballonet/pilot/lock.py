"""The lock that lets one autopilot at a time manage a user's sandboxes; the lock file names its owner.

It is in ``pilot/`` in the state directory, next to the registry of the sandboxes.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import pwd
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ballonet.base.dataclass import asdict, dataclass
from ballonet.base.errors import PilotBusyError
from ballonet.base.paths import open_lock_file, private_dir, state_dir
from ballonet.host.identity import ProcessId

_LOCK = "lock"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The autopilot that holds the lock."""

    process: ProcessId
    user: str
    since: float
    policy: str
    #: Name patterns of the sandboxes that it manages; empty: all.
    only: tuple[str, ...] = ()

    @property
    def pid(self) -> int:
        return self.process.pid


def manages(only: Sequence[str], name: str) -> bool:
    """Whether an autopilot with these patterns (fnmatch; none: all) manages the sandbox ``name``."""
    return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)


def pilot_dir() -> Path:
    """The autopilot's directory; created on demand.

    :raises HostError: it cannot be created.
    """
    return private_dir(state_dir() / "pilot")


class PilotLock:
    """``with PilotLock.acquire("ballonet"): …``. The kernel releases the lock when the process ends in any way."""

    def __init__(self, fd: int, owner: Owner) -> None:
        self._fd = fd
        self.owner = owner

    @classmethod
    def acquire(cls, policy: str, only: tuple[str, ...] = ()) -> Self:
        """:raises PilotBusyError: another autopilot manages these sandboxes; the message says which.
        :raises HostError: the lock cannot be opened.
        """
        fd = open_lock_file(pilot_dir() / _LOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _read_owner(fd)
            os.close(fd)
            who = "another autopilot" if other is None else _describe(other)
            raise PilotBusyError(
                f"{who} already manages these sandboxes",
                hint="stop it first, or use --dry-run, which changes nothing",
            ) from None
        owner = Owner(
            process=ProcessId.current(), user=user_name(), since=time.time(), policy=policy, only=only
        )
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({**asdict(owner), "process": owner.process.to_json()}).encode(), 0)
        return cls(fd, owner)

    def close(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def find_owner() -> Owner | None:
    """The autopilot that manages the user's sandboxes now; ``None`` if there is none.

    This checks the owner's process: taking the lock could make an autopilot that starts at the same moment fail.
    """
    try:
        fd = os.open(state_dir() / "pilot" / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        owner = _read_owner(fd)
    finally:
        os.close(fd)
    return owner if owner is not None and owner.process.alive() else None


def _read_owner(fd: int) -> Owner | None:
    try:
        document = json.loads(os.pread(fd, 65536, 0))
        process = ProcessId.from_json(document["process"])
        if process is None:
            return None
        return Owner(**{**document, "process": process, "only": tuple(document["only"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the owner is just writing it


def _describe(owner: Owner) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    return f"the autopilot of user {owner.user} (pid {owner.pid}, policy {owner.policy}, since {at})"


def user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
