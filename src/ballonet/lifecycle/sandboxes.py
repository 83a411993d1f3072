"""The registered sandboxes: creates them, finds them and tells in what state they are.

The registry has the desired configuration. Whether a sandbox is running is checked with its process each time
(:func:`refresh`, :mod:`ballonet.lifecycle.liveness`), so that the state is right after a crash, a kill or a power
failure, and in any environment.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError, NameInUseError, NotRunningError, RegistryError
from ballonet.base.paths import private_dir, state_dir_of
from ballonet.images.users import check_user
from ballonet.lifecycle.liveness import living, machines
from ballonet.lifecycle.record import Command, Defaults, Record, State, unreadable_hint
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import EVENT_FILE, EndNote, MachineNote
from ballonet.machine.paused_file import PAUSED_FILE, paused_bytes, remove_partial
from ballonet.settings.config import SandboxConfig, check_name
from ballonet.settings.flags import parse_config, render_flags

if TYPE_CHECKING:
    from ballonet.images.image import Image

MACHINE_LOG = "machine.log"
#: In the state directory: the row at the start of the run, from which a lost registry is restored.
ROW_FILE = "row.json"
#: Prefix of state directories that are being removed; names of sandboxes cannot begin like this.
_ASIDE = ".removed-"
#: The columns that tell how a run has ended.
_END = ("state", "ended_at", "end_reason", "end_detail", "exit_code")
#: The message about a sandbox whose row cannot be read.
UNREADABLE = "the registry's row cannot be read"


def create(
    registry: Registry,
    config: SandboxConfig,
    *,
    image: Image | None = None,
    command: Command | None = None,
    defaults: Defaults | None = None,
    labels: Mapping[str, str] | None = None,
    auto_remove: bool = False,
    weight: int = 100,
    reserve_mib: int = 0,
) -> Record:
    """Register a sandbox, without starting it.

    :param image: the image of the root in ``config`` (see :func:`ballonet.lifecycle.image_settings.prepare`).
    :param defaults: the defaults of all its commands.
    :raises NameInUseError: a sandbox with that name exists.
    """
    if config.image is not None and config.root is None:
        raise ConfigError(f"image {config.image!r} is not prepared", hint="call image_settings.prepare first")
    if command is not None:
        check_user(command.user)
    record = Record(
        name=config.name,
        created_at=time.time(),
        flags=tuple(render_flags(config)),
        image=config.image,
        image_id=None if image is None else image.id,
        command=command,
        defaults=defaults,
        labels=dict(labels or {}),
        auto_remove=auto_remove,
        weight=weight,
        reserve_mib=reserve_mib,
    )
    try:
        registry.add(record)
    except NameInUseError:
        # It may be one that is removed automatically and has just ended.
        found = registry.find(config.name)
        if found is not None and refresh(registry, found) is not None:
            raise
        registry.add(record)
    directory = state_dir_of(record.name)
    try:
        # The registry may have been lost: a running sandbox keeps its name and its files.
        note = MachineNote.read(directory)
        if note is not None and note.alive():
            raise NameInUseError(
                f"a sandbox named {record.name!r} is running (pid {note.process.pid}) that is not in the registry",
                hint="register it again: ballonet prune",
            )
        private_dir(directory.parent)
        remove_files(directory)
        private_dir(directory)
        ensure_volumes(config)
    except NameInUseError:
        registry.remove(record)
        raise
    except BaseException:
        forget(registry, record)
        raise
    return record


def refresh(registry: Registry, record: Record) -> Record | None:
    """``record`` in its current state, according to the sandbox's process; ``None`` if it ended and was removed.

    The registry is updated, unless another run has begun meanwhile.
    """
    if not record.state.lives:
        if record.state is State.PAUSED and _is_abandoned(record):
            forget(registry, record)
            return None
        return record
    note = living(record)
    if note is not None:
        if note.ready and record.state is not State.RUNNING:
            changes: dict[str, Any] = {"state": State.RUNNING, "started_at": note.started_at}
            registry.update(record.name, if_run=record.run_id, **changes)
            return replace(record, state=State.RUNNING, started_at=note.started_at)
        return record
    end = EndNote.read(state_dir_of(record.name))
    of_this_run = end is not None and end.run_id == record.run_id
    if not of_this_run and _is_being_started(record):
        return record
    if paused_bytes(state_dir_of(record.name)) is not None:
        if _is_abandoned(record):
            sweep(record)
            forget(registry, record)
            return None
        return _now_paused(registry, record, end if of_this_run else None)
    if end is None or not of_this_run:
        end = EndNote(
            run_id=record.run_id or "",
            reason="killed",
            detail="its process disappeared without giving a reason: it was killed, or the host crashed",
            ended_at=time.time(),
        )
    sweep(record)
    changed = with_end(record, end)
    ended = {name: getattr(changed, name) for name in _END}
    if record.auto_remove:
        forget(registry, record, ended=ended)
        return None
    registry.update(record.name, if_run=record.run_id, **ended)
    return changed


def _is_being_started(record: Record) -> bool:
    return record.state is State.STARTING and record.starter is not None and record.starter.alive()


def _is_abandoned(record: Record) -> bool:
    """Whether it was made from a snapshot, to be removed at its end, by a program that was killed before its guest
    ran."""
    if not record.auto_remove or record.starter is None or record.starter.alive():
        return False
    from ballonet.machine.saved_sandbox import read_saved
    from ballonet.vmm.saved_state import SavedStateError

    try:
        # What a sandbox saves of itself when it is paused has its flags; what was saved for others has none.
        return not read_saved(state_dir_of(record.name) / PAUSED_FILE).flags
    except (SavedStateError, OSError):
        return False


def _now_paused(registry: Registry, record: Record, end: EndNote | None) -> Record:
    """Its process has ended, and its guest is saved: it was paused, or its resume failed."""
    sweep(record)
    changes: dict[str, Any] = {
        "state": State.PAUSED,
        "ended_at": time.time() if end is None else end.ended_at,
        "end_reason": "paused",
        "end_detail": None if end is None or end.reason == "paused" else end.detail,
    }
    registry.update(record.name, if_run=record.run_id, **changes)
    return replace(record, **changes)


def with_end(record: Record, end: EndNote) -> Record:
    return replace(
        record,
        state=State.FAILED if end.reason == "failed" else State.STOPPED,
        ended_at=end.ended_at,
        end_reason=end.reason,
        end_detail=end.detail,
        exit_code=end.exit_code,
    )


def find(registry: Registry, name: str) -> Record:
    """The sandbox with that name, in its current state.

    :raises UnknownSandboxError: there is none.
    :raises ConfigError: the name is not valid.
    """
    check_name(name)
    return refresh(registry, registry.get(name)) or registry.get(name)


def find_running(registry: Registry, name: str) -> tuple[Record, MachineNote]:
    """The sandbox with that name, and its note.

    :raises NotRunningError: it is not running, or not ready yet.
    """
    record = find(registry, name)
    note = living(record)
    if note is None and record.state.lives:
        record = find(registry, name)  # it has ended since it was found
    if note is None or not note.ready:
        detail = f": {record.end_detail}" if record.end_detail else ""
        booting = record.state is State.STARTING or (note is not None and not note.ready)
        verb = "resume" if record.state is State.PAUSED else "start"
        raise NotRunningError(
            f"sandbox {name!r} is {record.state}{detail}",
            hint="it is booting: try again later" if booting else f"{verb} it: ballonet {verb} {name}",
        )
    return record, note


def list_sandboxes(registry: Registry) -> list[Record]:
    """All, as they are now, the oldest first. One whose row cannot be read is among them: :attr:`Record.unreadable`."""
    return [now for record in registry.list() if (now := _look(registry, record)) is not None]


def _look(registry: Registry, record: Record) -> Record | None:
    return refresh(registry, record) if record.unreadable is None else _look_at_unreadable(record)


def _look_at_unreadable(record: Record) -> Record:
    """A sandbox whose row cannot be read, as far as its process and its note show. The registry is not changed."""
    record = replace(
        record,
        state=State.FAILED,
        end_reason="unreadable",
        end_detail=f"{UNREADABLE}; {unreadable_hint(record.name)}\n{record.unreadable}",
    )
    directory = state_dir_of(record.name)
    note = MachineNote.read(directory)
    if note is not None and note.alive():
        state = State.RUNNING if note.ready else State.STARTING
        return replace(record, state=state, run_id=note.run_id, process=note.process)
    for machine in machines():
        if machine.options.state_dir == directory:
            run_id = machine.options.run_id
            return replace(record, state=State.RUNNING, run_id=run_id, process=machine.process)
    return record


def config_of(record: Record, flags: Sequence[str] | None = None) -> SandboxConfig:
    """The desired configuration of a sandbox, or the one in ``flags``.

    :raises RegistryError: the flags in its row cannot be read.
    """
    try:
        return replace(parse_config(record.flags if flags is None else flags), image=record.image)
    except ConfigError as error:
        if flags is not None:
            raise
        raise RegistryError(
            f"the registry's row of sandbox {record.name!r} cannot be read: flags: {error.message}",
            hint=unreadable_hint(record.name),
        ) from error


def forget(registry: Registry, record: Record, *, ended: Mapping[str, Any] | None = None) -> bool:
    """Remove the row and the files of ``record``, unless the name has another sandbox by now; returns whether it did.

    The files are renamed before another program can take the name, and removed afterwards.

    :param ended: how its run has ended, if its row does not have that yet.
    """
    directory = state_dir_of(record.name)
    if (directory / EVENT_FILE).exists():
        from ballonet.lifecycle.own_events import copy_own_events

        copy_own_events(registry, record)
    renamed = aside(directory)

    def rename() -> None:
        with contextlib.suppress(FileNotFoundError):
            directory.rename(renamed)

    done = registry.remove(record, rename, ended=ended)
    if done:
        remove_files(renamed)
    return done


def aside(directory: Path) -> Path:
    """The name to which a state directory is renamed before it is removed."""
    return directory.with_name(f"{_ASIDE}{os.urandom(8).hex()}")


def remove_files(path: Path) -> None:
    """Remove a state directory as far as possible, without following links."""
    try:
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            return
    except FileNotFoundError:
        return
    except OSError:
        pass
    try:  # most have only files
        for entry in os.scandir(path):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)  # noqa: PTH108  # not a Path
        path.rmdir()
        return
    except OSError:
        pass
    import shutil  # with its modules for archives, it takes longer to load than most commands need

    shutil.rmtree(path, ignore_errors=True)


def sweep(record: Record) -> None:
    """Remove the run directory of a run that has ended, and a saved state that is not complete."""
    remove_partial(state_dir_of(record.name))
    if record.run_dir is not None:
        from ballonet.machine.run_directory import remove_abandoned

        note = MachineNote.read(state_dir_of(record.name))
        moved = note.run_dir if note is not None and note.run_id == record.run_id else ""
        for directory in {record.run_dir, moved} - {""}:
            remove_abandoned(Path(directory))


def ensure_volumes(config: SandboxConfig) -> None:
    if config.volumes:
        from ballonet.machine.shares import check_source
        from ballonet.settings.named_volumes import make, volumes_dir

        named = volumes_dir()
        for volume in config.volumes:
            if volume.source.parent == named:
                make(volume.source)
            check_source(volume)
