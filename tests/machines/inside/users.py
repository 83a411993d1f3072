"""Users of an outer machine: what they do at a login, with ballonet installed for all."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

BALLONET = "/usr/bin/python3 -P -m ballonet"
#: With guests whose time runs several times slower than the host's.
WAIT_S = 400


def login(user: str, script: str, status: int | None = 0, timeout_s: float = WAIT_S) -> str:
    """Run a shell script as a login of ``user``, and log out; its standard output."""
    done = subprocess.run(
        ["su", "-l", user, "-c", script], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert status is None or done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def findings(user: str) -> dict[str, tuple[str, str]]:
    rows = json.loads(login(user, f"{BALLONET} doctor --json", status=None))
    return {row["check"]: (row["result"], row["detail"]) for row in rows}


def wait_until(said: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + WAIT_S
    while not said():
        assert time.monotonic() < ends, what
        time.sleep(1)


def listed(user: str) -> dict[str, str]:
    """The user's sandboxes, and their states."""
    return {row["name"]: row["state"] for row in json.loads(login(user, f"{BALLONET} ls --json"))}


def uid(user: str) -> int:
    return int(subprocess.check_output(["id", "-u", user], text=True))


def engine_pid(user: str, name: str) -> int:
    pid: int = json.loads(login(user, f"{BALLONET} inspect {name}"))[0]["engine_pid"]
    return pid
