"""Who drives a user's sandboxes: one autopilot at a time, by a lock with its owner's name; and the pause switch.

All of it lies in ``pilot/`` below the state directory, beside the registry whose sandboxes it is about.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import json
import os
import pwd
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ballonet.base.errors import HostError, PilotBusyError, os_hint
from ballonet.base.paths import private_dir, replace_file, state_dir
from ballonet.host.identity import ProcessId

_LOCK, _PAUSED, _STATUS = "lock", "paused", "status.json"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The autopilot that holds the lock."""

    process: ProcessId
    user: str
    since: float
    policy: str
    #: Patterns of the names that it looks after; none: all.
    only: tuple[str, ...] = ()

    @property
    def pid(self) -> int:
        return self.process.pid


def looks_after(only: Sequence[str], name: str) -> bool:
    """Whether an autopilot with these patterns (fnmatch; none: all) looks after the sandbox ``name``."""
    return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)


def pilot_dir() -> Path:
    """The autopilot's own directory; made on demand.

    :raises HostError: it cannot be made.
    """
    return private_dir(state_dir() / "pilot")


class Claim:
    """``with Claim.take("ballonet") as claim: …``. The kernel gives the lock back however the process ends."""

    def __init__(self, fd: int, owner: Owner) -> None:
        self._fd = fd
        self.owner = owner

    @classmethod
    def take(cls, policy: str, only: tuple[str, ...] = ()) -> Self:
        """:raises PilotBusyError: another autopilot drives these sandboxes; the message says which.
        :raises HostError: the lock cannot be opened.
        """
        path = pilot_dir() / _LOCK
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(
                f"the lock {path} cannot be opened: {error.strerror}", hint=os_hint(error, path)
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _read_owner(fd)
            os.close(fd)
            who = "another autopilot" if other is None else _describe(other)
            raise PilotBusyError(
                f"{who} drives these sandboxes", hint="end that one first; --dry-run may run beside it"
            ) from None
        owner = Owner(
            process=ProcessId.current(), user=_user_name(), since=time.time(), policy=policy, only=only
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
    """The autopilot that drives the user's sandboxes now; ``None`` if none does.

    It is found by looking at its process: trying its lock would make one that starts at the same moment fail.
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


def pause() -> None:
    """From the next tick on the autopilot moves nothing. Pressure relief, which is each sandbox's own, goes on.

    :raises HostError: it cannot be written down.
    """
    replace_file(pilot_dir() / _PAUSED, json.dumps({"since": time.time(), "user": _user_name()}).encode())


def resume() -> bool:
    """Undo :func:`pause`; whether it was paused."""
    try:
        (pilot_dir() / _PAUSED).unlink()
    except FileNotFoundError:
        return False
    return True


def paused_since() -> float | None:
    """Unix time since when the autopilot is paused; ``None``: it is not."""
    try:
        said = json.loads((state_dir() / "pilot" / _PAUSED).read_bytes())
        return float(said["since"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # something is there: whoever put it there wants a pause


def write_status(status: Mapping[str, Any]) -> None:
    """What the autopilot last saw and said, for people and for admission.

    :raises HostError: it cannot be written.
    """
    replace_file(pilot_dir() / _STATUS, json.dumps(status).encode(), durable=False)


def read_status() -> dict[str, Any] | None:
    """What :func:`write_status` wrote last; ``None`` if that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        status = json.loads((state_dir() / "pilot" / _STATUS).read_bytes())
        if isinstance(status, dict):
            return status
    return None


def _read_owner(fd: int) -> Owner | None:
    try:
        said = json.loads(os.pread(fd, 65536, 0))
        process = ProcessId.from_json(said["process"])
        if process is None:
            return None
        return Owner(**{**said, "process": process, "only": tuple(said["only"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # its owner is just writing


def _describe(owner: Owner) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
    return f"the autopilot of user {owner.user} (pid {owner.pid}, policy {owner.policy}, since {at})"


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
