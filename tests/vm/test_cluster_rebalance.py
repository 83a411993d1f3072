"""A host that stays short of memory: one of its sandboxes goes on elsewhere, once."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.cluster.rebalance import RebalanceBounds
from ballonet.guest.bundle import GuestBundle
from tests.vm.loopback_hosts import Host, free_port

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]
pytest.importorskip("ray")

BOUNDS = RebalanceBounds()
#: Memory that cannot be taken from a guest, and a process that goes on counting.
FILL = """
mkdir /full; mount -t tmpfs -o size=95% full /full; dd if=/dev/zero of=/full/file bs=1M count={mib}
n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.2; done
"""
BIG_MIB = 400


@pytest.fixture
def full(
    guest: GuestBundle, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, str]]:
    """A cluster of one host, and its address. Its sandbox ``big`` may be moved; another one is local."""
    host, port = Host("full", tmp_path_factory.mktemp("full")), free_port()
    try:
        host.take_part("up", "--port", str(port), "--budget", "1100M")
        for words in (
            ("--cluster", "auto", "run", "-d", "--name", "big", "-m", "512M", "--restart", "elsewhere"),
            # Not the cluster's, which would have refused it.
            ("run", "-d", "--name", "local", "-m", "448M", "--no-admission"),
        ):
            fill = FILL.format(mib=BIG_MIB if "big" in words else 360)
            started = host.run(*words, "--", "sh", "-c", fill)
            assert started.returncode == 0, started.stderr
        yield host, f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(Exception):
            host.end()


def until(host: Host, condition: Any, what: str, timeout_s: float) -> dict[str, Any]:
    """Wait for a state of the cluster, and return its status."""
    deadline = time.monotonic() + timeout_s
    while not condition(status := host.status()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}: {json.dumps(status)}"
        time.sleep(1)
    return status


def test_the_sandbox_of_a_host_that_stays_short_goes_on_elsewhere_once(
    full: tuple[Host, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    host, address = full
    count = ("--cluster", "auto", "exec", "big", "--", "cat", "/count")
    until(host, lambda status: status["full"]["offer"]["price"] >= BOUNDS.high, "a high price", 120)
    # No other host is there: it offers nothing, and nothing is moved.
    short = until(
        host,
        lambda status: status["full"]["offer"]["closed"],
        "a host that offers nothing",
        BOUNDS.short_s + 120,
    )
    assert short["full"]["offer"]["closed"] == "it has been short of memory for minutes"
    assert short["full"]["sandboxes"] == {"big": "running", "local": "running"}
    counted = int(host.run(*count).stdout)
    other = Host("other", tmp_path_factory.mktemp("other"))
    try:
        other.take_part("join", address, "--token", str(host.token), "--budget", "4G")
        moved = until(host, lambda status: "big" in status["other"]["sandboxes"], "a move", 120)
        assert moved["full"]["sandboxes"] == {"local": "running"}
        assert moved["other"]["sandboxes"] == {"big": "running"}
        assert int(host.run(*count).stdout) >= counted, "its processes went on"
        fill = host.run("--cluster", "auto", "exec", "big", "--", "wc", "-c", "/full/file").stdout
        assert int(fill.split()[0]) == BIG_MIB << 20
        # The one that was short has its memory again, and offers it; the other keeps what it got.
        open_again = until(
            host, lambda status: status["full"]["offer"]["closed"] is None, "an open host", 120
        )
        assert open_again["other"]["sandboxes"] == {"big": "running"}
        assert [line["name"] for line in json.loads(host.run("ls", "--json").stdout)] == ["local"]
    finally:
        with contextlib.suppress(Exception):
            other.end()
