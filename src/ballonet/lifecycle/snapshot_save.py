"""Makes a snapshot of a running or paused sandbox."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ballonet.base.errors import ConfigError, SnapshotError
from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import config_of, find, find_running
from ballonet.lifecycle.saved_files import copy_paused
from ballonet.lifecycle.snapshot_facts import SnapshotFacts
from ballonet.lifecycle.snapshot_platform import platform_here
from ballonet.lifecycle.snapshots import NewSnapshot, Snapshot, Snapshots
from ballonet.lifecycle.start import paused_flags
from ballonet.machine.notes import MachineNote
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import render_flags
from ballonet.version import __version__
from ballonet.vmm.accel import detect_accel

# asyncio and the agent's client are imported where they are used: importing this module stays fast.


def default_name(sandbox: str, now: float | None = None) -> str:
    """The name of a snapshot that was not given one: that of its sandbox, and the time."""
    return f"{sandbox[:46]}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"


async def create_snapshot(
    registry: Registry,
    sandbox: str,
    name: str | None = None,
    *,
    trim: bool = True,
    store: Snapshots | None = None,
) -> Snapshot:
    """Save a sandbox as a snapshot. A running one runs on; a paused one stays paused.

    :param name: by default that of the sandbox, and the time.
    :param trim: have the guest give caches and free memory to the host first, if it is idle.
    :raises NotRunningError: the sandbox is neither running nor paused.
    :raises NameInUseError: there is a snapshot with that name.
    :raises ConfigError: the sandbox cannot be saved: it has volumes.
    :raises BallonetError: it could not be saved. It runs on, and nothing is left.
    """
    store = Snapshots.open() if store is None else store
    name = default_name(sandbox) if name is None else name
    store.check_free(name)
    with store.making() as made:
        await save_sandbox(registry, sandbox, made, trim=trim)
        made.commit(name)
    return store.get(name)


async def save_sandbox(registry: Registry, sandbox: str, made: NewSnapshot, *, trim: bool) -> SnapshotFacts:
    """Save a running or paused sandbox in the directory of ``made``, with its description."""
    from ballonet.base.threads import in_thread

    record, note = find(registry, sandbox), None
    if record.state is State.PAUSED:
        config = config_of(record, paused_flags(record))
    else:
        record, note = find_running(registry, sandbox)
        config = config_of(record, note.flags)
    if config.volumes:
        raise ConfigError(
            f"sandbox {sandbox!r} cannot be saved because it has volumes: QEMU cannot save virtiofs devices",
            hint="use a sandbox without volumes (-v), and copy files with 'ballonet cp'",
        )
    platform = platform_here(detect_accel(config.accel).accel, config.machine)
    if note is not None:
        found = await _ask(note, made, trim)
    else:
        found = await in_thread(lambda: _copy(record.name, config, made))
    facts = SnapshotFacts(
        created_at=time.time(),
        sandbox=record.name,
        flags=tuple(render_flags(config)),
        image=record.image,
        image_id=record.image_id,
        command=record.command if found["command_runs"] else None,
        defaults=record.inherited,
        command_runs=found["command_runs"],
        weight=record.weight,
        reserve_mib=record.reserve_mib,
        platform=platform,
        state_key=found["state_key"],
        ballonet=__version__,
        resident_bytes=found["resident_bytes"],
        stopped_s=found["stopped_s"],
    )
    made.write_facts(facts)
    return facts


def _copy(name: str, config: SandboxConfig, made: NewSnapshot) -> dict[str, Any]:
    """Copy what is saved of a paused sandbox."""
    key, command_runs = copy_paused(name, config, state_dir_of(name), made.state_path, made.disk_path)
    return {"state_key": key, "command_runs": command_runs, "resident_bytes": None, "stopped_s": 0.0}


async def _ask(note: MachineNote, made: NewSnapshot, trim: bool) -> dict[str, Any]:
    """Have the sandbox's process save it."""
    from ballonet.guest.agent_client import AgentClient

    agent = await AgentClient.connect(note.agent_socket)
    try:
        await agent.wait_ready()
        found = await agent.manage(
            "snapshot", state=str(made.state_path), disk=str(made.disk_path), trim=trim
        )
    finally:
        await agent.close()
    wanted: dict[str, Callable[[Any], Any]] = {
        "state_key": str,
        "stopped_s": float,
        "resident_bytes": lambda value: None if value is None else int(value),
        "command_runs": bool,
    }
    try:
        return {key: read(found[key]) for key, read in wanted.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"the sandbox's process sent an unreadable reply: {error!r}") from error
