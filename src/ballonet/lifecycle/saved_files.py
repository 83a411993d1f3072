"""The files of saved sandboxes: copied to where a snapshot or a sandbox needs them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ballonet.base.dataclass import replace
from ballonet.base.errors import HostError, SnapshotError, StillRunningError, os_hint
from ballonet.base.file_copy import copy_file, new_private_file
from ballonet.base.paths import exclusive_if_free, sync_directory
from ballonet.machine.disk import DISK_FILE
from ballonet.machine.paused_file import PAUSED_FILE, paused_bytes
from ballonet.machine.run_directory import RUN_LOCK
from ballonet.machine.saved_sandbox import SavedSandbox, read_saved
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.saved_state import SavedState, SavedStateError, amend_state


def place(state: Path, key: str, disk: Path, config: SandboxConfig, directory: Path) -> None:
    """Give a sandbox its disk and its saved state: the state last, because it makes the sandbox a paused one.

    :param state: the saved state, with this ``key``. :param disk: the disk of that moment.
    :param directory: the state directory of the sandbox.
    :raises SnapshotError: the state is damaged. :raises HostError: the files cannot be written.
    """
    with _explained(config.name, directory):
        notes = read_saved(state)
        if config.disk_mib is not None:
            if notes.disk is None:
                raise SavedStateError("it was saved without a disk")
            copy = directory / DISK_FILE
            copy_whole(disk, copy)
            os.utime(copy, ns=(notes.disk[1], notes.disk[1]))  # as the saved state knows it
        here = key_here(config, directory)
        target = directory / PAUSED_FILE
        if key == here and _linked(state, target):
            return
        part = target.with_name(f".{target.name}.new")
        part.unlink(missing_ok=True)
        copy_whole(state, part)
        amend_state(part, key=here)
        part.rename(target)
        sync_directory(directory)


def copy_paused(
    name: str, config: SandboxConfig, directory: Path, state: Path, disk: Path
) -> tuple[str, bool]:
    """Copy the files of a paused sandbox, which is not resumed meanwhile; returns the key of the state, and whether
    its own command goes on in it.

    :param state: the new file for the saved state. :param disk: that for the disk, if it has one.
    :raises StillRunningError: it is being resumed.
    :raises SnapshotError: this host could not restore it.
    :raises HostError: the files cannot be written.
    """
    with exclusive_if_free(directory / RUN_LOCK) as free, _explained(name, state.parent):
        if not free or paused_bytes(directory) is None:
            raise StillRunningError(f"sandbox {name!r} is being resumed", hint="try again when it runs")
        key = key_here(config, directory)
        with SavedState.open(directory / PAUSED_FILE, key) as saved:
            notes = SavedSandbox.decode(saved)
        copy_whole(directory / PAUSED_FILE, state)
        amend_state(state, notes=replace(notes, flags=(), ports=(), earlier=None, ran_s=0.0).encode())
        if config.disk_mib is not None:
            copy_whole(directory / DISK_FILE, disk)
    return key, notes.command is not None


def key_here(config: SandboxConfig, directory: Path) -> str:
    """The key of a VM of this configuration on this host, whose engine has files of its own."""
    from ballonet.machine.build import build_vm

    vm = build_vm(config, disk=None if config.disk_mib is None else directory / DISK_FILE)
    key = vm.engine.state_key(vm.spec)
    assert key is not None, "it has no volumes"
    return key


def copy_whole(source: Path, target: Path) -> None:
    """:raises OSError: it cannot be copied."""
    here = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        there = new_private_file(target)
        try:
            copy_file(here, there)
            os.fsync(there)
        finally:
            os.close(there)
    finally:
        os.close(here)


def _linked(source: Path, target: Path) -> bool:
    """Give the file a second name, which is removed when the guest runs. Nothing writes to it."""
    try:
        target.hardlink_to(source)
    except OSError:
        return False  # another file system, or one without links
    return True


@contextlib.contextmanager
def _explained(name: str, directory: Path) -> Iterator[None]:
    try:
        yield
    except SavedStateError as error:
        raise SnapshotError(f"the saved state of sandbox {name!r} cannot be used: {error}") from error
    except OSError as error:
        raise HostError(
            f"the files of sandbox {name!r} cannot be written to {directory}: {error.strerror or error}",
            hint=os_hint(error, directory),
        ) from error
