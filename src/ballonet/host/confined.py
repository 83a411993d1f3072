"""Reads what a process is kept from, in ``/proc``."""

from __future__ import annotations

from typing import Any

from ballonet.host.proc import PROC

#: linux/capability.h
_CAPABILITIES = {1: "dac_override", 10: "net_bind_service"}


def read_confinement(pid: int, landlock: int) -> dict[str, Any] | None:
    """What the process ``pid`` is kept from; ``None`` if it cannot be read.

    :param landlock: the version of Landlock that restricts its files, which ``/proc`` does not say.
    """
    try:
        lines = (PROC / f"{pid}/status").read_text().splitlines()
        own_network = (PROC / f"{pid}/ns/net").readlink() != (PROC / "self/ns/net").readlink()
    except OSError:
        return None
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    capabilities = int(status.get("CapEff", "0"), 16)
    return {
        "files": f"landlock {landlock}" if landlock else "not restricted",
        "system_calls": "seccomp" if status.get("Seccomp") == "2" else "not restricted",
        "no_new_privileges": status.get("NoNewPrivs") == "1",
        "capabilities": [
            _CAPABILITIES.get(number, f"capability {number}")
            for number in range(capabilities.bit_length())
            if capabilities >> number & 1
        ],
        "network": "empty" if own_network else "host",
    }
