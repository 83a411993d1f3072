"""The arguments of :meth:`ballonet.sandbox.Sandbox.create`: checked, and made into a configuration and a command."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from ballonet.base.arguments import (
    check_flag,
    check_path,
    check_words,
    wrong_type,
)
from ballonet.base.dataclass import dataclass, fields
from ballonet.base.errors import ConfigError
from ballonet.lifecycle.image_settings import Prepared
from ballonet.lifecycle.record import Command, Defaults
from ballonet.sdk.builder import SandboxBuilder, Size
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import CONFIGURED, SETTINGS, CreateSettings, ModifySettings, settings_in
from ballonet.settings.values import names_packages, read_items


@dataclass(frozen=True)
class Balloon:
    """A sandbox's balloon, for :meth:`Sandbox.create`. Sizes are MiB, or text such as ``"1.5G"``.

    Each field is the setting of the same name, or of the name with ``balloon_`` in front, in
    :mod:`ballonet.settings.definitions`.
    """

    #: Guest memory at boot; the ceiling by default.
    initial: Size | None = None
    #: Lowest target that the balloon accepts; by default max(128 MiB, a quarter of the ceiling).
    min: Size | None = None
    control_socket: str | Path | None = None
    #: Available memory that a shrink leaves to the guest unless forced.
    guard: Size | None = None
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    pressure_relief: bool = True
    hard_cap: bool = False


_Settings = TypeVar("_Settings", CreateSettings, ModifySettings)
#: The settings that are rules of a network.
_RULES = ("net_allow", "net_deny")


async def with_presets(settings: _Settings) -> _Settings:
    """``settings`` with the rules for which the preset ``packages`` stands, which takes other programs a second."""
    read = {
        name: await asyncio.to_thread(read_items, SETTINGS[name], items)
        for name in _RULES
        if names_packages(items := settings.get(name))
    }
    return cast(_Settings, settings | read) if read else settings


def with_defaults(settings: CreateSettings) -> CreateSettings:
    """``settings`` with the defaults of those that are not given."""
    defaults = {setting.name: setting.default for setting in settings_in(CreateSettings)}
    return cast(CreateSettings, defaults | settings)


def configuration(
    name: str | SandboxConfig, settings: CreateSettings, *, balloon: Balloon | bool
) -> SandboxConfig:
    """The configuration that all these make up; ``name`` itself if it is one.

    :param settings: with their defaults.
    :raises ConfigError: a setting, or a pair of them, is impossible.
    """
    if isinstance(name, SandboxConfig):
        return name
    if not isinstance(balloon, Balloon | bool):
        raise wrong_type("balloon", "a Balloon, True or False", balloon)
    values: dict[str, Any] = {key: value for key, value in settings.items() if key in CONFIGURED}
    if balloon:
        values |= _balloon_settings(Balloon() if balloon is True else balloon)
        if values["balloon_initial"] is None:
            values["balloon_initial"] = settings["memory"]
    given = {
        key: value for key, value in values.items() if value is not None or SETTINGS[key].default is not None
    }
    return SandboxBuilder(name).set(**given).build()


def _balloon_settings(balloon: Balloon) -> dict[str, Any]:
    names = [field.name for field in fields(balloon)]
    return {name if name in SETTINGS else f"balloon_{name}": getattr(balloon, name) for name in names}


def command_of(prepared: Prepared, argv: Sequence[str] | None, defaults: Defaults) -> Command | None:
    """The sandbox's own command, or ``None``.

    :raises ConfigError: the command is impossible, or no command can run with ``defaults``.
    """
    settings = prepared.settings(defaults.env, defaults.cwd, defaults.user)
    if argv is None:
        return None
    return Command(check_words("command", argv), settings.env, settings.cwd, settings.user)


def check_start(*, pull: object, rootfs: object, detached: object, admission: object, cold: object) -> None:
    """:raises ConfigError: an argument that controls the start has the wrong type, or is impossible."""
    pulls = SETTINGS["pull"].choices
    if not isinstance(pull, str) or pull not in pulls:
        raise ConfigError(f"pull {pull!r} is unknown; choose one of {', '.join(pulls)}")
    check_path("rootfs", rootfs)
    check_flag("detached", detached)
    check_flag("admission", admission)
    check_flag("cold", cold)
