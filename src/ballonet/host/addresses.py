"""The host's own IPv4 addresses, from the kernel's routing table ``local``, and its changes (rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
import struct

from ballonet.base.ipv4 import Block
from ballonet.host import netlink

_RTM_NEWADDR_GROUPS = 0x10 | 0x40  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE (linux/rtnetlink.h)
_RTM_GETROUTE, _RTM_NEWROUTE = 26, 24
_RTN_LOCAL, _RTN_BROADCAST, _RT_TABLE_LOCAL, _RTA_DST = 2, 3, 255, 1
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, destination's length, …, table, …, type


def own_addresses() -> tuple[Block, ...]:
    """The addresses and blocks that lead to this host, and broadcast addresses of its networks.

    :raises OSError: the kernel does not tell.
    """
    found: set[Block] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        kernel.send(netlink.request(_RTM_GETROUTE, netlink.DUMP, body))
        done = False
        while not done:
            routes, done = netlink.read_dump(kernel.recv(1 << 18))
            for kind, message in routes:
                if kind == _RTM_NEWROUTE and (block := _local(message)) is not None:
                    found.add(block)
    return tuple(sorted(found))


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


def _local(message: bytes) -> Block | None:
    """The destination of a route of the table ``local``."""
    _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message)
    if table != _RT_TABLE_LOCAL or kind not in (_RTN_LOCAL, _RTN_BROADCAST):
        return None
    found = (value for of, value in netlink.attributes(message[_ROUTE.size :]) if of == _RTA_DST)
    destination = next(found, None)
    return None if destination is None else Block(int.from_bytes(destination[:4]), length)
