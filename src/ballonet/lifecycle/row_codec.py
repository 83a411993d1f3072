"""Encodes records as rows of the registry, and as JSON, and decodes them. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import MISSING, Field, asdict, replace
from ballonet.base.errors import RegistryError
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.record import (
    Command,
    Defaults,
    Record,
    State,
    flags_problem,
    stored_fields,
    unreadable_hint,
)

COLUMNS = tuple(field.name for field in stored_fields())


def encode(value: Any) -> Any:
    match value:
        case ProcessId():
            return json.dumps(value.to_json())
        case Path():
            return str(value)
        case Command() | Defaults():
            return json.dumps(asdict(value))
        case tuple() | dict():
            return json.dumps(value)
        case State():
            return value.value
        case str():
            # Text from outside, such as the name of a command in an error: SQLite accepts only UTF-8.
            return value.encode(errors="backslashreplace").decode()
        case bool():
            return int(value)
    return value


def decode(row: tuple[Any, ...]) -> Record:
    """:raises RegistryError: the row cannot be read."""
    record = decode_in_part(row)
    if record.unreadable is not None:
        raise RegistryError(
            f"the registry's row of sandbox {record.name!r} cannot be read: {record.unreadable}",
            hint=unreadable_hint(record.name),
        )
    return record


def decode_in_part(row: tuple[Any, ...]) -> Record:
    """The row. A column that cannot be read has its default; :attr:`Record.unreadable` says why."""
    values = dict(zip(COLUMNS, row, strict=True))
    problems = []
    for field in stored_fields():
        decode = _DECODERS.get(field.name)
        if decode is None or values[field.name] is None:
            continue
        try:
            values[field.name] = decode(values[field.name])
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{field.name}: {error}")
            values[field.name] = _initial(field)
    return Record(**values, unreadable="; ".join(problems) or None)


def with_flags_checked(record: Record) -> Record:
    if record.unreadable is not None:
        return record
    problem = flags_problem(record.flags)
    return record if problem is None else replace(record, unreadable=f"flags: {problem}")


def _decode_flags(text: str) -> tuple[str, ...]:
    flags = json.loads(text)
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ValueError("not a list of words")
    return tuple(flags)


def _decode_process(text: str) -> ProcessId | None:
    return ProcessId.from_json(json.loads(text))


def _decode_command(text: str) -> Command:
    command = json.loads(text)
    return Command(**{**command, "argv": tuple(command["argv"])})


def _decode_labels(text: str) -> dict[str, str]:
    labels = json.loads(text)
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ValueError("not a mapping of text")
    return labels


#: Decoders of columns other than plain text and numbers.
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "flags": _decode_flags,
    "state": State,
    "auto_remove": bool,
    "resumed": bool,
    "starter": _decode_process,
    "process": _decode_process,
    "command": _decode_command,
    "labels": _decode_labels,
    "defaults": lambda text: Defaults(**json.loads(text)),
}


def to_json(record: Record) -> bytes:
    """A row as JSON, for :func:`from_json`."""
    return json.dumps({name: encode(getattr(record, name)) for name in COLUMNS}).encode()


def from_json(content: bytes) -> Record:
    """The row in JSON of :func:`to_json`; missing columns have their defaults.

    :raises RegistryError: it is not such a row.
    """
    try:
        values = json.loads(content)
        return decode(tuple(values.get(field.name, _default(field)) for field in stored_fields()))
    except (ValueError, AttributeError) as error:
        raise RegistryError(f"not a row of the registry: {error}") from error


def _default(field: Field[Any]) -> Any:
    has_none = field.default is MISSING and field.default_factory is MISSING
    return None if has_none else encode(_initial(field))


def _initial(field: Field[Any]) -> Any:
    """The default of a field; without one, an empty list of words."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return () if field.default is MISSING else field.default
