"""What a guest may ask for, and what leaves the host of its queries."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.machine.name_queries import (
    EMPTY,
    FORWARDED,
    MAX_BELOW,
    MAX_LABEL,
    NEW_NAMES,
    REFUSED,
    Decision,
    NameLimits,
    Query,
)
from tests.unit.test_network_rules import rules

A, TXT, AAAA = 1, 16, 28


def packet(name: str, kind: int = A, *, number: int = 7, extra: bytes = b"", additional: int = 0) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, additional)
    return head + labels + b"\0" + struct.pack(">HH", kind, 1) + extra


def query(name: str, kind: int = A) -> Query:
    found = Query.read(packet(name, kind))
    assert found is not None
    return found


def decided(limits: NameLimits, name: str, kind: int = A, now: float = 0.0) -> Decision:
    return limits.decide(query(name, kind), now)


def test_a_query_is_written_anew_with_nothing_of_the_guests_but_name_and_type() -> None:
    secret = b"secret-of-the-guest"
    option = b"\0\0\x29\x10\0\0\0\0\0" + struct.pack(">HHH", 4 + len(secret), 65001, len(secret)) + secret
    for extra, additional in ((option, 1), (secret, 0), (b"\0\0\1\0\1" + secret, 0)):
        found = Query.read(packet("wWw.Example.TEST", TXT, extra=extra, additional=additional))
        assert found is not None
        assert (found.name, found.type, found.type_name) == ("www.example.test", TXT, "TXT")
        anew = found.anew(300)
        assert secret not in anew
        assert anew == packet(
            "www.example.test", TXT, number=300, additional=1
        ) + b"\0\0\x29\x04\xd0" + bytes(6)


def test_an_answer_has_the_guests_number_spelling_and_no_more_than_it_understands() -> None:
    address = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\5\5\5\7"
    head = struct.pack(">HHHHHH", 300, 0x8180, 1, 1, 0, 1)
    upstream = head + packet("a.test")[12:] + address + b"\0\0\x29\x04\xd0" + bytes(6)
    plain = Query.read(packet("A.Test"))
    assert plain is not None
    expected = struct.pack(">HHHHHH", 7, 0x8180, 1, 1, 0, 0) + packet("A.Test")[12:] + address
    assert plain.answered(upstream) == expected
    extended = Query.read(packet("a.test", extra=b"\0\0\x29\x10\0" + bytes(6), additional=1))
    assert extended is not None
    assert extended.answered(upstream) == struct.pack(">H", 7) + upstream[2:]
    assert query("b.test").answered(upstream) is None
    assert plain.answered(b"") is None


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        packet("a.test")[:-1],
        packet("a.test")[:20],
        packet("a" * 64 + ".test"),
        b"\0\7\x81\x80" + packet("a.test")[4:],  # an answer
        b"\0\7\x28\0" + packet("a.test")[4:],  # an update
        packet("a.test")[:4] + b"\0\2" + packet("a.test")[6:],  # two questions
        packet("a.test")[:12] + b"\xc0\x0c\0\1\0\1",  # a pointer
        packet("a b.test"),
        packet("a\\046b.test"),
        packet("a.test")[:-2] + b"\0\3",  # another class
        packet(".".join(["abcdefg"] * 32)),
        packet("a.test", additional=2),
        packet("a.test")[:12] + b"\0\0\1\0\1",  # the root
    ],
)
def test_what_is_no_plain_query_is_dropped(damaged: bytes) -> None:
    assert Query.read(damaged) is None


@given(st.binary(max_size=300))
def test_any_packet_of_a_guest_is_survived(data: bytes) -> None:
    found = Query.read(data)
    if found is not None:
        assert Query.read(found.anew(1)) is not None
        found.answered(data)
    query("a.test").answered(data)


def test_only_addresses_of_allowed_names_are_asked_for() -> None:
    limits = NameLimits(rules("a.test:443", "*.b.test", "192.0.2.0/24", deny=("c.b.test",)))
    assert decided(limits, "A.test") == FORWARDED
    assert decided(limits, "x.y.b.test") == FORWARDED
    for name in ("x.a.test", "b.test", "xb.test", "test", "a.test.evil.test"):
        assert decided(limits, name) == decided(limits, name, TXT) == REFUSED, name
    for kind in (2, 5, 10, 15, TXT, AAAA, 33, 65, 255, 65280):
        assert decided(limits, "a.test", kind) == decided(limits, "x.b.test", kind) == EMPTY, kind
    assert decided(NameLimits(rules("none")), "a.test") == REFUSED
    for everything in (rules(deny=("a.test",)), rules("public", "a.test")):
        assert decided(NameLimits(everything), "x.test", TXT) == FORWARDED


def test_names_below_a_rule_are_short() -> None:
    limits = NameLimits(rules("*.b.test", f"{'x' * 60}.b.test", "*.c.b.test"))
    assert decided(limits, f"{'a' * MAX_LABEL}.b.test") == FORWARDED
    assert decided(limits, f"{'a' * (MAX_LABEL + 1)}.b.test") == REFUSED
    assert decided(limits, f"{'x' * 60}.b.test") == FORWARDED, "it is allowed by its own rule"
    part = "a" * 35
    assert decided(limits, f"{part}.{part}.{part}.b.test") == FORWARDED
    assert len(f"{part}.{part}.{part}.aaaaaaa.b.test") > MAX_BELOW
    assert decided(limits, f"{part}.{part}.{part}.aaaaaaa.b.test") == REFUSED


def test_new_names_below_a_rule_have_a_rate_and_known_ones_have_none() -> None:
    limits = NameLimits(rules("*.b.test", "a.test"))
    asked = [decided(limits, f"n{number}.b.test", now=1000.0) for number in range(NEW_NAMES + 50)]
    assert asked == [FORWARDED] * NEW_NAMES + [REFUSED] * 50
    assert decided(limits, "a.test", now=1000.0) == FORWARDED
    assert decided(limits, "n0.b.test", now=1000.0) == FORWARDED
    later = [decided(limits, f"m{number}.b.test", now=1010.0) for number in range(20)]
    assert later.count(FORWARDED) == 10
    # Those asked for last are remembered.
    for number in range(2000):
        decided(limits, f"k{number}.b.test", now=1100.0 + number)
    assert decided(limits, "k1999.b.test", now=1100.0 + 1999) == FORWARDED
