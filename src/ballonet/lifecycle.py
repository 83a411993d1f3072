"""The life of registered sandboxes: create, start, look, stop, remove. What the command line and the SDK share.

The registry holds what was asked for; whether a sandbox lives is asked of its process each time (:func:`refresh`),
so that a crash, a kill or a power cut never leaves a dead one shown as running.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.config import SandboxConfig, check_name
from ballonet.errors import (
    BallonetError,
    ConfigError,
    NameInUseError,
    NotRunningError,
    SandboxError,
    StillRunningError,
    UnknownSandboxError,
)
from ballonet.host.identity import ProcessId
from ballonet.machine.args import parse_config, render_flags
from ballonet.machine.notes import COMMAND_FILE, EndNote, MachineNote, write_stop_seconds
from ballonet.machine.run_options import RunOptions
from ballonet.paths import private_dir, replace_file, sandbox_dir, state_dir
from ballonet.registry.record import Command, Record, State
from ballonet.registry.registry import Registry

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.machine.launch import OwnedProcess

# asyncio is imported where it is used: 'ballonet ls' is quick without it.

MACHINE_LOG = "machine.log"
#: How long a sandbox may take to end in order before it is ended without (seconds), as in Docker.
STOP_TIMEOUT_S = 10.0
#: How long a process may take to end once nothing is waited for any more (seconds).
_FORCED_S = 30.0


def state_dir_of(name: str) -> Path:
    """The sandbox's own state directory: its logs, its disk, the note of its end."""
    return state_dir() / "sandboxes" / name


