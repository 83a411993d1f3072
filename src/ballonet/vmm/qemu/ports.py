"""Reads the monitor's ``info usernet``: the host ports of published ports, and open connections. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ballonet.base.dataclass import replace
from ballonet.vmm.attach import Port

#: All addresses of the host, which the monitor shows as an asterisk.
_ANY = "0.0.0.0"  # noqa: S104  (read, not bound)
#: A line of the monitor's "info usernet": TCP[HOST_FORWARD] 12 127.0.0.1 8080 10.0.2.15 80 0 0
_FORWARD = re.compile(r"^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)\s", re.MULTILINE)

_CONNECTION = re.compile(r"^\s*TCP\[ESTABLISHED\]\s", re.MULTILINE)


def count_connections(usernet: str) -> int:
    """How many TCP connections are open, in both directions."""
    return len(_CONNECTION.findall(usernet))


def chosen_ports(requested: Sequence[Port], usernet: str) -> tuple[Port, ...]:
    """``requested``, with the ports that the kernel chose instead of 0, from the monitor's ``info usernet``."""
    found = [
        (protocol.lower(), address.replace("*", _ANY), int(host), int(guest))
        for protocol, address, host, guest in _FORWARD.findall(usernet)
    ]
    chosen = []
    for port in requested:
        for entry in found:
            protocol, address, host, guest = entry
            same = (protocol, address, guest) == (port.protocol, port.address, port.guest)
            if same and port.host in (0, host):
                found.remove(entry)
                port = replace(port, host=host)
                break
        chosen.append(port)
    return tuple(chosen)
