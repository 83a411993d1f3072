"""Cleans up processes and files that belong to no sandbox in the registry.

A running sandbox that is not in the registry, for example because the registry was damaged and moved away, is
registered again. An engine whose sandbox's process was killed is ended.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path

from ballonet.base.dataclass import replace
from ballonet.base.errors import NameInUseError, RegistryError
from ballonet.base.paths import state_dir
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import Machine, left_over, machines
from ballonet.lifecycle.record import Record, State, unreadable_hint
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.row_codec import from_json
from ballonet.lifecycle.stop import end_process, kill
from ballonet.machine.notes import MachineNote
from ballonet.machine.paused_file import paused_bytes


async def prune(registry: Registry, *, force: bool = False) -> list[str]:
    """Clean up; returns one line about each action.

    :param force: end sandboxes that are not in the registry, instead of registering them again.
    """
    done: list[str] = []
    found = list(machines())
    registered = lifecycle.list_sandboxes(registry)
    known = {record.run_id for record in registered}
    for machine in found:
        if machine.options.run_id not in known and _is_of_this_registry(machine):
            done.append(await _register_or_end(registry, machine, force=force))
    for helper in left_over(found):
        if _registry_of(helper.state_dir) == state_dir():
            await kill(helper.process)
            done.append(
                f"ended {helper.program} (pid {helper.process.pid}), left by sandbox {helper.state_dir.name}"
            )
    done += _register_paused(registry)
    done += [f"removed the files of {name}" for name in _prune_files(registry)]
    done += [
        f"left alone sandbox {record.name}: {lifecycle.UNREADABLE}; {unreadable_hint(record.name)}"
        for record in registered
        if record.unreadable is not None
    ]
    return done


async def _register_or_end(registry: Registry, machine: Machine, *, force: bool) -> str:
    who = f"sandbox {machine.name} (pid {machine.process.pid}), which the registry did not know"
    if not force:
        with contextlib.suppress(NameInUseError):  # the name is registered: this one can only be ended
            registry.add(_record_of(machine))
            return f"registered {who}"
        return f"left alone {who}: another sandbox with that name is registered; 'ballonet prune --force' ends it"
    await end_process(machine.process)
    return f"ended {who}"


def _record_of(machine: Machine) -> Record:
    """A record of a sandbox, from its process and its files."""
    directory = machine.options.state_dir
    assert directory is not None
    note = MachineNote.read(directory)
    if note is not None and note.run_id != machine.options.run_id:
        note = None
    row = _row_in(directory)
    if row is None or row.run_id != machine.options.run_id:
        row = Record(
            name=machine.name,
            created_at=time.time(),
            flags=machine.flags,
            auto_remove=not machine.options.detached,
            run_id=machine.options.run_id,
        )
    return replace(
        row,
        state=State.RUNNING if note is not None and note.ready else State.STARTING,
        process=machine.process,
        run_dir=str(machine.run_dir) if note is None else note.run_dir,
        started_at=None if note is None else note.started_at,
    )


def _register_paused(registry: Registry) -> list[str]:
    """Register paused sandboxes again that the registry does not know; returns one line about each."""
    directory = state_dir() / "sandboxes"
    done = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        row = _row_in(path) if paused_bytes(path) is not None else None
        note = MachineNote.read(path)
        if row is None or row.name != path.name or (note is not None and note.alive()):
            continue
        with contextlib.suppress(NameInUseError):
            registry.add(replace(row, state=State.PAUSED, end_reason="paused"))
            done.append(f"registered paused sandbox {row.name}, which the registry did not know")
    return done


def _row_in(directory: Path) -> Record | None:
    try:
        return from_json((directory / lifecycle.ROW_FILE).read_bytes())
    except (OSError, RegistryError):
        return None


def _is_of_this_registry(machine: Machine) -> bool:
    directory = machine.options.state_dir
    return (
        machine.options.run_id is not None
        and directory is not None
        and _registry_of(directory) == state_dir()
    )


def _registry_of(directory: Path) -> Path:
    """The state directory of the registry that contains a sandbox's state directory."""
    return directory.parent.parent


def _prune_files(registry: Registry) -> list[str]:
    """Remove state directories of sandboxes that are neither registered nor running; returns their names."""
    directory = state_dir() / "sandboxes"
    # Searched again: this prune may have ended some, and others may have started since.
    living = {machine.options.state_dir for machine in machines()}
    strays = []
    for path in sorted(directory.iterdir()) if directory.is_dir() else []:
        note = MachineNote.read(path)
        if path in living or (note is not None and note.alive()):
            continue
        aside = lifecycle.aside(path)
        if registry.if_absent(path.name, partial(path.rename, aside)):  # type: ignore[arg-type]
            lifecycle.remove_files(aside)
            strays.append(path.name)
    return strays
