"""Memory cgroups, versions 1 and 2: creates one for a process, and changes its limit.

Files and semantics: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. On a host without a
writable memory controller this raises an error with the reason: a limit is never silently ignored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError

log = logging.getLogger(__name__)

#: Names a directory on a cgroup2 file system that is delegated to this user (cgroup-v2.rst, "Delegation").
DELEGATED_VARIABLE = "BALLONET_CGROUP"
#: Version 2: how far ``memory.max`` lies above the limit, in bytes.
_HIGH_TO_MAX_BYTES = 32 << 20


@dataclass(frozen=True)
class Hierarchy:
    """Where a group can be created: the parent directory, and the cgroup version."""

    version: int
    parent: Path


class MemoryGroup(Protocol):
    """One cgroup with a memory limit."""

    @property
    def procs_file(self) -> Path:
        """Write a pid here to move a process into the group; before exec, so that all its memory counts."""
        ...

    def set_limit(self, limit_bytes: int) -> bool:
        """Set the limit. False: the kernel could not reclaim enough memory yet; try again later."""
        ...

    def kills(self) -> int:
        """How many times the kernel killed a process of the group because of the limit."""
        ...

    def remove(self) -> None:
        """Remove the group, after its processes have ended."""
        ...


def open_group(name: str, *, hierarchy: Hierarchy | None = None) -> MemoryGroup:
    """Create a memory cgroup named ``name``; one that exists already is reused.

    :param hierarchy: where to create it; found by default.
    :raises HostError: this host has no writable memory controller; the message says what was found.
    """
    if hierarchy is not None:
        return _make_group(name, hierarchy)
    try:
        return _make_group(name, find_hierarchy())
    except HostError as error:
        # With version 2, other processes in this process's group, or another owner of it, may prevent that.
        mount = controller_mounts(Path("/proc/self/mounts")).get("")
        if mount is None or os.environ.get(DELEGATED_VARIABLE):
            raise
        return _make_group_elsewhere(name, mount, error)


def find_hierarchy(
    *,
    proc: Path = Path("/proc/self"),
    env: Mapping[str, str] | None = None,
    access: Mapping[Path, bool] | None = None,
) -> Hierarchy:
    """Where this process may create memory cgroups.

    The first of: the delegated directory in ``$BALLONET_CGROUP``; this process's group of the version 1 memory
    controller; this process's version 2 group, if it is delegated to this user.

    :raises HostError: there is none.
    """
    env = os.environ if env is None else env
    if chosen := env.get(DELEGATED_VARIABLE):
        directory = Path(chosen)
        if not (directory / "cgroup.controllers").is_file():
            raise HostError(f"${DELEGATED_VARIABLE} {chosen} is not a cgroup2 directory", hint=_hint(2))
        return Hierarchy(2, directory)
    mounts, groups = controller_mounts(proc / "mounts"), own_groups(proc / "cgroup")
    found: list[str] = []
    for version, controllers in ((1, "memory"), (2, "")):
        mount, group = mounts.get(controllers), groups.get(controllers)
        if mount is None or group is None:
            continue
        parent = mount / group.lstrip("/")
        if version == 2 and "memory" not in _words(parent / "cgroup.controllers"):
            found.append(f"{parent} (version 2) has no memory controller")
        elif not _writable(parent, access):
            found.append(f"{parent} (version {version}) is not writable")
        else:
            return Hierarchy(version, parent)
    raise HostError(
        f"this host has no writable memory controller: {'; '.join(found) or 'no cgroup file system is mounted'}",
        hint=_hint(2),
    )


def prune_groups(prefix: str) -> list[str]:
    """Remove the groups named ``prefix…`` that no process uses, nor has opened; returns their names."""
    parents = []
    with contextlib.suppress(HostError):
        parents.append(find_hierarchy().parent)
    mount = controller_mounts(Path("/proc/self/mounts")).get("")
    if mount is not None:
        parents += _groups_above(mount)
    removed = []
    for directory in sorted({found for parent in parents for found in parent.glob(f"{prefix}*/")}):
        with contextlib.suppress(OSError):  # it is in use, has processes, or is gone
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                directory.rmdir()
            finally:
                os.close(lock)
            removed.append(directory.name)
    return removed


def _make_group_elsewhere(name: str, mount: Path, error: HostError) -> MemoryGroup:
    """Version 2, if this process's group cannot be used: in a new systemd scope, else in an ancestor of the group that
    is writable (root).

    :raises HostError: nowhere; the message says what was tried.
    """
    from ballonet.host.scope import enter_scope

    tried = [error.message]
    try:
        enter_scope(name)
        return _make_group(name, find_hierarchy())
    except HostError as refused:
        tried.append(f"no systemd scope: {refused.message}")
    for parent in _groups_above(mount):
        if os.access(parent, os.W_OK):
            try:
                return _make_group(name, Hierarchy(2, parent))
            except HostError as refused:
                tried.append(refused.message)
    raise HostError("; ".join(tried), hint=error.hint) from error


def _groups_above(mount: Path, proc: Path = Path("/proc/self")) -> list[Path]:
    """The ancestors of this process's version 2 group, the nearest first."""
    group = own_groups(proc / "cgroup").get("", "/")
    own = mount / group.lstrip("/")
    return [parent for parent in own.parents if parent == mount or mount in parent.parents]


