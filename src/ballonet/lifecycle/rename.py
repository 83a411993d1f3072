"""Renames sandboxes that are not running.

Files are linked under the new name before the registry has it, and the old links are removed afterwards. If the program
is killed, one of the names is registered and has all files; those of the other name are removed by the next ``prune``
or ``create``.
"""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from pathlib import Path

from ballonet.base.dataclass import replace
from ballonet.base.errors import HostError, NameInUseError, StillRunningError, os_hint
from ballonet.base.paths import private_dir, state_dir_of
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import aside, config_of, find, refresh, remove_files
from ballonet.machine.notes import MachineNote
from ballonet.settings.config import check_name
from ballonet.settings.flags import render_flags


def rename_sandbox(registry: Registry, name: str, new: str) -> Record:
    """Give a sandbox another name; returns its record.

    :raises UnknownSandboxError: there is no sandbox named ``name``.
    :raises NameInUseError: there is a sandbox named ``new``.
    :raises StillRunningError: it is running or paused: its process, or its saved guest, has its name.
    """
    check_name(new, "new name")
    record = find(registry, name)
    if record.state.lives or record.state is State.PAUSED:
        raise StillRunningError(
            f"sandbox {name!r} is {record.state} and cannot be renamed",
            hint=f"stop it first: ballonet stop {name}",
        )
    found = registry.find(new)
    if found is not None and refresh(registry, found) is not None:
        raise _in_use(new)
    flags = tuple(render_flags(replace(config_of(record), name=new)))
    directory = state_dir_of(name)
    try:
        with registry.transaction():
            if registry.find(name) != record:
                raise StillRunningError(f"sandbox {name!r} was changed meanwhile", hint="try again")
            registry.update(name, name=new, flags=flags)
            _link(directory, state_dir_of(new))
    except sqlite3.IntegrityError:
        raise _in_use(new) from None
    left = aside(directory)
    if directory.is_dir() and registry.if_absent(name, partial(directory.rename, left)):  # type: ignore[arg-type]
        remove_files(left)
    return registry.get(new)


def _link(source: Path, target: Path) -> None:
    """Link all files of ``source`` in ``target``, which gets its name last."""
    note = MachineNote.read(target)
    if note is not None and note.alive():
        raise _in_use(target.name)
    remove_files(target)
    half = aside(target)
    try:
        _link_into(source, private_dir(half))
        half.rename(target)
    except OSError as error:
        remove_files(half)
        raise HostError(
            f"the files of the sandbox cannot be linked in {target}: {error.strerror}",
            hint=os_hint(error, target),
        ) from error


def _link_into(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    for entry in os.scandir(source):
        if entry.is_dir(follow_symlinks=False):
            _link_into(Path(entry.path), private_dir(target / entry.name))
        else:
            os.link(entry.path, target / entry.name, follow_symlinks=False)


def _in_use(name: str) -> NameInUseError:
    return NameInUseError(
        f"there is a sandbox named {name!r} already",
        hint=f"choose another name, or remove it: ballonet rm {name}",
    )
