"""Converts frozen dataclasses to JSON objects and back, strictly, and to JSON Schema.

The type of a field defines what it accepts: ``int``, ``float``, ``bool``, ``str``, a ``Literal`` of strings, another
dataclass, or one of these ``| None``; ``Annotated`` adds a :class:`Range` and one sentence of description. Pure.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, cast

from ballonet.base.dataclass import MISSING, Field, dataclass, fields, is_dataclass
from ballonet.base.errors import ControlError

T = TypeVar("T")

#: The longest text of a peer that a message repeats.
_SHOWN = 40

_JSON_NAMES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class Range:
    """The bounds of a number, inclusive."""

    minimum: float
    maximum: float


@dataclass(frozen=True)
class FieldSpec:
    """What one field accepts, from its annotation."""

    name: str
    kind: type
    choices: tuple[str, ...]
    nullable: bool
    bounds: Range | None
    required: bool
    default: object
    doc: str

    def expected(self) -> str:
        """A description of the accepted values, for a message."""
        if self.choices:
            text = "one of " + ", ".join(self.choices)
        elif self.kind is bool:
            text = "true or false"
        elif self.kind is int:
            text = "a whole number"
        elif self.kind is float:
            text = "a number"
        elif self.kind is str:
            text = "a string"
        else:
            text = "an object"
        if self.bounds is not None:
            text += f" from {self.bounds.minimum:.12g} to {self.bounds.maximum:.12g}"
        return text + " or null" if self.nullable else text


def show(value: object) -> str:
    """``value`` for a message: ASCII, one line, short."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    text = ascii(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


@functools.cache
def field_specs(cls: type) -> dict[str, FieldSpec]:
    """The fields of dataclass ``cls`` by name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _spec(field, hints[field.name]) for field in fields(cls)}


def _spec(field: Field[Any], hint: Any) -> FieldSpec:
    kind, nullable, bounds, doc = hint, False, None, ""
    while True:
        if typing.get_origin(kind) is Annotated:
            kind, *notes = typing.get_args(kind)
            for note in notes:
                if isinstance(note, Range):
                    bounds = note
                else:
                    doc = doc or note
        elif typing.get_origin(kind) in (typing.Union, types.UnionType):
            nullable = True
            (kind,) = (arm for arm in typing.get_args(kind) if arm is not type(None))
        else:
            break
    choices: tuple[str, ...] = ()
    if typing.get_origin(kind) is Literal:
        kind, choices = str, typing.get_args(kind)
    required = field.default is MISSING
    default = None if required else field.default
    return FieldSpec(field.name, kind, choices, nullable, bounds, required, default, doc)


def decode(cls: type[T], members: object, *, ignore_unknown: bool = False) -> T:
    """Convert the JSON object ``members`` to a ``cls``.

    :param ignore_unknown: ignore unknown members, which a newer peer may send, instead of refusing them.
    :raises ControlError: it is not an object, or a member is unknown, missing, of the wrong type or out of range.
        ``true`` is not a number, ``512.0`` is not a whole number, and numbers are finite.
    """
    if not isinstance(members, dict):
        raise ControlError(f"expected an object with named members, got {show(members)}")
    specs = field_specs(cast(type, cls))
    if not ignore_unknown:
        for name in members:
            if name not in specs:
                known = ", ".join(specs) or "none"
                raise ControlError(f"unknown parameter {show(name)}; known ones: {known}")
    values: dict[str, object] = {}
    for name, spec in specs.items():
        if name in members:
            values[name] = _checked(spec, members[name], ignore_unknown)
        elif spec.required:
            raise ControlError(f"{name} is missing: {spec.expected()}")
    return cls(**values)


def _checked(spec: FieldSpec, value: object, ignore_unknown: bool) -> object:
    if value is None and spec.nullable:
        return None
    if is_dataclass(spec.kind) and isinstance(value, dict):
        return decode(spec.kind, value, ignore_unknown=ignore_unknown)
    accepted = (int, float) if spec.kind is float else spec.kind
    fits = isinstance(value, accepted) and (spec.kind is bool or not isinstance(value, bool))
    if fits and isinstance(value, int | float) and spec.kind is not bool:
        fits = math.isfinite(value) if isinstance(value, float) else True
        fits = fits and (spec.bounds is None or spec.bounds.minimum <= value <= spec.bounds.maximum)
    if fits and spec.choices:
        fits = value in spec.choices
    if not fits:
        raise ControlError(f"{spec.name} must be {spec.expected()}, not {show(value)}")
    return value


def schema_of(cls: type) -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of dataclass ``cls``."""
    specs = field_specs(cls)
    schema: dict[str, object] = {
        "type": "object",
        "properties": {name: _field_schema(spec) for name, spec in specs.items()},
        "required": [name for name, spec in specs.items() if spec.required],
        "additionalProperties": False,
    }
    return schema


def _field_schema(spec: FieldSpec) -> dict[str, object]:
    schema: dict[str, object]
    if spec.choices:
        schema = {"enum": list(spec.choices)}
    elif is_dataclass(spec.kind):
        schema = schema_of(spec.kind)
    else:
        schema = {"type": _JSON_NAMES[spec.kind]}
    if spec.bounds is not None:
        schema |= {"minimum": spec.bounds.minimum, "maximum": spec.bounds.maximum}
    if spec.nullable:
        schema = {"oneOf": [schema, {"type": "null"}]}
    if spec.doc:
        schema["description"] = spec.doc
    if not spec.required:
        schema["default"] = spec.default
    return schema
