"""What a guest with the network ``user`` may reach: the rules of ``--net-allow`` and ``--net-deny``, and ports of the
host's loopback. Pure.

Each has one textual form, in which it is also passed to the sandbox's process. Names are compared in lower case and
without a final dot.
"""

from __future__ import annotations

import re
from typing import Self

from ballonet.base.dataclass import dataclass
from ballonet.base.ipv4 import Block

#: How many connections of a guest may exist at once: each needs a descriptor of the process that translates them.
MAX_CONNECTIONS = 800
#: The limits of a rate (KiB a second): less is no use, more does not fit the kernel's number.
MIN_RATE, MAX_RATE = 16, (1 << 22) - 1
_MAX_PORT = 65535
_MAX_NAME = 253
#: Presets: everything except what is closed by default; nothing; and the servers of :data:`PACKAGES`, which is text for
#: several rules (:mod:`ballonet.settings.values`) and no rule itself.
PUBLIC, NONE, PACKAGES = "public", "none", "packages"
_PRESETS = (NONE, PACKAGES, PUBLIC)
# Compiled when they are used: every command loads this module, and few sandboxes have rules.
_NAME = r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_RULE = (
    r"(?P<host>[^:/\s]+(?:/\d+)?)(?::(?P<first>\d{1,5})(?:-(?P<last>\d{1,5}))?)?(?:/(?P<protocol>[a-z]+))?"
)
_HOST_PORT = r"(?P<port>\d{1,5})(?:/(?P<protocol>[a-z]+))?"
_PROTOCOLS = ("tcp", "udp", "icmp")


@dataclass(frozen=True)
class NetRule:
    """One rule: a host, and optionally ports and a protocol.

    The host is a name, ``*.`` and a name (its subdomains), an IPv4 address, a block of addresses, ``public``, or
    ``none``, which matches nothing.
    """

    host: str
    #: The first and the last port; ``None``: all.
    ports: tuple[int, int] | None = None
    #: ``None``: all.
    protocol: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``HOST[:PORT[-PORT]][/tcp|udp|icmp]``.

        :raises ValueError: it has another form, or a value is invalid.
        """
        low = text.lower()
        if low.count(":") > 1 or low.startswith("["):
            raise ValueError("is an IPv6 address; the network of a guest is IPv4 only")
        match = re.fullmatch(_RULE, low, re.ASCII)
        if match is None:
            raise ValueError("is not HOST[:PORT[-PORT]][/tcp|udp|icmp]")
        first, last = match["first"], match["last"]
        ports = None if first is None else (int(first), int(last or first))
        rule = cls(match["host"].removesuffix("."), ports, match["protocol"])
        rule.check()
        return rule

    def check(self) -> None:
        """:raises ValueError: a value is invalid."""
        if self.host in (NONE, PACKAGES) and (self.ports is not None or self.protocol is not None):
            raise ValueError(f"has a port or protocol, which the preset {self.host} does not take")
        if self.host == PACKAGES:
            raise ValueError("is a preset for several rules, which is given as text")
        if self.block is None and self.host not in _PRESETS:
            if len(self.host) > _MAX_NAME or not re.fullmatch(_NAME, self.host):
                raise ValueError(
                    "has a host that is not a name, an IPv4 address or a block of addresses; write international "
                    "names in ASCII (xn--…)"
                )
            if "." not in self.host.removeprefix("*."):
                raise ValueError(
                    f"has the name {self.host!r}, which has no dot; presets are: {', '.join(_PRESETS)}"
                )
        if self.protocol is not None and self.protocol not in _PROTOCOLS:
            raise ValueError(f"has protocol {self.protocol!r}; supported are {', '.join(_PROTOCOLS)}")
        if self.ports is not None:
            if self.protocol == "icmp":
                raise ValueError("has a port, which icmp does not have")
            if not 1 <= self.ports[0] <= self.ports[1] <= _MAX_PORT:
                raise ValueError(f"has ports outside 1 to {_MAX_PORT}, or the last one first")

    @property
    def block(self) -> Block | None:
        """The addresses; ``None`` for a name or a preset.

        :raises ValueError: it is neither, for example ``127.1``.
        """
        # Only numeric hosts end with a number: no top-level domain does (RFC 3696, section 2).
        if "/" in self.host or self.host.rpartition(".")[2].isdecimal():
            return Block.parse(self.host)
        return None

    @property
    def name(self) -> str | None:
        """The name, if the rule has one."""
        return None if self.host in _PRESETS or self.block is not None else self.host

    def __str__(self) -> str:
        text = self.host
        if self.ports is not None:
            first, last = self.ports
            text += f":{first}" if first == last else f":{first}-{last}"
        return text if self.protocol is None else f"{text}/{self.protocol}"


@dataclass(frozen=True)
class HostPort:
    """A port of the host's loopback that the guest may reach."""

    port: int
    protocol: str = "tcp"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``PORT[/tcp|udp]``.

        :raises ValueError: it has another form, or a value is invalid.
        """
        match = re.fullmatch(_HOST_PORT, text, re.ASCII)
        if match is None:
            raise ValueError("is not PORT[/tcp|udp]")
        port = cls(int(match["port"]), match["protocol"] or "tcp")
        port.check()
        return port

    def check(self) -> None:
        """:raises ValueError: a value is invalid."""
        if self.protocol not in ("tcp", "udp"):
            raise ValueError(f"has protocol {self.protocol!r}; supported are tcp and udp")
        if not 1 <= self.port <= _MAX_PORT:
            raise ValueError(f"has a port outside 1 to {_MAX_PORT}")

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"
