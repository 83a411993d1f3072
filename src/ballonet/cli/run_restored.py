"""``ballonet run --from``: a sandbox that continues from a snapshot."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError
from ballonet.base.memory import to_mib
from ballonet.cli.attach import joined_from
from ballonet.cli.boot_notice import notice_if_slow
from ballonet.cli.command_options import argv_from, defaults_from, timeout_from
from ballonet.cli.restored_options import check_as_saved, check_never
from ballonet.cli.run_attached import run_attached
from ballonet.cli.setting_options import is_given
from ballonet.lifecycle.image_settings import Settings, settings_for
from ballonet.lifecycle.modify import check_weight
from ballonet.lifecycle.record import Command, Defaults
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.restore import (
    Changes,
    SavedFiles,
    check_new_names,
    check_target,
    image_of_facts,
    opened_snapshot,
    restore_sandbox,
)
from ballonet.settings.definitions import SETTINGS
from ballonet.settings.labels import parse_labels
from ballonet.settings.values import read_items

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess


def run_restored(options: argparse.Namespace) -> int:
    from ballonet.sdk.random_name import random_name

    check_never(options)
    name = random_name("run") if options.name is None else options.name
    argv = argv_from(options)
    with Registry.open() as registry, opened_snapshot(options.from_snapshot) as saved:
        check_as_saved(options, saved.facts)
        check_new_names(registry, [name])
        if not (options.detach or argv):
            raise ConfigError(
                "no command was given",
                hint=f"for example: ballonet run --from {options.from_snapshot} -- /bin/sh; or -d to continue in the "
                "background",
            )
        changes = Changes(
            name=name,
            ports=read_items(SETTINGS["ports"], options.ports),
            labels=parse_labels(options.labels),
            weight=check_weight(options.weight) if is_given(options, SETTINGS["weight"]) else None,
            reserve_mib=to_mib(options.reserve, "reserve")
            if is_given(options, SETTINGS["reserve"])
            else None,
            auto_remove=not options.detach or options.rm,
        )
        defaults = _defaults(options, saved)
        settings = _settings(options, saved, defaults)
        if options.detach:
            own = Command(tuple(argv), settings.env, settings.cwd, settings.user) if argv else None
            changes = replace(changes, command=own, defaults=defaults)
        target = options.balloon_initial
        target_mib = None if target is None else to_mib(target, "balloon_initial")
        check_target(saved.facts, target_mib)

        async def start() -> OwnedProcess:
            from ballonet.pilot.admission_control import admission_control

            gate = admission_control(options.admission)
            return await restore_sandbox(
                registry, saved, changes, detached=options.detach, gate=gate, target_mib=target_mib
            )

        if options.detach:
            asyncio.run(_start_detached(name, start))
            return 0
        joined = replace(joined_from(options, settings), timeout=timeout_from(options))
        return run_attached(registry, name, argv, joined, start)


async def _start_detached(name: str, start: Callable[[], Awaitable[OwnedProcess]]) -> None:
    async with notice_if_slow(name):
        process = await start()
    process.let_go()
    print(name)


def _defaults(options: argparse.Namespace, saved: SavedFiles) -> Defaults:
    """Those of the saved sandbox, with what was typed."""
    outer, asked = saved.facts.defaults or Defaults(), defaults_from(options)
    return Defaults({**outer.env, **asked.env}, asked.cwd or outer.cwd, asked.user or outer.user)


def _settings(options: argparse.Namespace, saved: SavedFiles, defaults: Defaults) -> Settings:
    """What a command in the restored sandbox runs with: as with ``exec`` in the saved one."""
    found = settings_for(image_of_facts(saved.facts), defaults.env, defaults.cwd, defaults.user)
    return replace(found, make_cwd=not options.workdir)
