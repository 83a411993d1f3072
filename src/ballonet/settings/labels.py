"""Labels of a sandbox: short texts by key, which ballonet keeps and does not interpret. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ballonet.base.arguments import wrong_type
from ballonet.base.errors import ConfigError, quoted

#: A key is part of filters, formats and JSON: no spaces, no '=', and no braces.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_MAX_VALUE, _MAX_LABELS = 1024, 64


def parse_labels(words: Iterable[str]) -> dict[str, str]:
    """Labels from ``KEY=VALUE``; ``KEY`` alone has an empty value. The last one counts if a key is repeated.

    :raises ConfigError: a key or a value is not valid.
    """
    found = {}
    for word in words:
        key, _, value = word.partition("=")
        found[key] = value
    return check_labels(found)


def check_labels(labels: object) -> dict[str, str]:
    """:raises ConfigError: it is not a mapping of valid keys to printable text."""
    if not isinstance(labels, Mapping):
        raise wrong_type("labels", "a mapping of keys to values", labels, hint='for example {"team": "web"}')
    if len(labels) > _MAX_LABELS:
        raise ConfigError(f"{len(labels)} labels are too many: a sandbox has at most {_MAX_LABELS}")
    for key, value in labels.items():
        check_key(key)
        if not isinstance(value, str):
            raise wrong_type(f"labels[{key!r}]", "text", value)
        if len(value) > _MAX_VALUE or not value.isprintable():
            raise ConfigError(
                f"label {key!r}: the value {quoted(value)} is longer than {_MAX_VALUE} characters, or is not "
                "printable text on one line"
            )
    return dict(labels)


def check_key(key: object) -> None:
    """:raises ConfigError: it is not a key of a label."""
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise ConfigError(
            f"label {quoted(key)}: the key is not valid",
            hint="a key has up to 128 letters, digits, '.', '_', '/' and '-', and begins with a letter or a digit",
        )


def show_labels(labels: Mapping[str, str]) -> str | None:
    """Labels in one line; ``None`` if there are none."""
    return ", ".join(f"{key}={value}" for key, value in labels.items()) or None
