"""Sandbox: create, find, use and end sandboxes, with asyncio. :mod:`ballonet.sync` is the same without asyncio.

The class has six parts: ``sandbox_state.py`` (what is known of a sandbox), ``sandbox_commands.py`` (commands and
files), ``sandbox_code.py`` (code sessions), ``sandbox_saving.py`` (snapshots and forks), ``sandbox_life.py`` (its end),
and this one (create, find, change).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from ballonet.base.arguments import check_flag, check_items, check_number, check_words
from ballonet.base.memory import to_mib
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.filters import filters_of
from ballonet.lifecycle.image_settings import prepare
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Defaults, Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import start_sandbox
from ballonet.lifecycle.stop import discard_sandbox, remove_sandbox
from ballonet.machine.launch import SandboxEnd
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.command_settings import command_settings
from ballonet.sdk.creation import (
    Balloon,
    check_start,
    command_of,
    configuration,
    with_defaults,
    with_presets,
)
from ballonet.sdk.random_name import random_name
from ballonet.sdk.sandbox_code import SandboxCode
from ballonet.sdk.sandbox_commands import ExecResult
from ballonet.sdk.sandbox_life import SandboxLife
from ballonet.sdk.sandbox_saving import SandboxSaving
from ballonet.sdk.signatures import takes_settings
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import CreateSettings, ModifySettings
from ballonet.settings.labels import check_labels

if TYPE_CHECKING:
    from ballonet.control.backend import Stats
    from ballonet.lifecycle.events import Event
    from ballonet.lifecycle.modify import Change, Plan
    from ballonet.lifecycle.usage import Usage

__all__ = ["Balloon", "ExecResult", "Sandbox", "SandboxEnd", "random_name"]


class Sandbox(SandboxCode, SandboxSaving, SandboxLife):
    """A sandbox. An *owned* sandbox ends, and is removed, together with the program that created it, however that
    program ends. A *detached* one runs until it is stopped, and stays registered until it is removed.

    ``async with await Sandbox.create("box", memory="1G") as box: …``. Leaving the block ends an owned sandbox
    immediately, and does nothing to a detached one.
    """

    @classmethod
    @takes_settings(CreateSettings)
    async def create(
        cls,
        name: str | SandboxConfig,
        *,
        balloon: Balloon | bool = True,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        detached: bool = False,
        admission: bool = True,
        cold: bool = False,
        **settings: Unpack[CreateSettings],
    ) -> Self:
        """Register a sandbox, boot it, and return when its guest answers.

        :param name: its name; or a whole configuration, in which case all other settings are ignored except ``rootfs``,
            ``pull``, ``labels``, ``weight`` and ``reserve``.
        :param settings: generated from ballonet.settings.definitions
        :param balloon: the balloon's settings; ``True``: a balloon with the defaults, ``False``: no balloon.
        :param command: the sandbox's own command; the sandbox ends when it exits. Without it the sandbox idles, even if
            its image has a command.
        :param env: environment variables of all commands in the sandbox, including those of :meth:`exec`.
        :param cwd: default working directory of these commands.
        :param user: default user of these commands: a number, or a name that the image defines.
        :param detached: keep the sandbox running when this program ends.
        :param admission: if an autopilot manages the host's sandboxes, start only if it finds room.
        :param cold: boot the guest, and neither use nor make a start template.
        :raises AdmissionError: there is no room; nothing is left behind.
        :raises NameInUseError: the name is in use.
        :raises ConfigError: a setting, or a combination of settings, is invalid; the message names the values.
        :raises BallonetError: the sandbox did not start; nothing is left behind.
        """
        from ballonet.lifecycle.modify import check_weight

        settings = await with_presets(with_defaults(settings))
        pull, rootfs = settings["pull"], settings["rootfs"]
        check_start(pull=pull, rootfs=rootfs, detached=detached, admission=admission, cold=cold)
        defaults = Defaults(*command_settings(env, cwd, user))
        if command is not None:
            command = check_words("command", command)
        labels = check_labels(settings["labels"])
        weight, reserve_mib = check_weight(settings["weight"]), to_mib(settings["reserve"], "reserve")
        config = configuration(name, settings, balloon=balloon)
        from ballonet.pilot.admission_control import admission_control

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
                labels=labels,
                auto_remove=not detached,
                weight=weight,
                reserve_mib=reserve_mib,
            )
            try:
                process = await start_sandbox(
                    registry, record.name, detached=detached, gate=admission_control(admission), cold=cold
                )
            except BaseException:
                await discard_sandbox(registry, record.name)
                raise
            return cls._started(registry.get(record.name), process, detached)

    @classmethod
    async def start(cls, name: str, *, admission: bool = True, cold: bool = False) -> Self:
        """Start an existing sandbox that is not running. From then on it is detached.

        :param admission: if an autopilot manages the host's sandboxes, start only if it finds room.
        :param cold: boot the guest, and neither use nor make a start template.
        :raises AdmissionError: there is no room.
        :raises UnknownSandboxError: no sandbox has this name.
        :raises StillRunningError: the sandbox is already running.
        """
        from ballonet.pilot.admission_control import admission_control

        check_flag("admission", admission)
        check_flag("cold", cold)
        with Registry.open() as registry:
            process = await start_sandbox(
                registry, name, detached=True, gate=admission_control(admission), cold=cold
            )
            return cls._started(registry.get(name), process, detached=True)

    @classmethod
    async def get(cls, name: str) -> Self:
        """Find an existing sandbox, running or not.

        :raises UnknownSandboxError: no sandbox has this name.
        """
        with Registry.open() as registry:
            return cls(lifecycle.find(registry, name))

    @staticmethod
    async def list(
        *,
        name: str | None = None,
        state: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        image: str | None = None,
    ) -> list[Record]:
        """List the registry's records of all sandboxes, oldest first.

        :param name: only those whose name matches this shell pattern.
        :param state: only those in this state, for example ``"running"``.
        :param labels: only those with all of these labels; ``None``: with any value.
        :param image: only those whose image reference matches this shell pattern.
        :raises ConfigError: there is no such state, or a label's key is not valid.
        """
        filters = filters_of(name=name, state=state, labels=labels, image=image)
        with Registry.open() as registry:
            return [record for record in lifecycle.list_sandboxes(registry) if filters.match(record)]

    @staticmethod
    async def events(
        *, since: int | None = None, follow: bool = False, filters: Sequence[str] = ()
    ) -> AsyncIterator[Event]:
        """What happened to the sandboxes of this user, oldest first.

        :param since: only events after the one with this id; ``None``: all that are kept.
        :param follow: wait for further events, without an end.
        :param filters: as ``--filter`` of ``ballonet events``, for example ``["event=stopped", "label=team"]``.
        :raises ConfigError: a filter is not valid, or there is no such event yet.
        """
        from ballonet.base.threads import in_thread
        from ballonet.lifecycle.events import POLL_S, EventFilter, EventReader

        check_flag("follow", follow)
        if since is not None:
            check_number("since", since, 0, 1 << 62)
        selected = EventFilter(check_items("filters", filters))
        reader = await in_thread(lambda: EventReader(since))
        while True:
            for event in filter(selected.match, await in_thread(reader.read)):
                yield event
            if not follow:
                return
            await asyncio.sleep(POLL_S)

    @staticmethod
    async def remove(name: str, *, force: bool = False) -> None:
        """Remove a sandbox with its logs and its disk.

        :param force: remove it even if it is running.
        :raises UnknownSandboxError: no sandbox has this name.
        :raises StillRunningError: the sandbox is running, and ``force`` was not given.
        """
        check_flag("force", force)
        with Registry.open() as registry:
            await remove_sandbox(registry, name, force=force)

    @staticmethod
    def builder(name: str) -> SandboxBuilder:
        """Build a configuration step by step: ``await Sandbox.create(Sandbox.builder("box").memory("1G").build())``."""
        return SandboxBuilder(name)

    async def rename(self, name: str) -> None:
        """Give the sandbox another name. It must not be running or paused.

        :raises NameInUseError: the name is in use.
        :raises StillRunningError: it is running or paused.
        """
        from ballonet.lifecycle.rename import rename_sandbox

        self._check_usable()
        with Registry.open() as registry:
            self._record = rename_sandbox(registry, self.name, name)

    async def usage(self) -> Usage:
        """What the engine uses of the host: processor time, memory, and what it reads and writes.

        :raises NotRunningError: the sandbox is not running.
        """
        from ballonet.lifecycle.usage import read_usage

        self._check_usable()
        return read_usage(self.record())

    async def metrics(self) -> Stats:
        """Memory statistics of the guest and of the host, each with its age."""
        return await self.balloon.stats()

    @takes_settings(ModifySettings)
    async def modify(self, **settings: Unpack[ModifySettings]) -> Sequence[Change]:
        """Change settings: some at once, the others from the next start on. Returns each change and its state.

        A list replaces the old one.

        :param settings: generated from ballonet.settings.definitions
        :raises ConfigError: a change is impossible; nothing was changed.
        """
        from ballonet.lifecycle.modify import apply_plan

        plan = self._planned(await with_presets(settings))
        with Registry.open() as registry:
            return await apply_plan(registry, plan)

    @takes_settings(ModifySettings)
    def plan(self, **settings: Unpack[ModifySettings]) -> Plan:
        """What :meth:`modify` would do; nothing is changed."""
        return self._planned(settings)

    def _planned(self, settings: ModifySettings) -> Plan:
        from ballonet.lifecycle.modify import given, plan_changes

        self._check_usable()
        record = self.record()
        return plan_changes(record, living(record), given(settings))
