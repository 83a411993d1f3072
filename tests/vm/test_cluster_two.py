"""Two clusters of one user on this machine: neither notices the other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.guest.bundle import GuestBundle
from tests.vm.loopback_hosts import Host, free_port

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("ray")


@pytest.fixture
def heads(
    guest: GuestBundle, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, Host]]:
    one, two = (Host(name, tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    try:
        for host in (one, two):
            host.take_part("up", "--port", str(free_port()), "--budget", "600M")
        yield one, two
    finally:
        for host in (one, two):
            with contextlib.suppress(Exception):
                host.end()


def test_two_clusters_on_one_machine_do_not_disturb_one_another(heads: tuple[Host, Host]) -> None:
    one, two = heads
    assert (set(one.status()), set(two.status())) == ({"one"}, {"two"})
    made = one.run("--cluster", "auto", "run", "-d", "--name", "same", "-m", "128M", "--", "sleep", "600")
    assert made.returncode == 0, made.stderr
    assert "same" not in two.run("--cluster", "auto", "ls").stdout
    made = two.run("--cluster", "auto", "run", "-d", "--name", "same", "-m", "128M", "--", "sleep", "600")
    assert made.returncode == 0, made.stderr
    address = json.loads((one.directory / "state/ballonet/cluster/node.json").read_text())["address"]
    token = str(two.token)
    refused = two.run("cluster", "join", address, "--token", token, "--name", "three")
    assert refused.returncode == 2, refused.stderr
    assert "this host is part of a cluster already" in refused.stderr
    again = two.run("cluster", "up", "--port", address.rpartition(":")[2], "--name", "three")
    assert f"port {address.rpartition(':')[2]} of 127.0.0.1 cannot be used" in again.stderr
    one.end()
    ended = one.run("cluster", "status")
    assert ended.returncode != 0
    assert "this host is not part of a cluster" in ended.stderr
    assert two.status()["two"]["sandboxes"] == {"same": "running"}
    assert two.run("--cluster", "auto", "exec", "same", "--", "echo", "still").stdout == "still\n"
    assert two.run("--cluster", "auto", "rm", "-f", "same").returncode == 0
