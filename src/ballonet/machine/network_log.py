"""The log of a sandbox's network: refused connections, names that were asked for, and failures, one line of JSON each.

It is ``network.jsonl`` in the sandbox's state directory, and at most twice :data:`MAX_BYTES` long with its predecessor
``network.1.jsonl``. The kernel reports at most ten refused connections a second of each kind, so that a guest cannot
fill a disk or keep this process busy; the counters of the packet filter count all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ballonet.host import netlink

log = logging.getLogger(__name__)

FILE, OLD_FILE = "network.jsonl", "network.1.jsonl"
MAX_BYTES = 512 * 1024
#: How many lines are written at most, and in which time (seconds).
_MOST_LINES, _PER_S = 200, 10.0
#: The kind of message, and attributes (linux/netfilter/nfnetlink_log.h).
_PACKET, _PAYLOAD, _PREFIX = 0x0400, 9, 10
_FAMILY_BYTES = 4  # struct nfgenmsg, in front of the attributes
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


class NetworkLog:
    """Writes the log, or nothing without a directory. Call :meth:`close` at the end."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._kernel: socket.socket | None = None
        self._lines = 0
        self._since = 0.0
        self._failed = False

    def follow(self, kernel: socket.socket) -> None:
        """Log the refused connections that the kernel reports on this socket."""
        self._kernel = kernel
        asyncio.get_running_loop().add_reader(kernel, self._read)

    def add(self, event: str, **facts: Any) -> None:
        """Write one line."""
        now = time.time()
        if not 0 <= now - self._since < _PER_S:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines > _MOST_LINES or self._directory is None:
            return
        if self._lines == _MOST_LINES:
            event, facts = (
                "more",
                {"detail": f"more than {_MOST_LINES} lines in {_PER_S:g} s are not written"},
            )
        self._write(json.dumps({"time": round(now, 3), "event": event, **facts}) + "\n")

    def close(self) -> None:
        if self._kernel is not None:
            asyncio.get_running_loop().remove_reader(self._kernel)
            self._kernel = None

    def _write(self, line: str) -> None:
        assert self._directory is not None
        path = self._directory / FILE
        try:
            with path.open("a") as file:
                file.write(line)
                long = file.tell() > MAX_BYTES
            if long:
                path.replace(self._directory / OLD_FILE)
        except OSError as error:
            if not self._failed:  # once: the disk may be full for a while
                log.error("the network's log cannot be written: %s", error)
            self._failed = True

    def _read(self) -> None:
        assert self._kernel is not None
        with contextlib.suppress(OSError):  # nothing more, or messages were lost (ENOBUFS)
            while True:
                for facts in refused_connections(self._kernel.recv(65536)):
                    self.add("refused", **facts)


def refused_connections(message: bytes) -> Iterator[dict[str, Any]]:
    """The connections in a message of nfnetlink_log. Pure."""
    for kind, body in netlink.messages(message):
        if len(body) < _FAMILY_BYTES:
            return
        if kind == _PACKET:
            attributes = dict(netlink.attributes(body[_FAMILY_BYTES:]))
            facts = _connection(attributes.get(_PAYLOAD, b""))
            if facts is not None:
                rule = attributes.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
                yield {"rule": rule, **facts}


def _connection(packet: bytes) -> dict[str, Any] | None:
    """Destination, protocol and port of an IPv4 packet."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    header = (packet[0] & 15) * 4
    facts: dict[str, Any] = {
        "address": socket.inet_ntop(socket.AF_INET, packet[16:20]),
        "protocol": _PROTOCOLS.get(packet[9], str(packet[9])),
    }
    if packet[9] in (6, 17) and len(packet) >= header + 4:
        facts["port"] = int.from_bytes(packet[header + 2 : header + 4])
    return facts