def _make_group(name: str, hierarchy: Hierarchy) -> MemoryGroup:
    directory = hierarchy.parent / name
    try:
        if hierarchy.version == 2:
            _delegate_memory(hierarchy.parent)
        lock = _make_locked(directory)
        try:
            return _GroupV2(directory, lock) if hierarchy.version == 2 else _GroupV1(directory, lock)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise HostError(
            f"a memory cgroup cannot be created under {hierarchy.parent}: {error.strerror}",
            hint=_hint(hierarchy.version),
        ) from error


def _make_locked(directory: Path) -> int:
    """Make the group, and lock it while this process lives: :func:`prune_groups` leaves it although it is still empty.

    :returns: the descriptor with the lock.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(lock), directory.stat()):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


class _Group:
    """What the groups of both versions have in common."""

    def __init__(self, directory: Path, lock: int) -> None:
        self._directory = directory
        self._lock = lock

    @property
    def procs_file(self) -> Path:
        return self._directory / "cgroup.procs"

    def remove(self) -> None:
        _remove(self._directory)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class _GroupV1(_Group):
    """Version 1: ``memory.limit_in_bytes``; the kernel refuses a limit that it cannot reach by reclaim."""

    def __init__(self, directory: Path, lock: int) -> None:
        super().__init__(directory, lock)
        (directory / "memory.limit_in_bytes").write_text("-1")

    def set_limit(self, limit_bytes: int) -> bool:
        try:
            (self._directory / "memory.limit_in_bytes").write_text(str(limit_bytes))
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINTR):
                return False
            raise HostError(f"the limit of {self._directory} cannot be set: {error.strerror}") from error
        return True

    def kills(self) -> int:
        return keyed(self._directory / "memory.oom_control", "oom_kill")


class _GroupV2(_Group):
    """Version 2: ``memory.max`` kills a little above the limit.

    ``memory.high`` throttles only while more than that is held. A guest that stays just above it would never be killed:
    nothing of its memory can be reclaimed, and the engine's every page waits, its monitor's as well.
    """

    def __init__(self, directory: Path, lock: int) -> None:
        super().__init__(directory, lock)
        (directory / "memory.high").write_text("max")
        (directory / "memory.max").write_text("max")

    def set_limit(self, limit_bytes: int) -> bool:
        try:
            (self._directory / "memory.high").write_text(str(limit_bytes))
            current = int((self._directory / "memory.current").read_text())
            if current > limit_bytes + _HIGH_TO_MAX_BYTES:
                return False  # memory.max below the current use would kill at once
            (self._directory / "memory.max").write_text(str(limit_bytes + _HIGH_TO_MAX_BYTES))
            (self._directory / "memory.high").write_text("max")
        except OSError as error:
            raise HostError(f"the limit of {self._directory} cannot be set: {error.strerror}") from error
        return True

    def kills(self) -> int:
        return keyed(self._directory / "memory.events", "oom_kill")


def _delegate_memory(parent: Path) -> None:
    """Make sure that the children of ``parent`` have the memory controller.

    A group with processes cannot enable controllers for its children (cgroup-v2.rst, "No Internal Process
    Constraint"). If the process is this one, it moves to a child group.
    """
    control = parent / "cgroup.subtree_control"
    if "memory" in _words(control):
        return
    try:
        control.write_text("+memory")
    except OSError as error:
        if error.errno != errno.EBUSY or str(os.getpid()) not in _words(parent / "cgroup.procs"):
            raise
        leaf = parent / "ballonet"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        control.write_text("+memory")


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("the cgroup %s cannot be removed: %s", directory, error.strerror)


def controller_mounts(path: Path) -> dict[str, Path]:
    """Where the version 1 memory controller ("memory") and version 2 ("") are mounted (proc(5))."""
    found: dict[str, Path] = {}
    for line in _read(path).splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        if fields[2] == "cgroup" and "memory" in fields[3].split(","):
            found.setdefault("memory", Path(fields[1]))
        elif fields[2] == "cgroup2":
            found.setdefault("", Path(fields[1]))
    return found


def own_groups(path: Path) -> dict[str, str]:
    """This process's groups, by controller (cgroups(7), /proc/PID/cgroup)."""
    found: dict[str, str] = {}
    for line in _read(path).splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = group
    return found


def _writable(directory: Path, access: Mapping[Path, bool] | None) -> bool:
    return os.access(directory, os.W_OK) if access is None else access.get(directory, False)


def _words(path: Path) -> list[str]:
    return _read(path).split()


def keyed(path: Path, key: str) -> int:
    """The number after ``key`` in a file of such lines; 0 if there is none."""
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _hint(version: int) -> str:
    if version == 1:
        return "run as root, or omit --hard-cap"
    return (
        f"start it in a scope with a delegated memory controller (systemd-run --user --scope -p Delegate=yes …), set "
        f"${DELEGATED_VARIABLE} to a delegated cgroup2 directory, or omit --hard-cap"
    )
