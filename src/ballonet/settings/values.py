"""The values of settings as a program or a person gives them, read into the values of a configuration's fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ballonet.base.arguments import check_items, check_path, wrong_type
from ballonet.base.duration import MAX_SECONDS, parse_duration
from ballonet.base.errors import SettingError, escaped, quoted
from ballonet.base.memory import parse_rate, parse_size
from ballonet.base.quota import parse_quota
from ballonet.settings.named_volumes import parse_volume
from ballonet.settings.setting import Setting
from ballonet.vmm.attach import Port, Tmpfs, Volume
from ballonet.vmm.net_rules import PACKAGES, HostPort, NetRule

#: What an item of a list is called in messages.
ITEM_NAMES: dict[Any, str] = {Volume: "volume", Tmpfs: "tmpfs", Port: "port"}
#: Of these, an item is called as its setting is.
_NAMED_AS_SETTING = (NetRule, HostPort)


def field_value(setting: Setting, value: Any) -> Any:
    """The field's value. What has the wrong type is passed on where the configuration checks it.

    :raises SettingError: it cannot be read; the error names the field.
    """
    match setting.kind:
        case "size":
            return parse_size(value, setting.field) if isinstance(value, str) else value
        case "duration":
            return _seconds(setting, value)
        case "rate":
            return None if value is None else parse_rate(value, setting.field) or None
        case "quota":
            return None if value is None else parse_quota(value, setting.field) or None
        case "count":
            return value if isinstance(value, bool) or value != 0 else None  # 0 is no limit
        case "path":
            if value != "":  # the configuration says how the setting was called
                check_path(setting.field, value)
            return Path(value)
        case "list":
            return read_items(setting, value)
    return value


def _seconds(setting: Setting, value: object) -> int | None:
    """Whole seconds; ``None`` for 0, which is no limit."""
    hint = "give seconds, or text such as 90s, 10m or 1h30m; 0 is no limit"
    if isinstance(value, str):
        try:
            return parse_duration(value) or None
        except ValueError as error:
            raise SettingError(f"{{}} {quoted(value)} {error}", setting.field, hint=hint) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise SettingError(f"{{}} {quoted(value)} is not a duration", setting.field, hint=hint)
    return math.ceil(value) or None


def read_items(setting: Setting, items: Sequence[Any]) -> tuple[Any, ...]:
    """The items of a list, each of which may be text.

    :raises SettingError: one cannot be read.
    :raises HostError: no source of packages was found.
    """
    kind = setting.item
    checked = check_items(setting.name, items)
    if kind is NetRule:
        checked = tuple(item for given in checked for item in _expanded(given))
    if kind not in ITEM_NAMES and kind not in _NAMED_AS_SETTING:
        return checked
    what = ITEM_NAMES.get(kind, setting.field)
    return tuple(item if isinstance(item, kind) else _read(kind, what, item) for item in checked)


def _expanded(rule: object) -> tuple[object, ...]:
    """``rule``, or those that the preset stands for."""
    if not (isinstance(rule, str) and rule.lower() == PACKAGES):
        return (rule,)
    from ballonet.host.package_sources import package_sources  # asks other programs: takes a second

    return package_sources()


def names_packages(items: object) -> TypeGuard[Sequence[Any]]:
    """Whether reading these items of a list asks other programs, which takes a second."""
    return isinstance(items, list | tuple) and PACKAGES in items


def _read(kind: type[Volume | Tmpfs | Port | NetRule | HostPort], what: str, item: object) -> object:
    if not isinstance(item, str):
        raise wrong_type(what, "text", item)
    if kind is Volume:
        return parse_volume(item)
    try:
        return kind.parse(item)
    except ValueError as error:
        raise SettingError(f"{{}} {quoted(item)} {escaped(str(error))}", what) from error
