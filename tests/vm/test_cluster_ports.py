"""Which ports Ray opens on a host that listens for others, and that the documented firewall closes them.

In network namespaces of its own, without sandboxes: ``make cluster``. It needs root.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.cluster_hosts import Namespace, NetHost, network

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root"),
]
pytest.importorskip("ray")

PAGE = Path(__file__).parents[2] / "docs/cluster.md"
#: Another network of the host, on which it is not to be reached.
OTHER = "10.78.0"


@pytest.fixture(scope="module")
def host(
    run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NetHost, Namespace]]:
    """A head, and the network that it is on, with two addresses of each."""
    with network() as net:
        made = net.host("a", tmp_path_factory.mktemp("a"))
        net.space.ip("addr", "add", "10.77.0.200/24", "dev", "br0")
        net.space.ip("addr", "add", f"{OTHER}.200/24", "dev", "br0")
        made.space.ip("addr", "add", f"{OTHER}.1/24", "dev", "eth0")
        made.up("--budget", "512M")
        yield made, net.space


def listening(host: NetHost) -> set[tuple[str, str, int]]:
    """Program, address and port of each socket that listens there."""
    done = subprocess.run(
        host.space.words("ss", "-ltnpH"), check=True, capture_output=True, text=True, timeout=60
    )
    found = set()
    for line in done.stdout.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        program = re.search(r'users:\(\("([^"]+)"', line)
        assert program is not None, line
        found.add((program[1], address, int(port)))
    return found


def reaches(space: Namespace, address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {port}), 2).close()"
    return subprocess.run(space.words(sys.executable, "-c", code), stderr=subprocess.DEVNULL).returncode == 0


def test_the_ports_are_those_of_the_page_and_its_firewall_closes_them(
    host: tuple[NetHost, Namespace],
) -> None:
    made, outside = host
    found = listening(made)
    on_all = {program for program, address, _ in found if address != made.address}
    page = PAGE.read_text()
    listed = set(re.findall(r"^\| `([^`]+)` \| all interfaces", page, re.MULTILINE))
    assert on_all == listed, "the page names exactly the programs that listen on all interfaces"
    port = next(port for program, _, port in found if program == "gcs_server")
    raylets = sorted(port for program, _, port in found if program == "raylet")
    assert len(raylets) == 2
    for one in (port, *raylets):
        assert reaches(outside, f"{OTHER}.1", one), "without a firewall, the other network reaches it"
    rules = [line for line in page.splitlines() if line.startswith("nft add ")]
    assert len(rules) >= 5
    for rule in rules:
        words = shlex.split(rule.replace("10.0.0.0/24", "10.77.0.0/24").replace("10.0.0.1", made.address))
        subprocess.run(made.space.words(*words), check=True, timeout=60)
    for one in (port, *raylets):
        assert reaches(outside, made.address, one), "hosts reach each other"
        assert not reaches(outside, f"{OTHER}.1", one), "not on the other network"
    assert made.status()["a"]["silent"] is None, "the host reaches itself"
