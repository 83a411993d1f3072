"""Makes sandboxes from snapshots, and forks of running sandboxes.

A sandbox is registered, gets its own disk and the saved state, and is then an ordinary paused one, which is resumed.
If the program is killed before that, the sandbox has failed; afterwards it is paused, or removed if it was to be
removed at its end. Nothing of it is half there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import BallonetError, ConfigError, NameInUseError
from ballonet.base.paths import state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.record import Command, Defaults, Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.saved_files import place
from ballonet.lifecycle.snapshot_facts import SnapshotFacts
from ballonet.lifecycle.snapshot_platform import check_platform
from ballonet.lifecycle.snapshots import Snapshot, Snapshots
from ballonet.lifecycle.start import Gate, start_sandbox
from ballonet.lifecycle.stop import discard_sandbox
from ballonet.settings.config import SandboxConfig, check_name
from ballonet.vmm.attach import Net, Port
from ballonet.vmm.builder import default_floor_mib
from ballonet.vmm.config import Accel

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.machine.launch import OwnedProcess

# asyncio is imported where it is used: importing this module stays fast.


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a sandbox made from a snapshot has of its own; ``None``: as the saved one."""

    name: str
    #: Nothing is published unless it is given here: two sandboxes cannot publish one port.
    ports: tuple[Port, ...] = ()
    labels: Mapping[str, str] | None = None
    weight: int | None = None
    reserve_mib: int | None = None
    #: Its own command, if that of the saved one does not run.
    command: Command | None = None
    #: Variables, directory and user of all its commands.
    defaults: Defaults | None = None
    auto_remove: bool = False


@dataclass(frozen=True)
class SavedFiles:
    """The files of a snapshot, or of a fork that is being made."""

    facts: SnapshotFacts
    state: Path
    disk: Path

    @classmethod
    def of(cls, snapshot: Snapshot) -> SavedFiles:
        """:raises SnapshotError: it cannot be read."""
        return cls(snapshot.readable(), snapshot.state_path, snapshot.disk_path)


def check_changes(facts: SnapshotFacts, changes: Changes) -> SandboxConfig:
    """The configuration of the sandbox that is to be made. Its accelerator is the one with which it was saved.

    :raises ConfigError: a change is impossible.
    """
    old = facts.config
    if changes.ports and old.net is Net.NONE:
        raise ConfigError(
            f"port {changes.ports[0]} cannot be published: the saved sandbox {facts.sandbox!r} has no network",
            hint="create a sandbox with --net user or --net isolated, and save that",
        )
    if changes.command is not None and facts.command_runs:
        raise ConfigError(
            f"the command of the saved sandbox {facts.sandbox!r} goes on running, so that there cannot be another one",
            hint="leave the command out, and use 'ballonet exec' afterwards",
        )
    return replace(
        old,
        name=changes.name,
        hostname=None,
        image=facts.image,
        ports=changes.ports,
        balloon_control_socket=None,
        balloon_initial_mib=old.balloon_initial_mib or (old.memory_mib if old.has_balloon else None),
        balloon_allow_users=(),
        balloon_allow_groups=(),
        balloon_observe_users=(),
        balloon_observe_groups=(),
        accel=Accel(facts.platform.accelerator),
    )


def check_target(facts: SnapshotFacts, target_mib: int | None) -> None:
    """:raises ConfigError: a sandbox that is made from the snapshot cannot have this target."""
    if target_mib is None:
        return
    old = facts.config
    if not old.has_balloon:
        raise ConfigError(
            f"the target cannot be {target_mib} MiB: the saved sandbox {facts.sandbox!r} has no balloon"
        )
    floor_mib = old.balloon_min_mib
    if floor_mib is None:
        floor_mib = default_floor_mib(old.memory_mib, old.balloon_initial_mib or old.memory_mib)
    if not floor_mib <= target_mib <= old.memory_mib:
        raise ConfigError(
            f"the target {target_mib} MiB is outside the range of the saved sandbox {facts.sandbox!r}: its floor is "
            f"{floor_mib} MiB, its ceiling {old.memory_mib} MiB"
        )


def register(registry: Registry, saved: SavedFiles, changes: Changes) -> Record:
    """Register a sandbox that is made from ``saved``, and give it its files: it is paused then.

    :raises NameInUseError: the name is in use.
    :raises BallonetError: that failed; nothing is left behind.
    """
    facts = saved.facts
    config = check_changes(facts, changes)
    command = facts.command if facts.command_runs else changes.command
    record = lifecycle.create(
        registry,
        config,
        image=image_of_facts(facts),
        command=command,
        defaults=facts.defaults if changes.defaults is None else changes.defaults,
        labels=changes.labels,
        auto_remove=changes.auto_remove,
        weight=facts.weight if changes.weight is None else changes.weight,
        reserve_mib=facts.reserve_mib if changes.reserve_mib is None else changes.reserve_mib,
    )
    run_id = os.urandom(8).hex()
    try:
        # As a start: if this program is killed, the sandbox does not stay as one that was created.
        registry.begin_run(record.name, run_id, ProcessId.current())
        place(saved.state, facts.state_key, saved.disk, config, state_dir_of(record.name))
        registry.update(record.name, if_run=run_id, state=State.PAUSED)
    except BaseException:
        lifecycle.forget(registry, registry.get(record.name))
        raise
    return registry.get(record.name)


