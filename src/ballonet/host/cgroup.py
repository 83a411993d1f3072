"""Cgroups, versions 1 and 2: finds where they can be made, makes one that limits memory or processor time, removes it.

Files and semantics: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. On a host without the writable
controller this raises an error with the reason: a limit is never silently ignored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError
from ballonet.host.cgroup_directory import read, words
from ballonet.host.cpu_group import CpuGroup, CpuGroupV1, CpuGroupV2
from ballonet.host.memory_group import MemoryGroup, MemoryGroupV1, MemoryGroupV2

#: Names a directory on a cgroup2 file system that is delegated to this user (cgroup-v2.rst, "Delegation").
DELEGATED_VARIABLE = "BALLONET_CGROUP"


@dataclass(frozen=True)
class Hierarchy:
    """Where a group can be created: the parent directory, and the cgroup version."""

    version: int
    parent: Path


_Group = TypeVar("_Group")


@dataclass(frozen=True)
class _Kind(Generic[_Group]):
    """What a group is for: the kernel's controller, and the classes for versions 1 and 2."""

    controller: str
    classes: tuple[Callable[[Path, int], _Group], Callable[[Path, int], _Group]]


MEMORY, CPU = "memory", "cpu"
_MEMORY: _Kind[MemoryGroup] = _Kind(MEMORY, (MemoryGroupV1, MemoryGroupV2))
_CPU: _Kind[CpuGroup] = _Kind(CPU, (CpuGroupV1, CpuGroupV2))
#: The options that need the controllers.
_OPTIONS = {MEMORY: "--hard-cap", CPU: "--cpu-quota"}


def open_group(name: str, *, hierarchy: Hierarchy | None = None) -> MemoryGroup:
    """Create a memory cgroup named ``name``; one that exists already is reused.

    :param hierarchy: where to create it; found by default.
    :raises HostError: this host has no writable memory controller; the message says what was found.
    """
    return _open(name, _MEMORY, hierarchy)


def open_cpu_group(
    name: str, *, beside: MemoryGroup | None = None, hierarchy: Hierarchy | None = None
) -> CpuGroup:
    """The same for processor time.

    :param beside: the memory cgroup of the same name. With version 2, it is the group that is returned: a process
        cannot be in two.
    """
    if beside is not None and (parent := beside.procs_file.parent.parent / "cgroup.controllers").exists():
        return _make_group(name, _CPU, Hierarchy(2, parent.parent), fresh=False)
    return _open(name, _CPU, hierarchy)


def _open(name: str, kind: _Kind[_Group], hierarchy: Hierarchy | None) -> _Group:
    if hierarchy is not None:
        return _make_group(name, kind, hierarchy)
    try:
        return _make_group(name, kind, find_hierarchy(kind.controller))
    except HostError as error:
        # With version 2, other processes in this process's group, or another owner of it, may prevent that.
        mount = controller_mounts(Path("/proc/self/mounts")).get("")
        if mount is None or os.environ.get(DELEGATED_VARIABLE):
            raise
        return _make_group_elsewhere(name, kind, mount, error)


def find_hierarchy(
    controller: str = MEMORY,
    *,
    proc: Path = Path("/proc/self"),
    env: Mapping[str, str] | None = None,
    access: Mapping[Path, bool] | None = None,
) -> Hierarchy:
    """Where this process may create cgroups with a controller.

    The first of: the delegated directory in ``$BALLONET_CGROUP``; this process's group of the version 1
    controller; this process's version 2 group, if it is delegated to this user.

    :raises HostError: there is none.
    """
    env = os.environ if env is None else env
    if chosen := env.get(DELEGATED_VARIABLE):
        directory = Path(chosen)
        if not (directory / "cgroup.controllers").is_file():
            raise HostError(
                f"${DELEGATED_VARIABLE} {chosen} is not a cgroup2 directory", hint=_hint(2, controller)
            )
        return Hierarchy(2, directory)
    mounts, groups = controller_mounts(proc / "mounts", controller), own_groups(proc / "cgroup")
    found: list[str] = []
    for version, controllers in ((1, controller), (2, "")):
        mount, group = mounts.get(controllers), groups.get(controllers)
        if mount is None or group is None:
            continue
        parent = mount / group.lstrip("/")
        if version == 2 and controller not in words(parent / "cgroup.controllers"):
            found.append(f"{parent} (version 2) has no {controller} controller")
        elif not _writable(parent, access):
            found.append(f"{parent} (version {version}) is not writable")
        else:
            return Hierarchy(version, parent)
    raise HostError(
        f"this host has no writable {controller} controller: "
        f"{'; '.join(found) or 'no cgroup file system is mounted'}",
        hint=_hint(2, controller),
    )


