"""``--format``: one line for each row, with the fields that the user names in braces. Pure.

Only names of documented fields are accepted, not attributes or items of objects as with ``str.format``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.suggest import hint_for
from ballonet.cli.output import show

#: ``{labels.KEY}`` is the value of one label.
_LABEL = "labels."
_WIDTH = re.compile(r"[<>^]?[0-9]{1,3}")


def row_format(text: str, known: Sequence[str]) -> Callable[[Mapping[str, Any]], str]:
    """The function that makes a row's line.

    :param text: with fields such as ``{name}`` or ``{name:<20}``; ``{{`` is a brace, ``\\t`` a tab, ``\\n`` a new line.
    :param known: the names of the fields that a row has.
    :raises ConfigError: a field is unknown, or the text is not valid.
    """
    try:
        parts = list(Formatter().parse(text.replace("\\t", "\t").replace("\\n", "\n")))
    except ValueError as error:
        raise ConfigError(
            f"format {text[:80]!r} is not valid: {error}", hint="write {{ for a brace"
        ) from None
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if field not in known and not ("labels" in known and field.startswith(_LABEL)):
            raise ConfigError(
                f"format {text[:80]!r}: there is no field {field[:40]!r}",
                hint=hint_for(field, known, f"choose among {', '.join(known)}"),
            )
        if spec and _WIDTH.fullmatch(spec) is None:
            raise ConfigError(
                f"format {text[:80]!r}: {spec[:20]!r} is not a width", hint="for example {name:<20}"
            )
        if conversion:
            raise ConfigError(f"format {text[:80]!r}: '!{conversion}' is not supported", hint="leave it out")

    def line(row: Mapping[str, Any]) -> str:
        return "".join(
            literal + ("" if field is None else format(_text(row, field), spec or ""))
            for literal, field, spec, _ in parts
        )

    return line


def _text(row: Mapping[str, Any], field: str) -> str:
    if field.startswith(_LABEL):
        return show(row["labels"].get(field.removeprefix(_LABEL)))
    value = row[field]
    if isinstance(value, Mapping):
        value = ",".join(f"{key}={of}" for key, of in value.items())
    elif isinstance(value, list):
        value = (" " if field == "command" else ",").join(map(str, value))
    return show(None if value == "" else value)
