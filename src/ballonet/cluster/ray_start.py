"""Runs Ray's command line so that a host that is asked to listen on loopback does, and so that nothing of Ray is left.

``ray start --node-ip-address=127.0.0.1`` and ``ray.init("127.0.0.1:…")`` replace the address by one that other hosts
reach, and then listen on all interfaces. Ray's processes themselves can listen on loopback alone.
"""

from __future__ import annotations

import functools
import importlib
import os
import select
import signal
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


def end_group_with_this_process() -> None:
    """Have a child kill this process's group when this process has ended, however it ends. Ray's own agents would stay
    for minutes."""
    if os.getpgrp() != os.getpid():
        return  # the group is somebody else's
    pidfd = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        select.select([pidfd], [], [])
        os.killpg(0, signal.SIGKILL)
    os.close(pidfd)


def start_beside_others() -> None:
    """Have ``ray start --head`` not refuse its port because a process of another host on this machine, which waits for
    this head to return, has the address among its arguments. ``ballonet cluster up`` has checked the port."""
    services: Any = importlib.import_module("ray._private.services")
    if hasattr(services, "find_gcs_addresses"):
        services.find_gcs_addresses = functools.cache(lambda: set[str]())  # Ray clears its cache


if __name__ == "__main__":
    end_group_with_this_process()
    keep_loopback()
    start_beside_others()
    importlib.import_module("ray.scripts.scripts").main()
