"""Sandbox: create, find, use and end sandboxes, with asyncio. :mod:`ballonet.sync` is the same without asyncio.

The class has four parts: ``sandbox_state.py`` (what is known of a sandbox), ``sandbox_commands.py`` (commands and
files), ``sandbox_life.py`` (its end), and this one (create, find, change).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ballonet.base.arguments import check_flag, check_words
from ballonet.base.memory import to_mib
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import prepare
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Defaults, Record
from ballonet.lifecycle.registry import Registry
from ballonet.machine.launch import OwnedProcess, SandboxEnd
from ballonet.sdk.builder import SandboxBuilder, Size
from ballonet.sdk.creation import Balloon, check_start, command_of, command_settings, configuration
from ballonet.sdk.sandbox_commands import ExecResult, SandboxCommands
from ballonet.sdk.sandbox_life import SandboxLife
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume

if TYPE_CHECKING:
    from ballonet.control.backend import Stats
    from ballonet.images.store import Pull
    from ballonet.lifecycle.modify import Change, Plan

__all__ = ["Balloon", "ExecResult", "Sandbox", "SandboxEnd", "random_name"]


def random_name(prefix: str = "box") -> str:
    """A name that is almost certainly not in use."""
    return f"{prefix}-{os.urandom(4).hex()}"  # the module secrets would slow every import


class Sandbox(SandboxCommands, SandboxLife):
    """A sandbox. An *owned* sandbox ends, and is removed, together with the program that created it, however that
    program ends. A *detached* one runs until it is stopped, and stays registered until it is removed.

    ``async with await Sandbox.create("box", memory="1G") as box: …``. Leaving the block ends an owned sandbox
    immediately, and does nothing to a detached one.
    """

    @classmethod
    async def create(
        cls,
        name: str | SandboxConfig,
        *,
        image: str | None = None,
        rootfs: str | Path | None = None,
        pull: Pull = "missing",
        disk: Size | None = None,
        volumes: Sequence[str | Volume] = (),
        tmpfs: Sequence[str | Tmpfs] = (),
        net: Net | str | None = None,
        ports: Sequence[str | Port] = (),
        memory: Size = 512,
        cpus: int = 1,
        balloon: Balloon | bool = True,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        weight: int = 100,
        reserve: Size = 0,
        detached: bool = False,
        admission: bool = True,
    ) -> Self:
        """Register a sandbox, boot it, and return when its guest answers.

        :param name: its name; or a whole configuration, and then what follows until ``balloon`` says nothing, except
            ``rootfs`` and ``pull``.
        :param image: an image's reference, layout or archive; by default the built-in root.
        :param rootfs: a directory of the host to make the root from, instead of an image.
        :param pull: when to ask the image's registry: ``missing``, ``always`` or ``never``.
        :param disk: size of the writable disk; with an image 8 GiB by default. It takes space as it is filled.
        :param volumes: ``SOURCE:GUEST[:ro]`` each: a directory of the host (with a slash) or a named volume.
        :param tmpfs: ``PATH[:SIZE]`` each: directories in the guest's memory.
        :param net: ``none`` (the default without ports), ``user`` (the default with them) or ``isolated``.
        :param ports: ``[ADDRESS:]HOST:GUEST[/udp]`` each; see :attr:`ports` for what the host chose for 0.
        :param memory: the ceiling.
        :param balloon: ``True`` is one with its defaults, ``False`` none.
        :param command: what it runs by itself; it then ends with this command. Without it the sandbox idles,
            whatever command its image has.
        :param env: variables of every command in the sandbox, its own and those of :meth:`exec`.
        :param cwd: their working directory, unless they say another.
        :param user: who they run as, unless they say so themselves: numbers, or names that the image knows.
        :param weight: share of memory that the host's autopilot gives it, against 100 for others.
        :param reserve: memory that the autopilot never takes from it.
        :param admission: where an autopilot drives the sandboxes, start only if it finds room.
        :raises AdmissionError: there is no room; nothing is left behind.
        :raises NameInUseError: there is a sandbox of that name.
        :raises ConfigError: a setting, or a pair of them, is impossible; the message names the values.
        :raises BallonetError: it did not come up; nothing is left behind.
        """
        from ballonet.lifecycle.modify import check_weight

        check_start(pull=pull, rootfs=rootfs, detached=detached, admission=admission)
        defaults = Defaults(*command_settings(env, cwd, user))
        if command is not None:
            command = check_words("command", command)
        weight, reserve_mib = check_weight(weight), to_mib(reserve, "reserve")
        config = configuration(
            name,
            image=image,
            disk=disk,
            volumes=volumes,
            tmpfs=tmpfs,
            net=net,
            ports=ports,
            memory=memory,
            cpus=cpus,
            balloon=balloon,
        )
        from ballonet.pilot.gate import gate_for

        # In a thread: an image may take its time.
        root = None if rootfs is None else Path(rootfs)
        prepared = await asyncio.to_thread(prepare, config, pull=pull, rootfs=root)
        with Registry.open() as registry:
            record = lifecycle.create(
                registry,
                prepared.config,
                image=prepared.image,
                command=command_of(prepared, command, defaults),
                defaults=defaults,
                auto_remove=not detached,
                weight=weight,
                reserve_mib=reserve_mib,
            )
            try:
                process = await lifecycle.start(
                    registry, record.name, detached=detached, gate=gate_for(admission)
                )
            except BaseException:
                await lifecycle.discard(registry, record.name)
                raise
            return cls._started(registry.get(record.name), process, detached)

    @classmethod
    async def start(cls, name: str, *, admission: bool = True) -> Self:
        """Start an existing sandbox that is not running. From then on it is detached.

        :param admission: if an autopilot manages the host's sandboxes, start only if it finds room.
        :raises AdmissionError: there is no room.
        :raises UnknownSandboxError: no sandbox has this name.
        :raises StillRunningError: the sandbox is already running.
        """
        from ballonet.pilot.gate import gate_for

        check_flag("admission", admission)
        with Registry.open() as registry:
            process = await lifecycle.start(registry, name, detached=True, gate=gate_for(admission))
            return cls._started(registry.get(name), process, detached=True)

    @classmethod
    async def get(cls, name: str) -> Self:
        """Find an existing sandbox, running or not.

        :raises UnknownSandboxError: no sandbox has this name.
        """
        with Registry.open() as registry:
            return cls(lifecycle.find(registry, name))

    @staticmethod
    async def list() -> list[Record]:
        """List the registry's records of all sandboxes, oldest first."""
        with Registry.open() as registry:
            return lifecycle.list_sandboxes(registry)

    @staticmethod
    async def remove(name: str, *, force: bool = False) -> None:
        """Remove a sandbox with its logs and its disk.

        :param force: remove it even if it is running.
        :raises UnknownSandboxError: no sandbox has this name.
        :raises StillRunningError: the sandbox is running, and ``force`` was not given.
        """
        check_flag("force", force)
        with Registry.open() as registry:
            await lifecycle.remove(registry, name, force=force)

    @staticmethod
    def builder(name: str) -> SandboxBuilder:
        """Build a configuration step by step: ``await Sandbox.create(Sandbox.builder("box").memory("1G").build())``."""
        return SandboxBuilder(name)

    async def metrics(self) -> Stats:
        """Memory statistics of the guest and of the host, each with its age."""
        return await self.balloon.stats()

    async def modify(
        self,
        *,
        memory: Size | None = None,
        memory_target: Size | None = None,
        balloon_initial: Size | None = None,
        balloon_min: Size | None = None,
        guard: Size | None = None,
        disk: Size | None = None,
        cpus: int | None = None,
        deflate_on_oom: bool | None = None,
        free_page_reporting: bool | None = None,
        pressure_relief: bool | None = None,
        hard_cap: bool | None = None,
        net: Net | str | None = None,
        volumes: Sequence[str | Volume] | None = None,
        tmpfs: Sequence[str | Tmpfs] | None = None,
        ports: Sequence[str | Port] | None = None,
        weight: int | None = None,
        reserve: Size | None = None,
    ) -> Sequence[Change]:
        """Change settings: at once what can be, the rest from the next start on. What was done, and how far it came.

        :param memory: the ceiling.
        :param memory_target: moves the balloon of a running sandbox.
        :param balloon_initial: guest-visible memory at boot.
        :param balloon_min: the least that a target may ask for.
        :param guard: available memory that a shrink leaves to the guest.
        :param disk: size of the writable disk, which can only grow.
        :param volumes: all of them, as in :meth:`create`; so are ``tmpfs`` and ``ports``.
        :param weight: share of memory that the autopilot gives it, against 100 for others.
        :param reserve: memory that the autopilot never takes from it.
        :raises ConfigError: a change is impossible; nothing was changed.
        """
        from ballonet.lifecycle.modify import apply_plan

        plan = self._planned(locals())
        with Registry.open() as registry:
            return await apply_plan(registry, plan)

    def plan(
        self,
        *,
        memory: Size | None = None,
        memory_target: Size | None = None,
        balloon_initial: Size | None = None,
        balloon_min: Size | None = None,
        guard: Size | None = None,
        disk: Size | None = None,
        cpus: int | None = None,
        deflate_on_oom: bool | None = None,
        free_page_reporting: bool | None = None,
        pressure_relief: bool | None = None,
        hard_cap: bool | None = None,
        net: Net | str | None = None,
        volumes: Sequence[str | Volume] | None = None,
        tmpfs: Sequence[str | Tmpfs] | None = None,
        ports: Sequence[str | Port] | None = None,
        weight: int | None = None,
        reserve: Size | None = None,
    ) -> Plan:
        """What :meth:`modify` would do; nothing is changed."""
        return self._planned(locals())

    def _planned(self, arguments: Mapping[str, Any]) -> Plan:
        """The plan for the changes among a call's ``arguments``."""
        from ballonet.lifecycle.modify import given, plan_changes

        self._check_usable()
        record = self.record()
        return plan_changes(record, living(record), given(arguments))

    @classmethod
    def _started(cls, record: Record, process: OwnedProcess, detached: bool) -> Self:
        sandbox = cls(record, process)
        if detached:
            process.let_go()
            sandbox._process = None
            sandbox._owned = False
        return sandbox
