"""Published ports: whether the host has them free, and which ones it chose."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Sequence
from dataclasses import replace

from ballonet.base.errors import BindError
from ballonet.vmm.attach import Port
from ballonet.vmm.vm import Vm

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
#: Every address of the host, which the monitor shows as an asterisk.
_ANY = "0.0.0.0"  # noqa: S104  (read, not bound)
#: A line of the monitor's "info usernet": TCP[HOST_FORWARD] 12 127.0.0.1 8080 10.0.2.15 80 0 0
_FORWARD = re.compile(r"^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+\S+\s+(\d+)\s", re.MULTILINE)


_HINTS = {
    errno.EADDRINUSE: "choose another port, or 0 for any that is free",
    errno.EADDRNOTAVAIL: "no interface of this host has that address: choose 127.0.0.1, 0.0.0.0 or one that it has",
    errno.EACCES: "ports below 1024 are for root (net.ipv4.ip_unprivileged_port_start): choose a higher one",
}


def check_ports_free(ports: Sequence[Port]) -> None:
    """:raises BindError: one of them cannot be bound. Another program may still take it until the engine does."""
    for port in ports:
        try:
            with socket.socket(socket.AF_INET, _KINDS[port.protocol]) as probe:
                if port.protocol == "tcp":  # as the engine does: one that was used a moment ago is free
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((port.address, port.host))
        except OSError as error:
            hint = _HINTS.get(error.errno or 0)
            where = f"{port.address}:{port.host}/{port.protocol}"
            raise BindError(f"port {where} cannot be published: {error.strerror}", hint=hint) from error


async def published_ports(vm: Vm) -> tuple[Port, ...]:
    """The ports that lead into a VM that runs, with those that the host chose."""
    asked = vm.spec.ports
    if all(port.host != 0 for port in asked):
        return asked
    told = await vm.qmp.execute("human-monitor-command", command_line="info usernet")
    return chosen_ports(asked, str(told))


def chosen_ports(asked: Sequence[Port], usernet: str) -> tuple[Port, ...]:
    """``asked`` with the ports that the host chose for 0, from what the monitor's ``info usernet`` says. Pure."""
    found = [
        (protocol.lower(), address.replace("*", _ANY), int(host), int(guest))
        for protocol, address, host, guest in _FORWARD.findall(usernet)
    ]
    chosen = []
    for port in asked:
        for entry in found:
            protocol, address, host, guest = entry
            same = (protocol, address, guest) == (port.protocol, port.address, port.guest)
            if same and port.host in (0, host):
                found.remove(entry)
                port = replace(port, host=host)
                break
        chosen.append(port)
    return tuple(chosen)
