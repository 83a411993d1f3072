"""The types of a configuration's fields, from which their checks and their flags follow. Pure."""

from __future__ import annotations

from functools import cache
from types import NoneType
from typing import NamedTuple, get_args, get_origin, get_type_hints


class FieldType(NamedTuple):
    """Of one field: the type of its value, or of each item if it is a list."""

    kind: type
    optional: bool = False
    many: bool = False


@cache
def field_types(config: type) -> dict[str, FieldType]:
    """The types of the fields of a dataclass, each ``X``, ``X | None`` or ``tuple[X, ...]``, by the fields' names."""
    return {name: _field_type(of) for name, of in get_type_hints(config).items()}


def _field_type(of: type) -> FieldType:
    if get_origin(of) is tuple:
        return FieldType(get_args(of)[0], many=True)
    members = get_args(of) or (of,)
    return FieldType(next(each for each in members if each is not NoneType), NoneType in members)
