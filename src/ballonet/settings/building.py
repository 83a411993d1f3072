"""A configuration from settings as a program or a person gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ballonet.base.errors import SettingError
from ballonet.settings.config import NEED_NETWORK, SandboxConfig
from ballonet.settings.definitions import SETTINGS
from ballonet.settings.names import PARAMETERS
from ballonet.settings.values import field_value
from ballonet.vmm.attach import Net


def set_fields(fields: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Put the values of ``settings`` into ``fields``, by the names of their fields.

    :raises ConfigError: a value cannot be read.
    """
    try:
        for name, value in settings.items():
            fields[SETTINGS[name].field] = field_value(SETTINGS[name], value)
    except SettingError as error:
        raise error.named(PARAMETERS) from None
    if any(settings.get(name) for name in NEED_NETWORK):
        fields.setdefault("net", Net.USER)


def build_config(fields: Mapping[str, Any]) -> SandboxConfig:
    """:raises ConfigError: a setting, or a pair of them, is impossible; the message names both values."""
    try:
        return SandboxConfig(**fields)
    except SettingError as error:
        raise error.named(PARAMETERS) from None