async def restore_sandbox(
    registry: Registry,
    saved: SavedFiles,
    changes: Changes,
    *,
    detached: bool,
    gate: Gate | None = None,
    target_mib: int | None = None,
) -> OwnedProcess:
    """Make a sandbox from ``saved``, and return when its guest runs.

    :param target_mib: the target of its balloon, which its guest follows after that; by default that of the saved one.
    :raises BallonetError: that failed; nothing is left behind.
    """
    from ballonet.base.threads import in_thread

    check_target(saved.facts, target_mib)
    name, made, process = changes.name, False, None

    def make() -> None:
        nonlocal made
        with Registry.open(registry.path.parent) as own:  # a connection works in one thread only
            register(own, saved, changes)
        made = True

    try:
        await in_thread(make)  # copying a disk may take long
        process = await start_sandbox(registry, name, detached=detached, gate=gate)
        if target_mib is not None:
            await _set_target(process, name, target_mib)
    except BaseException:
        if process is not None:
            await process.kill()
        if made:  # otherwise the name may be that of another sandbox
            await discard_sandbox(registry, name)
        raise
    return process


async def _set_target(process: OwnedProcess, name: str, target_mib: int) -> None:
    from ballonet.control.client import Client

    socket = process.facts["control_socket"]
    if socket is None:
        raise ConfigError(f"sandbox {name!r} has no target: the saved sandbox has no balloon")
    async with await Client.connect(socket) as client:
        await client.set(target_mib)


@contextlib.contextmanager
def opened_snapshot(name: str, store: Snapshots | None = None) -> Iterator[SavedFiles]:
    """The files of a snapshot that this host can restore; it is not removed during the ``with`` block."""
    with (Snapshots.open() if store is None else store).using(name) as snapshot:
        saved = SavedFiles.of(snapshot)
        check_platform(f"snapshot {name!r}", saved.facts)
        yield saved


def image_of_facts(facts: SnapshotFacts) -> Image | None:
    """The image of the saved sandbox's root.

    :raises BallonetError: it does not exist any more.
    """
    if facts.image_id is None:
        return None
    from ballonet.images.store import ImageStore

    return ImageStore.open().find(facts.image_id)


async def fork_sandbox(
    registry: Registry,
    sandbox: str,
    forks: Sequence[Changes],
    *,
    detached: bool,
    gate: Gate | None = None,
    trim: bool = False,
) -> list[OwnedProcess | BallonetError]:
    """Save a running sandbox once, and make a sandbox for each of ``forks``; returns the process or the error of each.
    Forks have the sandbox's labels, and their own.

    :param trim: have the guest give caches and free memory to the host first, if it is idle.
    :raises BallonetError: none was made; the sandbox runs on.
    """
    import asyncio

    from ballonet.machine.launch import expect_starts
    from ballonet.machine.ports import check_ports_free

    check_ports_free([port for fork in forks for port in fork.ports])
    expect_starts(len(forks))  # while the sandbox is saved
    async with saved_for_forks(registry, sandbox, [fork.name for fork in forks], trim=trim) as saved:
        inherited = registry.get(sandbox).labels
        forks = [replace(fork, labels={**inherited, **(fork.labels or {})}) for fork in forks]
        for fork in forks:
            check_changes(saved.facts, fork)
        starts = [
            asyncio.create_task(_fork(registry, saved, fork, detached=detached, gate=gate)) for fork in forks
        ]
        try:
            return [await start for start in starts]
        except BaseException:  # cancelled: forks that are not ready yet are removed
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            raise


async def _fork(
    registry: Registry, saved: SavedFiles, fork: Changes, *, detached: bool, gate: Gate | None
) -> OwnedProcess | BallonetError:
    try:
        return await restore_sandbox(registry, saved, fork, detached=detached, gate=gate)
    except BallonetError as error:
        return error


@contextlib.asynccontextmanager
async def saved_for_forks(
    registry: Registry,
    sandbox: str,
    names: Sequence[str],
    store: Snapshots | None = None,
    *,
    trim: bool = False,
) -> AsyncIterator[SavedFiles]:
    """Save a running sandbox once, for forks with these names. The files are removed at the end of the block; the forks
    have their own then.

    :raises NameInUseError: there is a sandbox with one of the names.
    :raises BallonetError: the sandbox cannot be saved; it runs on.
    """
    from ballonet.lifecycle.snapshot_save import save_sandbox

    check_new_names(registry, names)
    with (Snapshots.open() if store is None else store).making() as made:
        facts = await save_sandbox(registry, sandbox, made, trim=trim)
        yield SavedFiles(facts, made.state_path, made.disk_path)


def check_new_names(registry: Registry, names: Sequence[str]) -> None:
    """:raises ConfigError: a name is not valid, or is there twice.
    :raises NameInUseError: there is a sandbox with one of the names.
    """
    for at, name in enumerate(names):
        check_name(name)
        if name in names[:at]:
            raise ConfigError(
                f"the name {name!r} is given twice", hint="each sandbox needs a name of its own"
            )
        found = registry.find(name)
        if found is not None and lifecycle.refresh(registry, found) is not None:
            raise NameInUseError(
                f"there is a sandbox named {name!r} already",
                hint=f"choose another name, or remove that sandbox: ballonet rm {name}",
            )
