"""Settings that are lists (volumes, tmpfs, ports): each item as text, or already what it is to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ballonet.base.arguments import check_items, wrong_type
from ballonet.base.errors import SettingError, escaped, quoted
from ballonet.settings.named_volumes import parse_volume
from ballonet.vmm.attach import Port, Tmpfs, Volume

_LISTS: dict[str, type[Volume | Tmpfs | Port]] = {"volumes": Volume, "tmpfs": Tmpfs, "ports": Port}


def read_items(field: str, items: Sequence[Any]) -> tuple[Any, ...]:
    """The items of a list's field (``volumes``, ``tmpfs``, ``ports``), each text or already what it is to be.

    :raises ConfigError: one cannot be read.
    """
    kind = _LISTS[field]
    return tuple(item if isinstance(item, kind) else _read(kind, item) for item in check_items(field, items))


def _read(kind: type[Volume | Tmpfs | Port], item: object) -> object:
    what = kind.__name__.lower()
    if not isinstance(item, str):
        raise wrong_type(what, "text", item)
    if kind is Volume:
        return parse_volume(item)
    try:
        return kind.parse(item)
    except ValueError as error:
        raise SettingError(f"{{}} {quoted(item)} {escaped(str(error))}", what) from error
