"""Counts the connections in the connection table of a network namespace (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import socket
import struct

from ballonet.base.errors import HostError
from ballonet.host import netlink

_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_FAMILY = struct.pack(">BBH", socket.AF_INET, 0, 0)
#: Where the state of a TCP connection is: CTA_PROTOINFO, CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE.
_STATE = (4, 1, 1)
_ESTABLISHED = 3  # linux/netfilter/nf_conntrack_tcp.h
#: The kernel answers at once.
_ANSWER_S = 1.0


def open_table() -> socket.socket:
    """A socket for :func:`count_connections`, in the network namespace of the calling process."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_NETFILTER)


def count_connections(table: socket.socket) -> int:
    """How many TCP connections over IPv4 are open.

    :raises HostError: the kernel does not say.
    """
    table.settimeout(_ANSWER_S)
    try:
        table.send(netlink.request(_GET, netlink.DUMP, _FAMILY))
        count, done = 0, False
        while not done:
            more, done = read_answer(table.recv(1 << 16))
            count += more
        return count
    except OSError as error:
        raise HostError(
            f"the open connections of the guest cannot be counted: {error.strerror or error}",
            hint="it needs a kernel with nf_conntrack_netlink",
        ) from error


def read_answer(data: bytes) -> tuple[int, bool]:
    """How many of the connections in a part of the answer are open, and whether it is the last part. Pure.

    :raises OSError: it reports an error.
    """
    found, done = netlink.read_dump(data)
    return sum(_state(body[len(_FAMILY) :]) == _ESTABLISHED for _, body in found), done


def _state(attributes: bytes) -> int | None:
    """The state of a TCP connection; ``None`` for another protocol."""
    value = attributes
    for wanted in _STATE:
        found = next((part for kind, part in netlink.attributes(value) if kind == wanted), None)
        if found is None:
            return None
        value = found
    return value[0] if value else None