def prune_groups(prefix: str) -> list[str]:
    """Remove the groups named ``prefix…`` that no process uses, nor has opened; returns their names."""
    parents = []
    for controller in _OPTIONS:
        with contextlib.suppress(HostError):
            parents.append(find_hierarchy(controller).parent)
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


def _make_group_elsewhere(name: str, kind: _Kind[_Group], mount: Path, error: HostError) -> _Group:
    """Version 2, if this process's group cannot be used: in a new systemd scope, else in an ancestor of the group that
    is writable (root).

    :raises HostError: nowhere; the message says what was tried.
    """
    from ballonet.host.scope import enter_scope

    tried = [error.message]
    try:
        enter_scope(name)
        return _make_group(name, kind, find_hierarchy(kind.controller))
    except HostError as refused:
        tried.append(f"no systemd scope: {refused.message}")
    for parent in _groups_above(mount):
        if os.access(parent, os.W_OK):
            try:
                return _make_group(name, kind, Hierarchy(2, parent))
            except HostError as refused:
                tried.append(refused.message)
    raise HostError("; ".join(tried), hint=error.hint) from error


def _groups_above(mount: Path, proc: Path = Path("/proc/self")) -> list[Path]:
    """The ancestors of this process's version 2 group, the nearest first."""
    group = own_groups(proc / "cgroup").get("", "/")
    own = mount / group.lstrip("/")
    return [parent for parent in own.parents if parent == mount or mount in parent.parents]


def _make_group(name: str, kind: _Kind[_Group], hierarchy: Hierarchy, *, fresh: bool = True) -> _Group:
    """:param fresh: remove first what a killed sandbox may have left: its group can have other limits as well."""
    directory = hierarchy.parent / name
    if fresh:
        with contextlib.suppress(OSError):  # there is none, or it has processes
            directory.rmdir()
    try:
        if hierarchy.version == 2:
            _delegate(kind.controller, hierarchy.parent)
        lock = _make_locked(directory)
        try:
            if read(directory / "cgroup.type").strip() == "domain invalid":
                with contextlib.suppress(OSError):
                    directory.rmdir()
                raise OSError(errno.EBUSY, "there are processes in that group")
            return kind.classes[hierarchy.version - 1](directory, lock)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise HostError(
            f"a {kind.controller} cgroup cannot be created under {hierarchy.parent}: {error.strerror}",
            hint=_hint(hierarchy.version, kind.controller),
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


def _delegate(controller: str, parent: Path) -> None:
    """Make sure that the children of ``parent`` have a controller.

    A group with processes must not enable controllers for its children (cgroup-v2.rst, "No Internal Process
    Constraint"). The kernel refuses that for memory. For processor time it makes the children invalid instead, so that
    nothing can be moved into them ("Threads"). If the process is this one, it moves to a child group.

    :raises OSError: there are other processes in ``parent``, or it cannot be changed.
    """
    control = parent / "cgroup.subtree_control"
    if controller in words(control):
        return
    if controller not in words(parent / "cgroup.controllers"):
        raise HostError(f"{parent} (version 2) has no {controller} controller", hint=_hint(2, controller))
    inside = set(words(parent / "cgroup.procs"))
    if inside and (parent / "cgroup.type").exists():  # the root has no type, and may have processes
        own = str(os.getpid())
        if inside != {own}:
            raise OSError(errno.EBUSY, "there are other processes in that group")
        leaf = parent / "ballonet"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(own)
    control.write_text(f"+{controller}")


def controller_mounts(path: Path, controller: str = MEMORY) -> dict[str, Path]:
    """Where a version 1 controller (by its name) and version 2 ("") are mounted (proc(5))."""
    found: dict[str, Path] = {}
    for line in read(path).splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        if fields[2] == "cgroup" and controller in fields[3].split(","):
            found.setdefault(controller, Path(fields[1]))
        elif fields[2] == "cgroup2":
            found.setdefault("", Path(fields[1]))
    return found


def own_groups(path: Path) -> dict[str, str]:
    """This process's groups, by controller (cgroups(7), /proc/PID/cgroup)."""
    found: dict[str, str] = {}
    for line in read(path).splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = group
    return found


def _writable(directory: Path, access: Mapping[Path, bool] | None) -> bool:
    return os.access(directory, os.W_OK) if access is None else access.get(directory, False)


def _hint(version: int, controller: str) -> str:
    omit = f"or omit {_OPTIONS[controller]}"
    if version == 1:
        return f"run as root, {omit}"
    return (
        f"start it in a scope with a delegated {controller} controller (systemd-run --user --scope -p Delegate=yes "
        f"…), set ${DELEGATED_VARIABLE} to a delegated cgroup2 directory, {omit}"
    )
