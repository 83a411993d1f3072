"""What a guest gets out of the host with queries for names, where a rule allows all names below one."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.network_world import World, network_world

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the networks around the host"),
]


@pytest.fixture(scope="module")
def world(guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with network_world(tmp_path_factory.mktemp("world")) as made:
        yield made


#: Sends queries to the name server, each in its own packet, and prints what became of each: the answer's code and how
#: many addresses it has, or "none".
_ASK = """
import socket, struct, sys, time
SECRET = b"secret-of-the-guest"
OPTION = b"\\0\\0\\x29\\x10\\0\\0\\0\\0\\0" + struct.pack(">HHH", 4 + len(SECRET), 65001, len(SECRET)) + SECRET
def packet(name, kind, extra=b"", additional=0):
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, additional) + labels + b"\\0" + struct.pack(">HH", kind, 1) + extra
def ask(data, wait=2):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.0.2.3", 53))
        probe.settimeout(wait)
        probe.send(data)
        try:
            answer = probe.recv(2000)
        except OSError as error:
            return "none"
    return f"{answer[3] & 15} {answer[7]}"
if sys.argv[1] == "kinds":
    for kind in (2, 5, 10, 15, 16, 28, 33, 65, 255, 65280):
        print(ask(packet("data.below.test", kind)))
elif sys.argv[1] == "tricks":
    for extra, additional in ((OPTION, 1), (SECRET, 0), (b"\\0\\0\\1\\0\\1" + SECRET, 0)):
        print(*(ask(packet("deep.below.test", kind, extra, additional)) for kind in (1, 16)))
elif sys.argv[1] == "long":
    for name in ("a" * 41, ".".join(["a" * 30] * 4)):
        print(ask(packet(name + ".below.test", 1)))
else:
    for number in range(int(sys.argv[2])):
        ask(packet(f"n{number}.below.test", 1), wait=0.02)
        time.sleep(0.03)
"""


@pytest.fixture(scope="module")
def tunnel(world: World, debian_image: str) -> Iterator[str]:
    """A sandbox with a rule for all names below one, and the program above."""
    words = ("--image", debian_image, "--net-allow", "*.below.test", "--idle")
    world.ballonet("run", "-d", "--name", "tunnel", *words)
    command = (
        sys.executable,
        "-P",
        "-m",
        "ballonet",
        "exec",
        "-i",
        "tunnel",
        "--",
        "sh",
        "-c",
        "cat > /ask.py",
    )
    world.run(*command, stdin=_ASK)
    yield "tunnel"
    world.ballonet("rm", "--force", "tunnel")


def test_only_addresses_are_asked_for_and_only_the_name_goes_out(world: World, tunnel: str) -> None:
    asked = world.log("names")
    empty = "0 0\n"
    assert world.guest(tunnel, "python3 /ask.py kinds") == empty * 10
    assert world.log("names") == asked
    assert world.guest(tunnel, "python3 /ask.py tricks") == "0 1 0 0\n" * 3
    new = world.log("names")[len(asked) :]
    assert [line.split()[:2] for line in new] == [["deep.below.test", "1"]] * 3
    assert b"secret".hex() not in "".join(new)
    before = world.log("names")
    assert world.guest(tunnel, "python3 /ask.py long") == "5 0\n" * 2
    assert world.log("names") == before


def test_new_names_below_a_rule_go_out_at_a_low_rate(world: World, tunnel: str) -> None:
    asked, began = len(world.log("names")), time.monotonic()
    world.guest(tunnel, "python3 /ask.py many 250")
    most = 100 + 1 + (time.monotonic() - began)
    assert 50 < len(world.log("names")) - asked <= most


def test_names_are_not_asked_for_over_tcp(world: World, tunnel: str) -> None:
    reach = "import socket; socket.create_connection(('10.0.2.3', 53), 10)"
    assert "Connection refused" in world.guest(tunnel, f'python3 -c "{reach}"', check=False)
