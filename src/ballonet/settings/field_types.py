"""The types of a configuration's fields, from which their checks and their flags follow. Pure."""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

#: Of one field: the type of its value, or of each item of a list; whether it may be ``None``; whether it is a list.
FieldType = tuple[Any, bool, bool]


@cache
def field_types(config: type) -> dict[str, FieldType]:
    """The types of the fields of a dataclass, each ``X``, ``X | None`` or ``tuple[X, ...]``, by the fields' names."""
    return {name: _field_type(of) for name, of in get_type_hints(config).items()}


def _field_type(of: type) -> FieldType:
    if get_origin(of) is tuple:
        return get_args(of)[0], False, True
    members = get_args(of) or (of,)
    return next(each for each in members if each is not NoneType), NoneType in members, False
