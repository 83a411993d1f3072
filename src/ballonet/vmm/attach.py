"""What is attached to a virtual machine beside memory and processors: volumes, ports, its network. Pure.

Each has one way to be written as text, the one that people know from Docker; it is also how the sandbox's process
gets it (:mod:`ballonet.settings.flags`).
"""

from __future__ import annotations

import posixpath
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from ballonet.base.errors import ConfigError
from ballonet.base.memory import parse_size

#: Where the guest's kernel or its agent have their own file systems, or the root is: nothing is mounted over them.
RESERVED = ("/proc", "/sys", "/dev")
_LOOPBACK = "127.0.0.1"
_MAX_PORT = 65535


class Net(StrEnum):
    """What a guest can reach."""

    #: It has no network interface.
    NONE = "none"
    #: What the host can reach, the host's own loopback included (through the gateway's address).
    USER = "user"
    #: Nothing; only published ports lead in.
    ISOLATED = "isolated"


@dataclass(frozen=True)
class Volume:
    """A directory of the host in the guest. :raises ValueError: from :meth:`parse`, what is wrong."""

    source: Path
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST:GUEST[:ro|rw]``."""
        source, target, mode = split_volume(text)
        return cls(Path(source), target, mode == "ro")

    def __str__(self) -> str:
        return f"{self.source}:{self.target}{':ro' * self.read_only}"


def split_volume(text: str) -> tuple[str, str, str]:
    """Source, target and ``ro`` or ``rw`` of ``SOURCE:GUEST[:ro|rw]``.

    :raises ValueError: it is not of that form.
    """
    source, _, rest = text.partition(":")
    target, colon, mode = rest.partition(":")
    if not source or not target or mode not in ("ro", "rw", "") or (colon and not mode):
        raise ValueError("is not SOURCE:GUEST-DIRECTORY, perhaps with :ro after it")
    return source, _without_slash(target), mode or "rw"


def _without_slash(target: str) -> str:
    """A directory may be written with a slash at its end."""
    return target.rstrip("/") or target


@dataclass(frozen=True)
class Tmpfs:
    """A directory in the guest's memory. Without a size it may take half of that."""

    target: str
    size_mib: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``PATH[:SIZE]``, the size in MiB or with its unit.

        :raises ValueError: it is not of that form.
        """
        target, colon, size = text.partition(":")
        target = _without_slash(target)
        if not colon:
            return cls(target)
        # Docker's spelling of the option is taken, too.
        try:
            return cls(target, parse_size(size.removeprefix("size="), "its size"))
        except ConfigError as error:
            raise ValueError(
                f"cannot be read: {error.message}" + (f"; {error.hint}" if error.hint else "")
            ) from error

    def __str__(self) -> str:
        return self.target if self.size_mib is None else f"{self.target}:{self.size_mib}"


@dataclass(frozen=True)
class Port:
    """A port of the host that leads to one of the guest. Host port 0 is any free one."""

    host: int
    guest: int
    address: str = _LOOPBACK
    protocol: str = "tcp"

    _FORM = re.compile(
        r"(?:(?P<address>[^:]*):)?(?P<host>\d{1,5}):(?P<guest>\d{1,5})(?:/(?P<protocol>\w+))?", re.ASCII
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``[HOSTIP:]HOST:GUEST[/tcp|udp]``.

        :raises ValueError: it is not of that form, or no such port can be.
        """
        match = cls._FORM.fullmatch(text)
        if match is None:
            raise ValueError("is not [ADDRESS:]HOST-PORT:GUEST-PORT[/tcp|udp]")
        address = match["address"] if match["address"] is not None else _LOOPBACK
        port = cls(int(match["host"]), int(match["guest"]), address, match["protocol"] or "tcp")
        port.check()
        return port

    def check(self) -> None:
        """:raises ValueError: no such port can be."""
        try:
            socket.inet_pton(socket.AF_INET, self.address)
        except (OSError, ValueError):
            raise ValueError(f"has {self.address!r}, which is no IPv4 address") from None
        if self.protocol not in ("tcp", "udp"):
            raise ValueError(f"has protocol {self.protocol!r}; there are tcp and udp")
        if not 0 <= self.host <= _MAX_PORT or not 1 <= self.guest <= _MAX_PORT:
            raise ValueError(f"has a port outside 1 to {_MAX_PORT} (on the host, 0 is any free one)")

    def __str__(self) -> str:
        return f"{self.address}:{self.host}:{self.guest}/{self.protocol}"


def check_target(target: str) -> None:
    """:raises ValueError: nothing can be mounted at this path of a guest."""
    if not target.startswith("/") or "\0" in target:
        raise ValueError(f"must be mounted at an absolute path of the guest, not at {target!r}")
    if posixpath.normpath(target) != target or target == "/" or target.startswith("//"):
        raise ValueError(f"cannot be mounted at {target!r}: the path must be plain, and not the root")
    if any(target == place or target.startswith(f"{place}/") for place in RESERVED):
        raise ValueError(f"cannot be mounted at {target!r}: the guest's kernel has {', '.join(RESERVED)}")


def parents_first(targets: Sequence[str]) -> list[str]:
    """``targets`` in an order in which none hides another."""
    return sorted(targets, key=lambda target: target.count("/"))
