"""Units of memory: converts between bytes, MiB and 4 KiB balloon pages, and parses sizes.

Everywhere else a name has its unit as a suffix: ``*_mib``, ``*_bytes``, ``*_pages``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ballonet.base.errors import SettingError, quoted

if TYPE_CHECKING:
    from decimal import Decimal

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

#: Size of a virtio balloon page in bytes (virtio 1.2 §5.5.6: always 4096, whatever the guest's page size).
BALLOON_PAGE_BYTES = 4096

#: The largest size that any setting accepts, in MiB (16 TiB): far above real hosts, far below overflow.
MAX_MIB = 16 << 20

#: A size: MiB as a number, or text such as "1.5G".
Size = int | str

_SIZE = re.compile(r"\s*(?P<number>\d{1,20}(?:\.\d{1,6})?)\s*(?P<unit>[a-zA-Z]*)\s*", re.ASCII)
_UNITS = {"b": 1, "k": KIB, "m": MIB, "g": GIB, "t": GIB << 10}
_UNIT_BYTES = {"": MIB} | _UNITS
_UNIT_BYTES |= {unit + end: factor for unit, factor in _UNITS.items() if unit != "b" for end in ("b", "ib")}
#: How a size is written, for help texts and messages.
SIZE_FORMS = "512 (MiB), 512M, 1.5G or 524288K; units are B, K, M, G and T, also as KB or KiB, all binary"


def mib_to_bytes(mib: int) -> int:
    """MiB as bytes."""
    return mib * MIB


def bytes_to_mib(size_bytes: int) -> int:
    """Whole MiB in ``size_bytes``, rounded down."""
    return size_bytes // MIB


def kib_to_bytes(kib: int) -> int:
    """KiB (the unit of ``/proc``) as bytes."""
    return kib * KIB


def mib_to_pages(mib: int) -> int:
    """MiB as 4 KiB balloon pages (the unit of the virtio device and of the plain control protocol)."""
    return mib * MIB // BALLOON_PAGE_BYTES


def pages_to_mib(pages: int) -> int:
    """Whole MiB in 4 KiB pages, rounded down."""
    return bytes_to_mib(pages * BALLOON_PAGE_BYTES)


def to_mib(size: Size, what: str = "size") -> int:
    """A size in whole MiB, from a number of MiB or from text for :func:`parse_size`.

    :param what: the name of the setting, for the message.
    :raises ConfigError: it has another type, is negative, or is not a size.
    """
    if isinstance(size, str):
        return parse_size(size, what)
    if not isinstance(size, int) or isinstance(size, bool):
        raise SettingError(
            f"{{}} must be a whole number of MiB or text, not {type(size).__name__} ({quoted(size)})",
            what,
            hint='for example 512 or "1.5G"',
        )
    if not 0 <= size <= MAX_MIB:
        raise SettingError(f"{{}} {size} MiB is outside 0 to {MAX_MIB} MiB", what)
    return size


def parse_size(text: str, what: str = "size") -> int:
    """Read a size such as ``512``, ``512M``, ``1.5G`` or ``524288K`` and return whole MiB.

    A number without a unit is MiB. Units are binary however they are written, as in Docker and QEMU: ``M``, ``MB`` and
    ``MiB`` are all 2²⁰ bytes; also ``B``, ``K``, ``G`` and ``T``, upper or lower case.

    :param what: the name of the setting, for the message.
    :raises ConfigError: it is not a size, is negative, is not a whole number of MiB, or exceeds 16 TiB. Zero is
        accepted here.
    """
    size = _size_bytes(text)
    if size is None:
        raise SettingError(f"{{}} {_shown(text)} is not a size", what, hint=f"write it as {SIZE_FORMS}")
    if size % MIB:
        below, above = int(size // MIB), int(size // MIB) + 1
        raise SettingError(
            f"{{}} {quoted(text)} is {float(size) / MIB:.10g} MiB, not a whole number of MiB",
            what,
            hint=f"the nearest sizes are {below}M and {above}M",
        )
    if size > MAX_MIB * MIB:
        raise SettingError(
            f"{{}} {quoted(text)} exceeds the largest supported size, {MAX_MIB} MiB (16 TiB)", what
        )
    return int(size // MIB)


def parse_rate(rate: Size, what: str) -> int:
    """A rate in KiB a second, from a number of MiB a second or from text such as ``10M``, ``512K`` or ``1.5M/s``.

    :param what: the name of the setting, for the message.
    :raises ConfigError: it is not a rate, or is not a whole number of KiB a second. Zero is accepted here.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | str):
        raise SettingError(f"{{}} must be a rate, not {type(rate).__name__} ({quoted(rate)})", what)
    text = str(rate)
    size = _size_bytes(text.removesuffix("/s"))
    if size is None or size % KIB:
        raise SettingError(
            f"{{}} {_shown(text)} is not a rate in KiB a second",
            what,
            hint="write it as 10M, 512K or 1.5M: bytes in a second, units are binary; 0 is no limit",
        )
    return int(size // KIB)


def _size_bytes(text: str) -> int | Decimal | None:
    """Bytes, from a number and a unit; ``None`` if it is something else."""
    match = _SIZE.fullmatch(text) if len(text) <= 64 else None
    factor = _UNIT_BYTES.get(match["unit"].lower()) if match else None
    if match is None or factor is None:
        return None
    if match["number"].isdecimal():
        return int(match["number"]) * factor
    from decimal import Decimal  # the sandbox's own process gets whole MiB and never needs it

    return Decimal(match["number"]) * factor


def _shown(text: str) -> str:
    return quoted(text if len(text) <= 32 else text[:32] + "…")
