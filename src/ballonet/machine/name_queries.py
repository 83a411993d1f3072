"""Queries for names as a guest sends them (RFC 1035, section 4): reading, writing anew, and deciding. Pure.

With rules, a name in a query is all that a guest can send out by it: a query is never passed on as it came, but written
anew from its name and type.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from ballonet.machine.net_filter import FilterRules
from ballonet.vmm.net_rules import PUBLIC

_HEADER = struct.Struct(">HHHHHH")
_RESPONSE, _RECURSION, _AVAILABLE, _OPCODE = 0x8000, 0x0100, 0x0080, 0x7800
_OK, _REFUSED = 0, 5
_IN, _A = 1, 1
#: A pseudo record that says how long an answer may be (EDNS, RFC 6891): 1232 bytes.
_OPT = b"\0\0\x29\x04\xd0" + bytes(6)
_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")
_MAX_NAME = 255
_TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    10: "NULL",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
}
_TYPES |= {41: "OPT", 43: "DS", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 255: "ANY", 257: "CAA"}

#: Below ``*.NAME``: the longest label, and the longest name.
MAX_LABEL, MAX_BELOW = 40, 120
#: Names below such rules that were not asked for before: so many at once, and so many a second after that.
NEW_NAMES, NEW_NAMES_PER_S = 100, 1.0
#: How many names are remembered.
_REMEMBERED = 512


class Query(NamedTuple):
    """A query with one question about a name of the internet."""

    id: int
    #: The name, type and class as they came.
    question: bytes
    #: In lower case, without a final dot.
    name: str
    type: int
    #: Whether it has the pseudo record.
    extended: bool

    @property
    def type_name(self) -> str:
        return _TYPES.get(self.type, f"TYPE{self.type}")

    @classmethod
    def read(cls, packet: bytes) -> Query | None:
        """``None`` for everything else."""
        try:
            number, flags, questions, *others, additional = _HEADER.unpack_from(packet)
            if flags & (_RESPONSE | _OPCODE) or questions != 1 or any(others) or additional > 1:
                return None
            labels, at = [], _HEADER.size
            while size := packet[at]:
                label = packet[at + 1 : at + 1 + size]
                if len(label) != size or not _LABEL.fullmatch(label):
                    return None
                labels.append(label)
                at += 1 + size
            kind, of = struct.unpack_from(">HH", packet, at + 1)
        except (struct.error, IndexError):
            return None
        name = b".".join(labels).decode().lower()
        if of != _IN or not name or len(name) > _MAX_NAME - 2:
            return None
        return cls(number, packet[_HEADER.size : at + 5], name, kind, additional == 1)

    def anew(self, number: int) -> bytes:
        """The same question, with nothing else of the guest's."""
        return _HEADER.pack(number, _RECURSION, 1, 0, 0, 1) + self.question.lower() + _OPT

    def answer(self, *, refused: bool) -> bytes:
        """An answer without records."""
        flags = _RESPONSE | _RECURSION | _AVAILABLE | (_REFUSED if refused else _OK)
        return _HEADER.pack(self.id, flags, 1, 0, 0, 0) + self.question

    def answered(self, packet: bytes) -> bytes | None:
        """The answer for the guest, made from the answer to :meth:`anew`; ``None`` if it is of another question."""
        end = _HEADER.size + len(self.question)
        if len(packet) < end or packet[_HEADER.size : end] != self.question.lower():
            return None
        _, flags, *counts, additional = _HEADER.unpack_from(packet)
        rest = packet[end:]
        if not self.extended and additional and rest[-11:-8] == _OPT[:3] and rest[-2:] == b"\0\0":
            rest, additional = rest[:-11], additional - 1
        return _HEADER.pack(self.id, flags, *counts, additional) + self.question + rest


class Decision(NamedTuple):
    """What becomes of a query: it is forwarded, or answered without records."""

    forwarded: bool
    refused: bool = False


FORWARDED, EMPTY, REFUSED = Decision(True), Decision(False), Decision(False, refused=True)


class NameLimits:
    """Decides about queries. The name server decides about their names once more, by the same rules."""

    def __init__(self, rules: FilterRules) -> None:
        self._everything = not rules.allow or any(rule.host == PUBLIC for rule in rules.allow)
        hosts = [rule.host for rule in rules.names]
        self._names = frozenset(host for host in hosts if not host.startswith("*."))
        self._below = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._known: dict[str, None] = {}
        self._budget, self._at = float(NEW_NAMES), 0.0

    def decide(self, query: Query, now: float) -> Decision:
        """:param now: seconds of a clock that never goes back."""
        if self._everything:
            return FORWARDED
        exact = query.name in self._names
        if not exact and not query.name.endswith(self._below or ("\0",)):
            return REFUSED
        if query.type != _A:
            return EMPTY  # what the guest reaches has IPv4 addresses, and a tunnel uses other types
        return (
            FORWARDED if exact or (self._short(query.name) and self._in_budget(query.name, now)) else REFUSED
        )

    def _short(self, name: str) -> bool:
        suffix = max((each for each in self._below if name.endswith(each)), key=len)
        labels = name.removesuffix(suffix).split(".")
        return len(name) <= MAX_BELOW and all(len(label) <= MAX_LABEL for label in labels)

    def _in_budget(self, name: str, now: float) -> bool:
        if name in self._known:
            self._known[name] = self._known.pop(name)  # the last one asked for is forgotten last
            return True
        self._budget = min(NEW_NAMES, self._budget + (now - self._at) * NEW_NAMES_PER_S)
        self._at = now
        if self._budget < 1:
            return False
        self._budget -= 1
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[name] = None
        return True
