"""A process of each host that ends sandboxes whose lease has expired. It needs neither Ray nor the network.

It is a process of its own, so that it works when the host's agent, Ray and ``ballonet cluster join`` have been killed
or stopped. It reads one file that the agent writes, and ends when nothing needs a lease any more. If the whole host was
stopped, it continues at the same moment as the sandboxes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from ballonet.base.errors import BallonetError
from ballonet.base.paths import exclusive_if_free, private_dir
from ballonet.base.process import spawn
from ballonet.cluster.host_notes import boot_time_s, fenced_dir, lease_path
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import list_sandboxes
from ballonet.lifecycle.stop import run_blocking, stop_sandbox

#: How often the file is read (seconds).
READ_S = 1.0


def start_fence() -> subprocess.Popen[bytes] | None:
    """Start the fence of this host; ``None``: it runs already."""
    directory = private_dir(lease_path().parent)
    with exclusive_if_free(directory / "fence.lock") as free:
        if not free:
            return None
    return spawn([sys.executable, "-P", "-m", "ballonet.cluster.fence"], new_session=True)


def main() -> None:
    with exclusive_if_free(private_dir(lease_path().parent) / "fence.lock") as mine:
        if not mine:
            return
        while (wait_s := _look()) is not None:
            time.sleep(wait_s)


def _look() -> float | None:
    """End what has no lease; for how long to wait then (``None``: this host has left)."""
    try:
        document = json.loads(lease_path().read_bytes())
        leased = set(document["leased"])
        left_s = float(document["expires_s"]) - boot_time_s()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return READ_S  # it is replaced as a whole: this is a passing problem of the disk
    if left_s > 0:
        # Up to the moment itself: a renewal moves that.
        return min(READ_S, left_s)
    if not leased:
        return None  # a new lease starts the fence again
    try:
        end_all(leased)
    except BallonetError as error:
        print(f"ballonet: error: {error.message}", file=sys.stderr)
    return READ_S


def end_all(names: set[str]) -> None:
    """End these sandboxes at once. Each is noted, so that the directory starts it again."""
    with Registry.open() as registry:
        for record in list_sandboxes(registry):
            if record.name in names and (record.state.lives or record.state is State.PAUSED):
                (private_dir(fenced_dir()) / record.name).touch()
                run_blocking(stop_sandbox(registry, record.name, timeout_s=0))


if __name__ == "__main__":
    os.chdir("/")
    main()
