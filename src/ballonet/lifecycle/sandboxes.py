"""The life of registered sandboxes: create, start, look, stop, remove. What the command line and the SDK share.

The registry holds what was asked for; whether a sandbox lives is asked of its process each time (:func:`refresh`, by
:mod:`ballonet.lifecycle.liveness`), so that a crash, a kill or a power cut never leaves a dead one shown as running,
and no look from elsewhere ever takes a living one for dead.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import (
    BallonetError,
    ConfigError,
    HostError,
    NameInUseError,
    NotRunningError,
    RegistryError,
    SandboxError,
    StillRunningError,
    UnknownSandboxError,
)
from ballonet.base.paths import private_dir, replace_file, sandbox_dir_path, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.images.users import check_user
from ballonet.lifecycle.liveness import living, machines
from ballonet.lifecycle.record import Command, Defaults, Record, State
from ballonet.lifecycle.registry import Registry, to_json
from ballonet.machine.notes import COMMAND_FILE, EndNote, MachineNote, write_stop_seconds
from ballonet.machine.run_options import RunOptions
from ballonet.settings.config import SandboxConfig, check_name
from ballonet.settings.flags import parse_config, render_flags

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.machine.launch import OwnedProcess

# asyncio is imported where it is used: 'ballonet ls' is quick without it.

MACHINE_LOG = "machine.log"
#: In the state directory: the row as it was when the run began, for a registry that was lost to be made again.
ROW_FILE = "row.json"
#: What the directories of removed sandboxes are called while they go; no sandbox's name begins so.
_ASIDE = ".removed-"
#: How long a sandbox may take to end in order before it is ended without (seconds), as in Docker.
STOP_TIMEOUT_S = 10.0
#: How long a process may take to end once nothing is waited for any more (seconds).
_FORCED_S = 30.0


def create(
    registry: Registry,
    config: SandboxConfig,
    *,
    image: Image | None = None,
    command: Command | None = None,
    defaults: Defaults | None = None,
    auto_remove: bool = False,
    weight: int = 100,
    reserve_mib: int = 0,
) -> Record:
    """Register a sandbox; it does not run yet.

    :param image: what the root of ``config`` is made from (see :func:`ballonet.lifecycle.image_settings.prepare`).
    :param defaults: what every command in it inherits.
    :raises NameInUseError: there is one of that name.
    """
    if config.image is not None and config.root is None:
        raise ConfigError(f"image {config.image!r} was not brought in", hint="see image_settings.prepare")
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
        auto_remove=auto_remove,
        weight=weight,
        reserve_mib=reserve_mib,
    )
    try:
        registry.add(record)
    except NameInUseError:
        # One that goes away when it ends may have ended just now, or its program may have been killed.
        left = registry.find(config.name)
        if left is not None and refresh(registry, left) is not None:
            raise
        registry.add(record)
    directory = state_dir_of(record.name)
    try:
        # The registry may have been lost or repaired: what lives keeps its name and its files.
        note = MachineNote.read(directory)
        if note is not None and note.alive():
            raise NameInUseError(
                f"a sandbox named {record.name!r} runs (pid {note.process.pid}) that the registry does not know",
                hint="register it again: ballonet prune",
            )
        private_dir(directory.parent)
        remove_files(directory)
        private_dir(directory)
        _ensure_volumes(config)
    except NameInUseError:
        registry.remove(record)
        raise
    except BaseException:
        _forget(registry, record)
        raise
    return record


#: Entered while a sandbox is marked as starting: see :mod:`ballonet.pilot.admission_control`.
Gate = Callable[[Registry, Record], AbstractContextManager[None]]


async def start(registry: Registry, name: str, *, detached: bool, gate: Gate | None = None) -> OwnedProcess:
    """Start a registered sandbox, and return when its guest answers.

    :param detached: it goes on when this program ends.
    :param gate: asked whether there is room for it.
    :raises AdmissionError: there is not; nothing was started.
    :raises StillRunningError: it runs already.
    :raises BallonetError: it did not come up; the registry says so.
    """
    from ballonet.machine.launch import launch

    record = find(registry, name)
    run_id = os.urandom(8).hex()
    with contextlib.nullcontext() if gate is None or record.state.lives else gate(registry, record):
        begun = registry.begin_run(name, run_id, ProcessId.ours(), run_dir=sandbox_dir_path(name))
    if not begun:
        raise StillRunningError(f"sandbox {name!r} runs already", hint=f"ballonet exec {name} …")
    directory = state_dir_of(name)
    try:
        private_dir(directory.parent)
        private_dir(directory)
        _ensure_volumes(config_of(record))
        _write_command(directory, record.command)
        replace_file(directory / ROW_FILE, to_json(registry.get(name)))
        options = RunOptions(
            run_id=run_id, state_dir=directory, detached=detached, command=record.command is not None
        )

        def started(identity: ProcessId) -> None:
            registry.update(name, if_run=run_id, process=identity)

        process = await launch(name, record.flags, options, directory / MACHINE_LOG, started=started)
    except BaseException as error:
        detail = error.message if isinstance(error, BallonetError) else "its start was interrupted"
        registry.update(
            name,
            if_run=run_id,
            state=State.FAILED,
            ended_at=time.time(),
            end_reason="failed",
            end_detail=detail,
        )
        # One that was killed while it booted has left its sockets.
        _sweep(replace(record, run_id=run_id, run_dir=str(sandbox_dir_path(name))))
        raise
    registry.update(name, if_run=run_id, state=State.RUNNING, started_at=process.facts["started_at"])
    return process


def refresh(registry: Registry, record: Record) -> Record | None:
    """``record`` as it is now, by the word of the sandbox's process; ``None`` if it went away with its end.

    What is found is written to the registry, unless another run has begun meanwhile.
    """
    if not record.state.lives:
        return record
    note = living(record)
    if note is not None:
        if note.ready and record.state is not State.RUNNING:
            changes = {"state": State.RUNNING, "started_at": note.started_at}
            registry.update(record.name, if_run=record.run_id, **changes)
            return replace(record, state=State.RUNNING, started_at=note.started_at)
        return record
    end = EndNote.read(state_dir_of(record.name))
    if end is None or end.run_id != record.run_id:
        if record.state is State.STARTING and record.starter is not None and record.starter.alive():
            return record
        end = EndNote(
            run_id=record.run_id or "",
            reason="killed",
            detail="its process ended without a word: it was killed, or the host went down",
            ended_at=time.time(),
        )
    _sweep(record)
    if record.auto_remove:
        _forget(registry, record)
        return None
    changed = _with_end(record, end)
    registry.update(
        record.name,
        if_run=record.run_id,
        state=changed.state,
        ended_at=end.ended_at,
        end_reason=end.reason,
        end_detail=end.detail,
        exit_code=end.exit_code,
    )
    return changed


def _with_end(record: Record, end: EndNote) -> Record:
    return replace(
        record,
        state=State.FAILED if end.reason == "failed" else State.STOPPED,
        ended_at=end.ended_at,
        end_reason=end.reason,
        end_detail=end.detail,
        exit_code=end.exit_code,
    )


def find(registry: Registry, name: str) -> Record:
    """The sandbox of that name as it is now.

    :raises UnknownSandboxError: there is none.
    :raises ConfigError: no sandbox can have that name.
    """
    check_name(name)
    return refresh(registry, registry.get(name)) or registry.get(name)


def find_running(registry: Registry, name: str) -> tuple[Record, MachineNote]:
    """:raises NotRunningError: it does not run, or is not up yet."""
    record = find(registry, name)
    note = living(record)
    if note is None or not note.ready:
        said = f": {record.end_detail}" if record.end_detail else ""
        booting = record.state is State.STARTING or (note is not None and not note.ready)
        raise NotRunningError(
            f"sandbox {name!r} is {record.state}{said}",
            hint="it is booting: try again in a moment" if booting else f"start it: ballonet start {name}",
        )
    return record, note


def list_sandboxes(registry: Registry) -> list[Record]:
    """All, as they are now, the oldest first."""
    return [now for record in registry.list() if (now := refresh(registry, record)) is not None]


async def stop(registry: Registry, name: str, *, timeout_s: float = STOP_TIMEOUT_S) -> Record | None:
    """End a sandbox in order; without, once ``timeout_s`` has passed (0: at once; below 0: never). Its record then.

    A sandbox that does not run is left as it is. ``None``: it went away with its end.
    """
    record = find(registry, name)
    note = living(record)
    if note is None:
        return record
    await end_process(note.process, state_dir_of(name), timeout_s)
    if note.engine is not None:
        # It dies with its sandbox's process, a moment later.
        await kill(note.engine)
    return refresh(registry, record)


async def end_process(process: ProcessId, state: Path | None = None, timeout_s: float = 0) -> None:
    """End a sandbox by its own process, and wait for that.

    :param state: the sandbox's state directory: where its process finds how long it may take.
    :param timeout_s: how long it may take in order (0: not at all; below 0: as long as it takes).
    :raises SandboxError: the kernel does not let it end.
    """
    pidfd = process.open()
    if pidfd is None:
        return
    try:
        limit = math.inf if timeout_s < 0 else timeout_s
        if limit:
            if state is not None:
                with contextlib.suppress(HostError):  # a full disk: it then takes its usual time
                    write_stop_seconds(private_dir(state), limit)
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # a frozen one (SIGSTOP) would not hear of it
        # An end in order takes the guest a few seconds after its command has ended.
        if not limit or not await _ended(pidfd, limit):
            signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            if not await _ended(pidfd, _FORCED_S):
                await kill(process)
    except ProcessLookupError:
        pass  # it ended meanwhile
    finally:
        os.close(pidfd)


async def kill(process: ProcessId) -> None:
    """Kill that very process and wait for its end; nothing is done if it has ended.

    :raises SandboxError: the kernel does not let it end.
    """
    pidfd = process.open()
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not await _ended(pidfd, _FORCED_S):
            raise SandboxError(f"process {process.pid} cannot be ended")
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


async def wait_end(registry: Registry, name: str) -> Record | None:
    """Wait for the end of a sandbox that runs; its record then (``None``: it is gone, with its end)."""
    import asyncio

    record = find(registry, name)
    while record.state.lives:
        note = living(record)
        pidfd = None if note is None else note.process.open()
        if pidfd is None:
            await asyncio.sleep(0.1)  # it is about to start, or has just ended
        else:
            try:
                await _ended(pidfd, None)
            finally:
                os.close(pidfd)
        end = EndNote.read(state_dir_of(name))
        now = refresh(registry, record)
        if now is None:  # it went away with its end, which we may have seen
            return _with_end(record, end) if end is not None and end.run_id == record.run_id else None
        record = now
    return record


async def remove(registry: Registry, name: str, *, force: bool = False) -> None:
    """Remove a sandbox, its logs and its disk.

    :param force: end it first if it runs.
    :raises StillRunningError: it runs, and ``force`` was not given.
    """
    try:
        record: Record | None = find(registry, name)
    except RegistryError:
        if not force:
            raise
        await _remove_damaged(registry, name)
        return
    assert record is not None
    if record.state.lives:
        if not force:
            raise StillRunningError(
                f"sandbox {name!r} is {record.state}", hint=f"stop it first, or: ballonet rm --force {name}"
            )
        record = await stop(registry, name, timeout_s=0)
    if record is not None and not _forget(registry, record) and registry.find(name) is not None:
        raise StillRunningError(
            f"sandbox {name!r} was started again meanwhile", hint=f"again: ballonet rm --force {name}"
        )


async def _remove_damaged(registry: Registry, name: str) -> None:
    """Remove a sandbox whose row cannot be read; what runs by that name is ended first."""
    directory = state_dir_of(name)
    for machine in machines():
        if machine.options.state_dir == directory:
            await end_process(machine.process)
    registry.remove_unread(name)
    remove_files(directory)


async def discard(registry: Registry, name: str) -> None:
    """Remove a sandbox, running or not, if it is there."""
    with contextlib.suppress(UnknownSandboxError):
        await remove(registry, name, force=True)


def config_of(record: Record, flags: Sequence[str] | None = None) -> SandboxConfig:
    """The desired configuration of a sandbox, or the one that ``flags`` say."""
    return replace(parse_config(record.flags if flags is None else flags), image=record.image)


def _forget(registry: Registry, record: Record) -> bool:
    """Remove the row and the files, unless they are another's by now; whether they were this one's.

    The files go out of the way before anybody else can take the name, and are then removed at leisure.
    """
    directory = state_dir_of(record.name)
    out_of_the_way = aside(directory)

    def put_aside() -> None:
        with contextlib.suppress(FileNotFoundError):
            directory.rename(out_of_the_way)

    done = registry.remove(record, put_aside)
    if done:
        remove_files(out_of_the_way)
    return done


def aside(directory: Path) -> Path:
    """What the state directory of a sandbox is renamed to before it is removed: no sandbox's name."""
    return directory.with_name(f"{_ASIDE}{os.urandom(8).hex()}")


