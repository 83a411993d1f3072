"""Checks the types of arguments before anything is done, with the same messages everywhere. Pure.

A wrong type raises :class:`~ballonet.errors.ConfigError`, which names the argument and the value. Whether a value of
the right type is valid is checked where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError, SettingError, escaped

#: The longest value that a message shows whole (characters).
_SHOWN = 80
#: The longest duration that is accepted (seconds): 30 years.
_MAX_SECONDS = 1e9


def wrong_type(what: str, wanted: str, value: object, *, hint: str | None = None) -> ConfigError:
    """The error for a value of a wrong type."""
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = shown[:_SHOWN] + "…"
    kind = type(value).__name__
    return SettingError(f"{{}} must be {wanted}, not {kind} ({escaped(shown)})", what, hint=hint)


def check_text(what: str, value: object, *, none: bool = True) -> None:
    """:raises ConfigError: it is not text, or contains a NUL byte. ``none``: ``None`` is accepted."""
    if value is None and none:
        return
    if not isinstance(value, str):
        raise wrong_type(what, "text or None" if none else "text", value)
    if "\0" in value:
        raise ConfigError(f"{what} {value[:_SHOWN]!r} contains a NUL byte")


def check_path(what: str, value: object, *, none: bool = True) -> None:
    """:raises ConfigError: it is not a path, or contains a NUL byte. ``none``: ``None`` is accepted."""
    if value is None and none:
        return
    if not isinstance(value, str | Path):
        raise wrong_type(what, "a path", value)
    if value == "":  # which Path would take for the current directory
        raise ConfigError(f"{what} is empty", hint="the current directory is '.'")
    if "\0" in str(value):
        raise ConfigError(f"{what} {str(value)[:_SHOWN]!r} contains a NUL byte")


def check_flag(what: str, value: object) -> None:
    """:raises ConfigError: it is not a bool. Text such as ``"no"`` would count as true."""
    if not isinstance(value, bool):
        raise wrong_type(what, "True or False", value)


def check_number(what: str, value: object, least: int, most: int) -> None:
    """:raises ConfigError: it is not a whole number in that range."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(what, "a whole number", value)
    if not least <= value <= most:
        raise ConfigError(f"{what} {value} is outside {least} to {most}")


def check_words(what: str, value: object) -> tuple[str, ...]:
    """The program and the arguments of a command.

    :raises ConfigError: it is not a list, is empty, or has an item that is not text.
    """
    hint = "pass a list such as ['ls', '-l'], or use shell() for a shell command line"
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise wrong_type(what, "a list of words", value, hint=hint)
    words = tuple(value)
    if not words:
        raise ConfigError(f"{what} is empty", hint=hint)
    for number, word in enumerate(words):
        check_text(f"{what}[{number}]", word, none=False)
    return words


def check_items(what: str, value: object) -> tuple[Any, ...]:
    """The items of a list.

    :raises ConfigError: it is not a list. Text would be read character by character.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise wrong_type(what, "a list", value)
    return tuple(value)


def check_env(value: object, what: str = "env") -> dict[str, str]:
    """Environment variables; ``None`` means none. Messages do not show values: they may be secret.

    :raises ConfigError: it is not a mapping of names to text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{what} must be a mapping of names to values, not {type(value).__name__}",
            hint='for example {"LANG": "C.UTF-8"}',
        )
    for name, text in value.items():
        if not isinstance(name, str):
            raise wrong_type(f"a name in {what}", "text", name)
        if not name or "=" in name or "\0" in name:
            raise ConfigError(f"{what}: the name {name[:_SHOWN]!r} is empty, or contains '=' or a NUL byte")
        if not isinstance(text, str):
            raise ConfigError(f"{what}[{name!r}] must be text, not {type(text).__name__}")
        if "\0" in text:
            raise ConfigError(f"{what}[{name!r}] contains a NUL byte")
    return dict(value)


def check_seconds(what: str, value: object, *, zero: bool = False) -> float:
    """A duration in seconds. ``zero``: 0 is accepted.

    :raises ConfigError: it is not a number, not finite, or not positive.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong_type(what, "a number of seconds", value)
    if not 0 <= value <= _MAX_SECONDS or math.isnan(value) or (value == 0 and not zero):
        least = "0 or more" if zero else "above 0"
        shown = (
            repr(value) if isinstance(value, float) or abs(value) < 10**_SHOWN else "(a very large number)"
        )
        raise ConfigError(f"{what} {shown} must be a number of seconds {least}, at most {_MAX_SECONDS:g}")
    return float(value)


def to_bytes(what: str, value: object) -> bytes:
    """``value`` as bytes; text is encoded as UTF-8.

    :raises ConfigError: it is neither bytes nor text, or cannot be encoded.
    """
    if isinstance(value, str):
        try:
            return value.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            raise ConfigError(f"{what} cannot be encoded as UTF-8: {error.reason}") from error
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise wrong_type(what, "bytes or text", value)
