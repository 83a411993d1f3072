"""The user's configuration file: defaults for the settings of ``run`` and ``create``.

It is TOML with one table, ``[sandbox]``, whose keys are the names of settings. It is read only by these commands and by
``ballonet config``. The SDK does not read it: a program must not depend on who runs it.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError, SettingError
from ballonet.base.memory import MAX_MIB, to_mib
from ballonet.base.suggest import hint_for
from ballonet.cli.parser import Parser
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings.definitions import CONFIGURED, OPTION_GROUPS, SETTINGS, settings_in
from ballonet.settings.labels import check_labels
from ballonet.settings.names import PARAMETERS
from ballonet.settings.setting import GROUP_ID, USER_ID, Setting

TABLE = "sandbox"
#: Settings that cannot have a default: they are of one sandbox, or exclude another setting.
_WITHOUT = ("name", "hostname", "rootfs", "balloon_control_socket")
#: The settings that the file may have.
KNOWN = tuple(
    setting.name
    for classes in OPTION_GROUPS.values()
    for setting in settings_in(*classes)
    if setting.name not in _WITHOUT
)


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a configuration file.

    :raises ConfigError: it cannot be read, or something in it is not valid; the message has the file and the line.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read: {why}", hint="correct it, or move it away") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="see https://toml.io") from error

    def wrong(key: str, message: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"{path}{_line(text, key)}: {message}", hint=hint)

    for table in document:
        if table != TABLE:
            raise wrong(
                table, f"there is no table or key {table!r}", f"settings belong in the table [{TABLE}]"
            )
    settings = document.get(TABLE, {})
    if not isinstance(settings, dict):
        raise wrong(TABLE, f"{TABLE!r} must be a table", f"write [{TABLE}] on a line of its own")
    for name, value in settings.items():
        if name not in KNOWN:
            why = "cannot have a default" if name in SETTINGS else "there is no such setting"
            meant = hint_for(name, KNOWN, "'ballonet config' shows all settings")
            raise wrong(name, f"{name!r}: {why}", meant)
        if (wanted := _wanted(SETTINGS[name], value)) is not None:
            raise wrong(name, f"{name!r} must be {wanted}, not {value!r}"[:200])
        try:
            _check({name: value})
        except SettingError as error:
            said = error.named(PARAMETERS)
            raise wrong(name, said.message, said.hint) from None
        except BallonetError as error:
            raise wrong(name, error.message, error.hint) from None
    return settings


def _line(text: str, key: str) -> str:
    """The line of a key or a table, for messages; empty if it cannot be told."""
    pattern = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next(
        (f", line {number}" for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), ""
    )


def _wanted(setting: Setting, value: object) -> str | None:
    """What a value must be, if it is something else."""
    match setting.kind:
        case "switch":
            return None if isinstance(value, bool) else "true or false"
        case "number" | "count":
            return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
        case "size" | "duration":
            right = isinstance(value, int | str) and not isinstance(value, bool)
            return None if right else 'a number, or text such as "512M" or "90s"'
        case "quota":
            right = isinstance(value, int | float | str) and not isinstance(value, bool)
            return None if right else 'a number, or text such as "150%"'
        case "list":
            right = isinstance(value, list) and all(isinstance(item, str) for item in value)
            return None if right else "a list of text"
        case "map":
            right = isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
            return None if right else "a table of text"
        case "choice":
            return None if value in setting.choices else f"one of {', '.join(setting.choices)}"
    return None if isinstance(value, str) else "text"


def _check(settings: dict[str, Any]) -> None:
    """:raises ConfigError: a value is impossible. Combinations are checked with the options of a command."""
    from ballonet.lifecycle.modify import check_weight

    for name, value in settings.items():
        if name == "weight":
            check_weight(value)
        elif name == "reserve":
            to_mib(value, "reserve")
        elif name == "labels":
            check_labels(value)
        elif name in CONFIGURED and SETTINGS[name].unit not in (USER_ID, GROUP_ID):
            _check_field(name, value)


def _check_field(name: str, value: Any) -> None:
    builder = SandboxBuilder("box")
    if name in ("balloon_initial", "balloon_min", "guard"):
        builder.set(memory=MAX_MIB)  # the ceiling may be higher than the default
    settings: Any = {name: value}
    builder.set(**settings).build()


def with_config(
    parser: Parser, words: Sequence[str], typed: argparse.Namespace, path: Path
) -> argparse.Namespace:
    """The options of ``words``, with the defaults of the configuration file.

    :param typed: the options without them.
    :raises ConfigError: the file is not valid.
    """
    if getattr(typed, "from_snapshot", None) is not None:
        return typed  # the snapshot has the settings
    settings = read_config(path)
    if typed.rootfs is not None:
        settings.pop("image", None)
    defaults = {
        name: [f"{key}={of}" for key, of in value.items()] if SETTINGS[name].kind == "map" else value
        for name, value in settings.items()
    }
    parser.find([typed.command]).set_defaults(**defaults)
    return parser.parse_args(words)
