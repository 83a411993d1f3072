"""The host's own IPv4 addresses, from the kernel's routing table ``local``, and its changes (rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from ballonet.base.ipv4 import Block

_RTM_NEWADDR_GROUPS = 0x10 | 0x40  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE (linux/rtnetlink.h)
_RTM_GETROUTE, _RTM_NEWROUTE = 26, 24
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTN_LOCAL, _RTN_BROADCAST, _RT_TABLE_LOCAL, _RTA_DST = 2, 3, 255, 1
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, destination's length, …, table, …, type


def own_addresses() -> tuple[Block, ...]:
    """The addresses and blocks that lead to this host, and broadcast addresses of its networks.

    :raises OSError: the kernel does not tell.
    """
    found: set[Block] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        header = _HEADER.pack(16 + len(body), _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        kernel.send(header + body)
        while True:
            for kind, message in _messages(kernel.recv(1 << 18)):
                if kind == _NLMSG_DONE:
                    return tuple(sorted(found))
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", message)[0]
                    raise OSError(number, os.strerror(number))
                if kind == _RTM_NEWROUTE and (block := _local(message)) is not None:
                    found.add(block)


class AddressChanges:
    """Becomes readable when an address or a route of this host has changed."""

    def __init__(self) -> None:
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._kernel.setblocking(False)
        self._kernel.bind((0, _RTM_NEWADDR_GROUPS))

    def fileno(self) -> int:
        return self._kernel.fileno()

    def drain(self) -> None:
        """Read what has changed. A lost message does no harm: all addresses are read again."""
        while True:
            try:
                self._kernel.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        self._kernel.close()


def _messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(packet):
        length, kind, *_ = _HEADER.unpack_from(packet, at)
        yield kind, packet[at + 16 : at + length]
        at += (length + 3) & ~3


def _local(message: bytes) -> Block | None:
    """The destination of a route of the table ``local``."""
    _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message)
    if table != _RT_TABLE_LOCAL or kind not in (_RTN_LOCAL, _RTN_BROADCAST):
        return None
    at = _ROUTE.size
    while at + 4 <= len(message):
        size, attribute = struct.unpack_from("=HH", message, at)
        if attribute == _RTA_DST:
            return Block(int.from_bytes(message[at + 4 : at + 8]), length)
        at += max(4, (size + 3) & ~3)
    return None
