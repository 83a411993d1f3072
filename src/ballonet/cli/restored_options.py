"""The options of ``run --from``: what may be given, and what must be as it was saved."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet.base.duration import show_duration
from ballonet.base.errors import ConfigError, SettingError
from ballonet.cli.setting_options import is_given
from ballonet.lifecycle.snapshot_facts import SnapshotFacts
from ballonet.settings.definitions import SETTINGS
from ballonet.settings.names import PARAMETERS
from ballonet.settings.setting import GROUP_ID, USER_ID, Setting
from ballonet.settings.values import field_value
from ballonet.vmm.config import Accel

#: The settings that may differ from those of the saved sandbox.
_FREE = ("name", "labels", "ports", "weight", "reserve", "balloon_initial")
#: Settings that a restored sandbox does not have: where its root came from, and a control socket for others.
_NEVER = ("rootfs", "pull", "balloon_control_socket")
#: Other options of ``run`` that say how a guest boots.
_BOOT = {
    "cold": "--cold",
    "no_balloon": "--no-balloon",
    "entrypoint": "--entrypoint",
    "idle": "--idle",
    "dry_run": "--dry-run",
}


def check_never(options: argparse.Namespace) -> None:
    """:raises ConfigError: an option has no meaning for a guest that does not boot."""
    given = [option for name, option in _BOOT.items() if getattr(options, name) not in (None, False)]
    given += [
        setting.option for setting in SETTINGS.values() if _is_never(setting) and is_given(options, setting)
    ]
    if given:
        raise ConfigError(
            f"{given[0]} cannot be combined with --from: the saved guest continues with what it was booted with",
            hint=_hint(options),
        )


def check_as_saved(options: argparse.Namespace, facts: SnapshotFacts) -> None:
    """:raises ConfigError: an option asks for something else than was saved; the message has both values."""
    for setting in SETTINGS.values():
        if setting.name in _FREE or not is_given(options, setting):
            continue
        typed = getattr(options, setting.name)
        try:
            wanted = field_value(setting, typed)
        except SettingError as error:
            raise error.named(PARAMETERS) from None
        saved = _saved(facts, setting)
        if wanted == saved or (setting.name == "accel" and wanted == Accel.AUTO):
            continue
        asked = setting.option if setting.kind == "switch" else f"{setting.option} {_shown(setting, wanted)}"
        raise ConfigError(
            f"{asked} cannot be combined with --from {options.from_snapshot}, which was saved with "
            f"{_described(setting, saved)}",
            hint=_hint(options),
        )


def _is_never(setting: Setting) -> bool:
    return setting.name in _NEVER or setting.unit in (USER_ID, GROUP_ID)


def _hint(options: argparse.Namespace) -> str:
    return f"leave it out; 'ballonet snapshot inspect {options.from_snapshot}' shows the saved configuration"


def _saved(facts: SnapshotFacts, setting: Setting) -> Any:
    if setting.name == "image":
        return facts.image
    if setting.name == "accel":
        return facts.platform.accelerator
    return getattr(facts.config, setting.field)


def _described(setting: Setting, value: Any) -> str:
    if setting.kind == "switch":
        return f"{setting.name.replace('_', ' ')} {'on' if value else 'off'}"
    if value is None or value == ():
        return f"no {setting.option}"
    return f"{setting.option} {_shown(setting, value)}"


def _shown(setting: Setting, value: Any) -> str:
    if value is None:  # 0, which is no limit
        return "0"
    if setting.kind == "size":
        return f"{value}M"
    if setting.kind == "duration":
        return show_duration(value)
    return f" {setting.option} ".join(map(str, value)) if setting.kind == "list" else str(value)
