"""``ballonet run --from``: a sandbox that continues from a snapshot."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError
from ballonet.base.memory import to_mib
from ballonet.cli.attach import joined_from
from ballonet.cli.boot_notice import notice_if_slow
from ballonet.cli.command_options import argv_from, defaults_from, timeout_from
from ballonet.cli.run_attached import run_attached
from ballonet.lifecycle.image_settings import Settings, settings_for
from ballonet.lifecycle.record import Command, Defaults
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.restore import (
    Changes,
    SavedFiles,
    check_new_names,
    image_of_facts,
    opened_snapshot,
    restore_sandbox,
)
from ballonet.settings.definitions import SETTINGS
from ballonet.settings.labels import parse_labels
from ballonet.vmm.attach import Port

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess

#: The settings that may differ from those of the saved sandbox.
_FREE = ("name", "labels", "ports", "weight", "reserve", "balloon_initial")
#: Other options of ``run`` that say how a guest boots.
_BOOT = {"cold": "--cold", "no_balloon": "--no-balloon", "entrypoint": "--entrypoint", "idle": "--idle"}


def run_restored(options: argparse.Namespace) -> int:
    from ballonet.sdk.random_name import random_name

    _check_options(options)
    name = random_name("run") if options.name is None else options.name
    argv = argv_from(options)
    with Registry.open() as registry, opened_snapshot(options.from_snapshot) as saved:
        check_new_names(registry, [name])
        if not (options.detach or argv):
            raise ConfigError(
                "no command was given",
                hint=f"for example: ballonet run --from {options.from_snapshot} -- /bin/sh; or -d to continue in the "
                "background",
            )
        changes = Changes(
            name=name,
            ports=tuple(map(Port.parse, options.ports)),
            labels=parse_labels(options.labels),
            weight=_given(options, "weight", None),
            reserve_mib=None if not _is_given(options, "reserve") else to_mib(options.reserve, "reserve"),
            auto_remove=not options.detach or options.rm,
        )
        settings = _settings(options, saved)
        if options.detach and argv:
            own = Command(tuple(argv), settings.env, settings.cwd, settings.user)
            changes = replace(changes, command=own)
        target = options.balloon_initial
        target_mib = None if target is None else to_mib(target, "balloon_initial")

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


def _check_options(options: argparse.Namespace) -> None:
    """:raises ConfigError: an option asks for something that is as it was saved."""
    given = [SETTINGS[name].option for name in SETTINGS if name not in _FREE and _is_given(options, name)]
    given += [option for name, option in _BOOT.items() if getattr(options, name)]
    if options.dry_run:
        given.append("--dry-run")
    if given:
        raise ConfigError(
            f"{given[0]} cannot be combined with --from: the saved guest continues with what it was booted with",
            hint=f"leave it out; 'ballonet snapshot inspect {options.from_snapshot}' shows the saved configuration",
        )


def _is_given(options: argparse.Namespace, name: str) -> bool:
    """Whether an option was typed. The text of a size differs in its type from the default."""
    if name not in vars(options):
        return False
    value, default = getattr(options, name), SETTINGS[name].default
    if SETTINGS[name].kind in ("list", "map"):
        return bool(value)
    return type(value) is not type(default) or value != default


def _given(options: argparse.Namespace, name: str, otherwise: Any) -> Any:
    return getattr(options, name) if _is_given(options, name) else otherwise


def _settings(options: argparse.Namespace, saved: SavedFiles) -> Settings:
    """What a command in the restored sandbox runs with: as with ``exec`` in the saved one."""
    outer, asked = saved.facts.defaults or Defaults(), defaults_from(options)
    env = {**outer.env, **asked.env}
    found = settings_for(image_of_facts(saved.facts), env, asked.cwd or outer.cwd, asked.user or outer.user)
    return replace(found, make_cwd=not asked.cwd)
