"""Limits how much leaves a network interface, with the kernel's token bucket (tc-tbf(8), linux/pkt_sched.h).

A packet that finds the bucket empty waits in a short queue, and is dropped if that is full.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from ballonet.base.errors import HostError
from ballonet.host import netlink

_NEW, _DELETE = 36, 37  # RTM_NEWQDISC, RTM_DELQDISC, linux/rtnetlink.h
_REPLACE, _CREATE = 0x100, 0x400  # linux/netlink.h
_QDISC = struct.Struct("=BxHiIII")  # struct tcmsg
_ROOT, _HANDLE = 0xFFFFFFFF, 0x10000
_KIND, _OPTIONS = 1, 2  # TCA_KIND, TCA_OPTIONS
_PARAMETERS, _BURST = 1, 6  # TCA_TBF_PARMS, TCA_TBF_BURST
_RATE = struct.Struct("=BBHhHI")  # struct tc_ratespec
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET
_SIOCGIFINDEX = 0x8933  # linux/sockios.h
#: How much passes at once, at least (bytes), and in time of the rate (seconds). The second is also the queue's length.
_LEAST_BURST, _BURST_S, _QUEUE_S = 16 << 10, 0.02, 0.05
#: The kernel answers at once.
_ANSWER_S = 1.0


def open_links() -> socket.socket:
    """A socket for :func:`limit_bandwidth`, in the network namespace of the calling process."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def limit_bandwidth(links: socket.socket, interface: str, rate_kib: int | None) -> None:
    """Limit what leaves ``interface`` to ``rate_kib`` KiB a second, or do not limit it.

    :raises HostError: the kernel cannot do that.
    """
    links.settimeout(_ANSWER_S)
    try:
        request = struct.pack("16sI20x", interface.encode(), 0)
        (index,) = struct.unpack_from("i", fcntl.ioctl(links, _SIOCGIFINDEX, request), 16)
        links.send(_request(index, rate_kib))
        _, answer = next(netlink.messages(links.recv(4096)))
        error = netlink.error_of(answer)
        if error and not (rate_kib is None and error in (errno.ENOENT, errno.EINVAL)):  # there was no limit
            raise OSError(error, os.strerror(error))
    except OSError as error:
        raise HostError(
            f"the bandwidth of the guest's network cannot be limited: {error.strerror or error}",
            hint="it needs a kernel with sch_tbf",
        ) from error


def _request(index: int, rate_kib: int | None) -> bytes:
    """The message that replaces or removes the queue of the interface with this number. Pure."""
    if rate_kib is None:
        body = _QDISC.pack(socket.AF_UNSPEC, 0, index, 0, _ROOT, 0)
        return netlink.request(_DELETE, netlink.ACK, body)
    rate = rate_kib * 1024
    burst = max(int(rate * _BURST_S), _LEAST_BURST)
    parameters = _RATE.pack(0, _ETHERNET, 0, 0, 0, rate) + _RATE.pack(0, 0, 0, 0, 0, 0)
    parameters += struct.pack("=III", burst + int(rate * _QUEUE_S), 0, 0)  # the queue, and two in other units
    options = netlink.attribute(_PARAMETERS, parameters) + netlink.attribute(_BURST, struct.pack("=I", burst))
    body = _QDISC.pack(socket.AF_UNSPEC, 0, index, _HANDLE, _ROOT, 0)
    body += netlink.attribute(_KIND, b"tbf\0") + netlink.attribute(_OPTIONS, options)
    return netlink.request(_NEW, netlink.ACK | _CREATE | _REPLACE, body)
