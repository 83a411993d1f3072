"""The RAM of a guest: a memfd that this process creates and the engine maps, so that it can be saved and filled."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ballonet.base.errors import EngineError, HostError
from ballonet.base.memory import mib_to_bytes
from ballonet.vmm.saved_state import SavedState

#: The name that QEMU gives its own: :mod:`ballonet.host.proc` finds both by it.
MEMFD_NAME = "memory-backend-memfd"


def create_guest_ram(memory_mib: int) -> int:
    """A new memfd of that size, all zeros; nothing of it takes memory yet.

    :raises HostError: it cannot be created.
    """
    try:
        ram = os.memfd_create(MEMFD_NAME, os.MFD_CLOEXEC)
    except OSError as error:
        raise HostError(f"the guest's RAM cannot be created: {error.strerror}") from error
    try:
        os.truncate(ram, mib_to_bytes(memory_mib))
    except OSError as error:
        os.close(ram)
        raise HostError(f"the guest's RAM cannot be sized: {error.strerror}") from error
    return ram


def fill_guest_ram(ram: int, state: SavedState, cgroup_procs: Sequence[str]) -> None:
    """Write the saved pages to ``ram``.

    The kernel charges memory to the cgroup of the process that first writes to it. With ``cgroup_procs``, that is a
    child in the engine's cgroup, so that the hard cap counts these pages.

    :raises EngineError: that failed.
    """
    try:
        if not cgroup_procs:
            state.fill(ram)
        elif (status := _in_group(ram, state, cgroup_procs)) != 0:
            raise EngineError(f"the guest's RAM could not be restored in its cgroup (status {status})")
    except OSError as error:
        raise EngineError(f"the guest's RAM could not be restored: {error.strerror or error}") from error


def _in_group(ram: int, state: SavedState, cgroup_procs: Sequence[str]) -> int:
    """:meth:`SavedState.fill` in a child process in those cgroups; returns the wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for path in cgroup_procs:
                group = os.open(path, os.O_WRONLY)
                os.write(group, b"0")
                os.close(group)
            state.fill(ram)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]
