"""Messages of the kernel's netlink sockets (netlink(7), linux/netlink.h). Pure."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

#: The protocol of the packet filter's sockets.
NETLINK_NETFILTER = 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def request(kind: int, flags: int, body: bytes) -> bytes:
    """A message to the kernel."""
    return _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, 1, 0) + body


def messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the body of each message in a packet."""
    at = 0
    while at + _HEADER.size <= len(packet):
        length, kind, *_ = _HEADER.unpack_from(packet, at)
        if length < _HEADER.size:
            return
        yield kind, packet[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def read_dump(packet: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """The messages in a part of the answer to a dump, and whether it is the last part.

    :raises OSError: it reports an error.
    """
    found: list[tuple[int, bytes]] = []
    for kind, body in messages(packet):
        if kind == _DONE:
            return found, True
        if kind == _ERROR:
            number = error_of(body)
            raise OSError(number, os.strerror(number))
        found.append((kind, body))
    return found, False


def error_of(body: bytes) -> int:
    """The number of the error in a message of that kind; 0: none."""
    (number,) = struct.unpack_from("=i", body)
    return -int(number)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the value of each attribute."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a message to the kernel."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