def remove_files(path: Path) -> None:
    """Remove what a sandbox has had for a state directory, as far as it can be; where a link leads is left alone."""
    with contextlib.suppress(OSError):
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            return
    shutil.rmtree(path, ignore_errors=True)


def _sweep(record: Record) -> None:
    """Remove what a dead run has left in its run directory."""
    if record.run_dir is not None:
        from ballonet.machine.place import sweep_place

        note = MachineNote.read(state_dir_of(record.name))
        moved = note.run_dir if note is not None and note.run_id == record.run_id else ""
        for directory in {record.run_dir, moved} - {""}:
            sweep_place(Path(directory))


def _ensure_volumes(config: SandboxConfig) -> None:
    if config.volumes:
        from ballonet.machine.shares import check_source
        from ballonet.settings.named_volumes import make, volumes_dir

        named = volumes_dir()
        for volume in config.volumes:
            if volume.source.parent == named:
                make(volume.source)
            check_source(volume)


def _write_command(directory: Path, command: Command | None) -> None:
    if command is None:
        return
    stop_signal = signal.SIGTERM if command.stop_signal is None else command.stop_signal
    settings = {
        "argv": command.argv,
        "env": command.env,
        "cwd": command.cwd,
        "user": command.user,
        "stop_signal": int(stop_signal),
    }
    replace_file(directory / COMMAND_FILE, json.dumps(settings).encode())


async def _ended(pidfd: int, timeout_s: float | None) -> bool:
    """Wait for a process's end; whether it came in time."""
    import asyncio

    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(pidfd, over.set)
    try:
        async with asyncio.timeout(timeout_s):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