def create(
    registry: Registry,
    config: SandboxConfig,
    *,
    image: Image | None = None,
    command: Command | None = None,
    auto_remove: bool = False,
    weight: int = 100,
    reserve_mib: int = 0,
) -> Record:
    """Register a sandbox; it does not run yet.

    :param image: what the root of ``config`` is made from (see :func:`ballonet.imaged.prepare`).
    :raises NameInUseError: there is one of that name.
    """
    if config.image is not None and config.root is None:
        raise ConfigError(f"image {config.image!r} was not brought in", hint="see ballonet.imaged.prepare")
    if command is not None:
        parse_user(command.user)
    record = Record(
        name=config.name,
        created_at=time.time(),
        flags=tuple(render_flags(config)),
        image=config.image,
        image_id=None if image is None else image.id,
        command=command,
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
    try:
        directory = state_dir_of(record.name)
        private_dir(directory.parent)
        shutil.rmtree(directory, ignore_errors=True)
        private_dir(directory)
        _ensure_volumes(config)
    except BaseException:
        registry.remove(record.name)
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return record


async def start(registry: Registry, name: str, *, detached: bool, admission: bool = True) -> OwnedProcess:
    """Start a registered sandbox, and return when its guest answers.

    :param detached: it goes on when this program ends.
    :param admission: where an autopilot drives the sandboxes, ask whether there is room.
    :raises AdmissionError: there is not; nothing was started.
    :raises StillRunningError: it runs already.
    :raises BallonetError: it did not come up; the registry says so.
    """
    from ballonet.machine.launch import launch
    from ballonet.pilot.gate import admitted

    record = find(registry, name)
    run_id = os.urandom(8).hex()
    with admitted(registry, record) if admission and not record.state.lives else contextlib.nullcontext():
        begun = registry.begin_run(name, run_id, ProcessId.ours())
    if not begun:
        raise StillRunningError(f"sandbox {name!r} runs already", hint=f"ballonet exec {name} …")
    directory = state_dir_of(name)
    try:
        private_dir(directory.parent)
        private_dir(directory)
        _ensure_volumes(config_of(record))
        _write_command(directory, record.command)
        options = RunOptions(
            run_id=run_id, state_dir=directory, detached=detached, command=record.command is not None
        )
        process = await launch(name, record.flags, options, directory / MACHINE_LOG)
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
    if record.auto_remove:
        _forget(registry, record)
        return None
    state = State.FAILED if end.reason == "failed" else State.STOPPED
    changed = replace(
        record,
        state=state,
        ended_at=end.ended_at,
        end_reason=end.reason,
        end_detail=end.detail,
        exit_code=end.exit_code,
    )
    registry.update(
        record.name,
        if_run=record.run_id,
        state=state,
        ended_at=end.ended_at,
        end_reason=end.reason,
        end_detail=end.detail,
        exit_code=end.exit_code,
    )
    return changed


def living(record: Record) -> MachineNote | None:
    """What the process of the record's run says of itself; ``None`` if it does not live."""
    note = MachineNote.read(sandbox_dir(record.name))
    return note if note is not None and note.run_id == record.run_id and note.process.alive() else None


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
    """End a sandbox in order; without, once ``timeout_s`` has passed (0: at once). The record as it is then.

    A sandbox that does not run is left as it is. ``None``: it went away with its end.
    """
    record = find(registry, name)
    note = living(record)
    if note is None:
        return record
    pidfd = note.process.open()
    if pidfd is not None:
        try:
            if timeout_s > 0:
                write_stop_seconds(sandbox_dir(name), timeout_s)
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            # An end in order takes the guest a few seconds after its command has ended.
            if timeout_s <= 0 or not await _ended(pidfd, timeout_s):
                signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
                if not await _ended(pidfd, _FORCED_S):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    if not await _ended(pidfd, _FORCED_S):
                        raise SandboxError(
                            f"the process of sandbox {name!r} ({note.process.pid}) cannot be ended"
                        )
        except ProcessLookupError:
            pass  # it ended meanwhile
        finally:
            os.close(pidfd)
    return refresh(registry, record)


async def wait_end(registry: Registry, name: str) -> Record | None:
    """Wait for the end of a sandbox that runs; its record then (``None``: it went away with its end)."""
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
        now = refresh(registry, record)
        if now is None:
            return None
        record = now
    return record


async def remove(registry: Registry, name: str, *, force: bool = False) -> None:
    """Remove a sandbox, its logs and its disk.

    :param force: end it first if it runs.
    :raises StillRunningError: it runs, and ``force`` was not given.
    """
    record: Record | None = find(registry, name)
    assert record is not None
    if record.state.lives:
        if not force:
            raise StillRunningError(
                f"sandbox {name!r} is {record.state}", hint=f"stop it first, or: ballonet rm --force {name}"
            )
        record = await stop(registry, name, timeout_s=0)
    if record is not None:
        _forget(registry, record)


async def discard(registry: Registry, name: str) -> None:
    """Remove a sandbox, running or not, if it is there."""
    with contextlib.suppress(UnknownSandboxError):
        await remove(registry, name, force=True)


def prune(registry: Registry) -> list[str]:
    """Refresh all, and remove state directories that no sandbox has; the names."""
    known = {record.name for record in list_sandboxes(registry)}
    directory = state_dir() / "sandboxes"
    found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    strays = [name for name in found if name not in known and registry.find(name) is None]
    for name in strays:
        shutil.rmtree(directory / name, ignore_errors=True)
    return strays


def config_of(record: Record, flags: Sequence[str] | None = None) -> SandboxConfig:
    """The desired configuration of a sandbox, or the one that ``flags`` say."""
    return replace(parse_config(record.flags if flags is None else flags), image=record.image)


def parse_user(user: str | None) -> tuple[int | None, int | None, tuple[int, ...]]:
    """User, group and supplementary groups of ``UID``, ``UID:GID`` or ``UID:GID,GROUP,…``; ``None`` if not given.

    :raises ConfigError: it is none of these.
    """
    if not user:
        return None, None, ()
    uid, colon, rest = user.partition(":")
    groups = rest.split(",") if colon else []
    if not all(word.isdecimal() for word in (uid, *groups)):
        raise ConfigError(
            f"user {user!r} is not UID or UID:GID",
            hint="numbers, such as 1000 or 1000:1000; names are known only with an image",
        )
    numbers = [int(word) for word in groups]
    return int(uid), numbers[0] if numbers else None, tuple(numbers[1:])


def _forget(registry: Registry, record: Record) -> None:
    """Remove the files first: the name must not be another's while they go."""
    shutil.rmtree(state_dir_of(record.name), ignore_errors=True)
    registry.remove(record.name, if_run=record.run_id)


def _ensure_volumes(config: SandboxConfig) -> None:
    if config.volumes:
        from ballonet import volumes

        volumes.ensure(config.volumes)


def _write_command(directory: Path, command: Command | None) -> None:
    if command is None:
        return
    uid, gid, groups = parse_user(command.user)
    who = {"uid": uid, "gid": gid, "groups": groups}
    settings = {"argv": command.argv, "env": command.env, "cwd": command.cwd, **who}
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
