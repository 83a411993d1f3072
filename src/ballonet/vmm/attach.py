"""Volumes, tmpfs mounts, published ports and networks of a virtual machine. Pure.

Each has one textual form, the same as in Docker, in which it is also passed to the sandbox's process
(:mod:`ballonet.settings.flags`).
"""

from __future__ import annotations

import posixpath
import re
import socket
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Self

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError
from ballonet.base.memory import parse_size

#: Where the guest's kernel or its agent have file systems of their own: nothing can be mounted there.
RESERVED = ("/proc", "/sys", "/dev")
LOOPBACK = "127.0.0.1"
_MAX_PORT = 65535


class Net(StrEnum):
    """The network of a guest."""

    #: No network interface.
    NONE = "none"
    #: It reaches what the host can reach, but not the host itself nor private networks, unless they are allowed.
    USER = "user"
    #: It reaches nothing; only published ports can be reached from the host.
    ISOLATED = "isolated"


@dataclass(frozen=True)
class Volume:
    """A directory of the host that is mounted in the guest."""

    source: Path
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``HOST:GUEST[:ro|rw]``.

        :raises ValueError: it has another form; the message completes "volume …".
        """
        source, target, mode = split_volume(text)
        return cls(Path(source), target, mode == "ro")

    def __str__(self) -> str:
        return f"{self.source}:{self.target}{':ro' * self.read_only}"


def split_volume(text: str) -> tuple[str, str, str]:
    """Source, target and ``ro`` or ``rw`` of ``SOURCE:GUEST[:ro|rw]``.

    :raises ValueError: it has another form.
    """
    source, _, rest = text.partition(":")
    target, colon, mode = rest.partition(":")
    if not source or not target or mode not in ("ro", "rw", "") or (colon and not mode):
        raise ValueError("is not SOURCE:GUEST-DIRECTORY[:ro]")
    return source, _without_slash(target), mode or "rw"


def _without_slash(target: str) -> str:
    """The path of a directory may end with a slash."""
    return target.rstrip("/") or target


@dataclass(frozen=True)
class Tmpfs:
    """A directory in the guest's memory. By default it may grow to half of the memory."""

    target: str
    size_mib: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``PATH[:SIZE]``; the size is in MiB or has a unit.

        :raises ValueError: it has another form.
        """
        target, colon, size = text.partition(":")
        target = _without_slash(target)
        if not colon:
            return cls(target)
        # Docker writes "size=64m".
        try:
            return cls(target, parse_size(size.removeprefix("size="), "its size"))
        except ConfigError as error:
            raise ValueError(
                f"is invalid: {error.message}" + (f"; {error.hint}" if error.hint else "")
            ) from error

    def __str__(self) -> str:
        return self.target if self.size_mib is None else f"{self.target}:{self.size_mib}"


@dataclass(frozen=True)
class Port:
    """A guest port that is published on the host, at an IPv4 or IPv6 address. Host port 0 means any free port."""

    host: int
    guest: int
    address: str = LOOPBACK
    protocol: str = "tcp"

    _FORM = re.compile(
        r"(?:(?P<address>\[[^]]*\]|[^:]*):)?(?P<host>\d{1,5}):(?P<guest>\d{1,5})(?:/(?P<protocol>\w+))?",
        re.ASCII,
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``[HOSTIP:]HOST:GUEST[/tcp|udp]``; an IPv6 address is in brackets.

        :raises ValueError: it has another form, or a value is invalid.
        """
        match = cls._FORM.fullmatch(text)
        if match is None:
            raise ValueError("is not [ADDRESS:]HOST-PORT:GUEST-PORT[/tcp|udp]")
        address = match["address"] if match["address"] is not None else LOOPBACK
        if address.startswith("["):
            address = address[1:-1]
        port = cls(int(match["host"]), int(match["guest"]), address, match["protocol"] or "tcp")
        port.check()
        return port

    def check(self) -> None:
        """:raises ValueError: a value is invalid."""
        try:
            socket.inet_pton(self.family, self.address)
        except (OSError, ValueError):
            raise ValueError(f"has {self.address!r}, which is not an IP address") from None
        if self.protocol not in ("tcp", "udp"):
            raise ValueError(f"has protocol {self.protocol!r}; supported are tcp and udp")
        if self.family == socket.AF_INET6 and self.protocol != "tcp":
            raise ValueError("has protocol udp, which can be published at IPv4 addresses only")
        if not 0 <= self.host <= _MAX_PORT or not 1 <= self.guest <= _MAX_PORT:
            raise ValueError(f"has a port outside 1 to {_MAX_PORT} (on the host, 0 means any free port)")

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def place(self) -> str:
        """Where it is on the host."""
        address = f"[{self.address}]" if self.family == socket.AF_INET6 else self.address
        return f"{address}:{self.host}"

    def __str__(self) -> str:
        return f"{self.place}:{self.guest}/{self.protocol}"


def check_target(target: str) -> None:
    """:raises ValueError: nothing can be mounted at this path of the guest."""
    if not target.startswith("/") or "\0" in target:
        raise ValueError(f"must be mounted at an absolute path, not at {target!r}")
    if posixpath.normpath(target) != target or target == "/" or target.startswith("//"):
        raise ValueError(f"cannot be mounted at {target!r}: the path must be normalised, and not the root")
    if any(target == place or target.startswith(f"{place}/") for place in RESERVED):
        raise ValueError(
            f"cannot be mounted at {target!r}: {', '.join(RESERVED)} are reserved for the guest's kernel"
        )


def parents_first(targets: Sequence[str]) -> list[str]:
    """``targets``, parent directories first, so that no mount hides another."""
    return sorted(targets, key=lambda target: target.count("/"))
