"""Runs Ray's command line so that a host that is asked to listen on loopback does.

``ray start --node-ip-address=127.0.0.1`` and ``ray.init("127.0.0.1:…")`` replace the address by one that other hosts
reach, and then listen on all interfaces. Ray's processes themselves can listen on loopback alone.
"""

from __future__ import annotations

import importlib
from typing import Any

from ballonet.base.errors import HostError


def keep_loopback() -> None:
    """Have Ray use the address that it is given.

    :raises HostError: this version of Ray cannot.
    """
    services: Any = importlib.import_module("ray._private.services")
    if not hasattr(services, "resolve_ip_for_localhost"):
        raise HostError("this version of Ray cannot listen on loopback alone", hint="install Ray 2.60")
    services.resolve_ip_for_localhost = lambda host: host


if __name__ == "__main__":
    keep_loopback()
    importlib.import_module("ray.scripts.scripts").main()
