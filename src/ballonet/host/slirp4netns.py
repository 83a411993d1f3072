"""Finds slirp4netns, which connects a network namespace to the host's network without privileges, and renders its
command line and its requests (slirp4netns(1))."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.process import find_program

PACKAGE = "slirp4netns"
_HINT = f"install it: apt-get install {PACKAGE}; without it, the networks isolated and none work"
#: The largest that the host's kernel passes on in one piece.
_MTU = 65520


@dataclass(frozen=True)
class Slirp4netns:
    """The program."""

    binary: Path

    def command(
        self,
        namespace: str,
        interface: str,
        network: str,
        *,
        ready: int,
        exit: int,
        requests: Path,
        host_loopback: bool,
        confined: bool,
    ) -> list[str]:
        """The command line that connects ``namespace`` by ``interface``.

        :param ready: the descriptor that it writes to when it is ready.
        :param exit: it ends when the other end of this descriptor is closed.
        :param requests: the path of the socket that it makes for :func:`forward_port`.
        :param host_loopback: the gateway is the host's loopback.
        :param confined: it keeps no directory but /etc and /run, and few capabilities and system calls.
        """
        argv = [str(self.binary), "--configure", f"--mtu={_MTU}", f"--cidr={network}"]
        argv += [f"--ready-fd={ready}", f"--exit-fd={exit}", f"--api-socket={requests}"]
        if not host_loopback:
            argv.append("--disable-host-loopback")
        if confined:
            argv += ["--enable-sandbox", "--enable-seccomp"]
        return [*argv, "--netns-type=path", namespace, interface]


def find_slirp4netns() -> Slirp4netns:
    """:raises HostError: it is not installed."""
    return Slirp4netns(find_program(PACKAGE, hint=_HINT))


def forward_port(protocol: str, address: str, host: int, guest: int) -> bytes:
    """The request that leads a port of the host to a port of the namespace."""
    arguments = {"proto": protocol, "host_addr": address, "host_port": host, "guest_port": guest}
    return json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode()


def answer_error(answer: bytes) -> str | None:
    """What an answer says is wrong; ``None``: nothing."""
    try:
        document: Any = json.loads(answer)
        if "return" in document:
            return None
        return str(document["error"]["desc"])
    except (ValueError, KeyError, TypeError):
        return f"unexpected answer {answer[:80]!r}"
