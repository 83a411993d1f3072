"""Finds out which ports of the host are free."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from ballonet.base.errors import BindError
from ballonet.vmm.attach import Port

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_HINTS = {
    errno.EADDRINUSE: "choose another port, or 0 for any free port",
    errno.EADDRNOTAVAIL: "no interface of this host has that address: use 127.0.0.1, 0.0.0.0 or an address of the host",
    errno.EACCES: "ports below 1024 require root (net.ipv4.ip_unprivileged_port_start): choose a higher port",
}


def check_ports_free(ports: Sequence[Port]) -> None:
    """Check that the ports can be bound. Another program may still bind one before the engine does.

    :raises BindError: one of them cannot be bound.
    """
    for port in ports:
        _bind(port)


def free_port(port: Port) -> int:
    """A port of the host that is free at the address of ``port``, unless another program binds it meanwhile.

    :raises BindError: none can be bound.
    """
    return _bind(port)


def _bind(port: Port) -> int:
    try:
        with socket.socket(port.family, _KINDS[port.protocol]) as probe:
            if port.protocol == "tcp":  # like the engine: a port in TIME_WAIT is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((port.address, port.host))
            return int(probe.getsockname()[1])
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        where = f"{port.place}/{port.protocol}"
        raise BindError(f"port {where} cannot be published: {error.strerror}", hint=hint) from error
