"""The options of ``run``, ``create`` and ``modify`` that are settings, from their declaration."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.settings.definitions import CONFIGURED, SETTINGS, ModifySettings, settings_in
from ballonet.settings.labels import parse_labels
from ballonet.settings.setting import GROUP_ID, USER_ID, Setting

#: Kinds of settings whose option may be given several times.
_REPEATED = ("list", "map")
#: In the parsed options: the names of the settings that were typed, which may have been typed with their default.
_TYPED = "typed_settings"
_METAVARS = {"size": "SIZE", "duration": "TIME", "rate": "RATE"}


class _Store(argparse.Action):
    """Stores a value, and that it was typed."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, _TYPED, (*getattr(namespace, _TYPED, ()), self.dest))


def is_given(options: argparse.Namespace, setting: Setting) -> bool:
    """Whether the option of a setting was typed, even with its default."""
    if setting.kind in _REPEATED:
        return bool(getattr(options, setting.name, None))
    if setting.kind == "switch":
        return bool(getattr(options, setting.name, setting.default) != setting.default)
    return setting.name in getattr(options, _TYPED, ())


def add_setting(parser: argparse._ActionsContainer, setting: Setting) -> None:
    """The option of ``run`` and ``create``."""
    off = setting.kind == "switch" and setting.default
    help = setting.off_help if off else setting.help
    if setting.shown_default is not None:
        help = f"{help} (default: {setting.shown_default})"
    if setting.kind == "switch":
        parser.add_argument(
            setting.option, dest=setting.name, action="store_false" if off else "store_true", help=help
        )
    else:
        repeated = setting.kind in _REPEATED
        if repeated:
            help = f"{help} (can be repeated)"
        _add_value(parser, setting, help, default=[] if repeated else setting.default)


def add_modified_settings(parser: argparse.ArgumentParser) -> None:
    """The options of ``modify``; ``None``: not given."""
    for setting in settings_in(ModifySettings):
        help = setting.help if setting.modify_help is None else setting.modify_help
        if setting.kind == "switch":
            option = f"--{setting.name.replace('_', '-')}"
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=help)
        else:
            if setting.kind in _REPEATED:
                help = f"{help}; replaces all that are set (can be repeated; '' removes all)"
            _add_value(parser, setting, help, default=None)


def _add_value(parser: argparse._ActionsContainer, setting: Setting, help: str, default: object) -> None:
    form: dict[str, Any] = {"dest": setting.name, "default": default, "help": help.replace("%", "%%")}
    if setting.choices:
        form["choices"] = setting.choices
    else:
        form["metavar"] = setting.metavar or _METAVARS.get(setting.kind)
    if setting.kind in ("number", "count"):
        form["type"] = int
    form["action"] = "append" if setting.kind in _REPEATED else _Store
    parser.add_argument(*filter(None, (setting.short, setting.option)), **form)


def configured_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The values of the options of ``run`` and ``create`` that belong to a sandbox's configuration.

    :raises ConfigError: there is no such user or group.
    """
    values = {name: getattr(options, name) for name in SETTINGS if name in CONFIGURED}
    return {
        name: _ids(SETTINGS[name], value)
        for name, value in values.items()
        if value is not None and value != []
    }


def modified_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options of ``modify`` change.

    :raises ConfigError: a label is not valid.
    """
    changed = {}
    for setting in settings_in(ModifySettings):
        value = getattr(options, setting.name)
        if value is None:
            continue
        if setting.kind in _REPEATED:
            value = [item for item in value if item]
        changed[setting.name] = parse_labels(value) if setting.kind == "map" else value
    return changed


def _ids(setting: Setting, value: Any) -> Any:
    if setting.unit == USER_ID:
        return [_user_id(name) for name in value]
    if setting.unit == GROUP_ID:
        return [_group_id(name) for name in value]
    return value


def _user_id(name: str) -> int:
    import pwd

    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise ConfigError(f"there is no user named {name!r}") from error


def _group_id(name: str) -> int:
    import grp

    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ConfigError(f"there is no group named {name!r}") from error
