"""The confinement of real engines. What it prevents: tests/unit/test_engine_confinement.py."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from ballonet.host.landlock import landlock_version
from ballonet.sdk.sandbox import Sandbox


async def test_inspect_says_what_an_engine_is_kept_from(
    guest: object, run_directory: Path, ballonet: Callable[..., CompletedProcess[str]]
) -> None:
    async with await Sandbox.create("kept", net="none", disk="100M") as box:
        found: Any = json.loads(ballonet("inspect", "kept").stdout)[0]["confinement"]
        version = landlock_version()
        assert found["files"] == (f"landlock {version}" if version else "not restricted")
        assert (found["system_calls"], found["no_new_privileges"]) == ("seccomp", True)
        assert found["capabilities"] == (["dac_override"] if os.geteuid() == 0 else [])
        limits = Path(f"/proc/{box.engine_pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0", limits)
        assert re.search(rf"Max file size +{100 << 20} +{100 << 20}", limits)
        # The disk is written to its end, and no further.
        assert (await box.shell("dd if=/dev/zero of=/disk/all bs=1M; sync; rm /disk/all; echo lives")).stdout[
            -6:
        ] == (b"lives\n")
        reply = await box.balloon.set(256, wait=True, timeout_s=120)
        assert reply.state == "applied"


@pytest.mark.parametrize("net", ["isolated", "user"])
def test_the_engine_of_each_network_is_confined(
    ballonet: Callable[..., CompletedProcess[str]], run_directory: Path, net: str
) -> None:
    if net == "user" and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/net/tun")
    port = ("-p", "0:80") if net == "isolated" else ()
    done = ballonet("run", "--rm", "--net", net, *port, "--", "echo", "out")
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr
