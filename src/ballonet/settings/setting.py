"""What the declaration of a setting says, and what follows from the setting's type. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

MIB = "MiB"
SECONDS = "seconds"
KIB_PER_S = "KiB a second"
OPS_PER_S = "operations a second"
PERCENT = "percent of one processor"
USER_ID = "user ID"
GROUP_ID = "group ID"


#: When a change takes effect.
LIVE = "live"
#: It matters at boot only, or the sandbox does not run.
NEXT_START = "next start"
#: The running sandbox keeps the old value.
REQUIRES_RESTART = "requires restart"

#: What a setting's value is.
Kind = Literal[
    "size", "duration", "rate", "count", "quota", "number", "switch", "choice", "path", "text", "list", "map"
]


_AMOUNTS: dict[str | None, Kind] = {
    MIB: "size",
    SECONDS: "duration",
    KIB_PER_S: "rate",
    OPS_PER_S: "count",
    PERCENT: "quota",
}


class Setting(NamedTuple):
    """One setting. :mod:`ballonet.settings.definitions` declares it with the first part of these; the name and the
    type of the declared key give the rest."""

    #: What it is: a phrase for ``--help``, the documentation and docstrings.
    help: str
    default: Any = None
    #: The default for people, where it depends on other settings.
    default_text: str | None = None
    #: :data:`MIB` makes a whole number or text a size, :data:`SECONDS` a duration, :data:`KIB_PER_S` a
    #: rate, :data:`OPS_PER_S` a number of which 0 is no limit, :data:`PERCENT` a number of processors.
    unit: str | None = None
    #: Its field of :class:`~ballonet.settings.config.SandboxConfig`; by default its name.
    field: str = ""
    #: Its option of ``run`` and ``create``; by default made from its name. A switch that is on by default gets
    #: ``--no-…`` there, and ``modify`` has both forms of every switch.
    option: str = ""
    short: str | None = None
    metavar: str | None = None
    #: The help of ``--no-…``.
    off_help: str = ""
    #: The help of ``modify``, where it differs.
    modify_help: str | None = None
    takes_effect: str = REQUIRES_RESTART

    #: Its parameter in the SDK.
    name: str = ""
    kind: Kind = "text"
    #: The types that it may have, without ``None``.
    types: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    #: The type of a list's items.
    item: Any = None

    @property
    def type(self) -> Any:
        """Its type, for signatures."""
        return reduce(or_, self.types)

    @property
    def shown_default(self) -> str | None:
        """The default as people write it; ``None`` where there is none to write."""
        if self.default_text is not None or self.default is None or self.kind in ("switch", "list", "map"):
            return self.default_text
        return f"{self.default}M" if self.kind == "size" and self.default else str(self.default)


def declared(name: str, annotation: Any) -> Setting:
    """The setting ``name`` that is declared with ``Annotated[TYPE, Setting(…)]``."""
    assert get_origin(annotation) is Annotated, name
    of, setting = get_args(annotation)
    assert isinstance(setting, Setting), name
    members = [each for each in _members(of) if each is not NoneType and not isinstance(each, TypeVar)]
    kind, choices, item = _kind_of(members, setting.unit)
    dashed = name.replace("_", "-")
    off = kind == "switch" and setting.default
    return setting._replace(
        name=name,
        field=setting.field or name,
        option=setting.option or (f"--no-{dashed}" if off else f"--{dashed}"),
        kind=kind,
        types=tuple(members),
        choices=choices,
        item=item,
    )


def _members(of: Any) -> tuple[Any, ...]:
    return get_args(of) if get_origin(of) in (Union, UnionType) else (of,)


def _kind_of(members: list[Any], unit: str | None) -> tuple[Kind, tuple[str, ...], Any]:
    of: Any = next((each for each in members if each is not str), str)  # text is another form of the same
    if get_origin(of) is Sequence:
        return "list", (), _members(get_args(of)[0])[-1]
    if get_origin(of) is Mapping:
        return "map", (), None
    if get_origin(of) is Literal:
        return "choice", get_args(of), None
    if issubclass(of, StrEnum):
        return "choice", tuple(map(str, of)), None
    if unit in _AMOUNTS:
        return _AMOUNTS[unit], (), None
    kinds: dict[type, Kind] = {bool: "switch", int: "number", Path: "path"}
    return kinds.get(of, "text"), (), None
