"""What a guest with ``--net user`` reaches, among networks that the tests make (:mod:`tests.vm.network_world`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.paths import state_dir_of
from ballonet.base.process import find_program
from tests.vm.network_world import HOST, METADATA, OTHER_PUBLIC, PRIVATE, PUBLIC, World, network_world

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the networks around the host"),
]
#: What the kernel of a guest says when a connection is refused at once.
REFUSED = "Connection refused"


@pytest.fixture(scope="module")
def world(guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with network_world(tmp_path_factory.mktemp("world")) as made:
        yield made


#: For each line of its input, "udp ADDRESS PORT", "from SOURCE ADDRESS PORT" (TCP) or "raw SOURCE ADDRESS" (an ICMP
#: echo request with a header of its own), tries that, and prints "answer" if there was one; all at once.
_PROBE = """
import socket, struct, sys, threading
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
def tried(kind, *words):
    if kind == "udp":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(4)
            probe.connect((words[0], int(words[1])))
            probe.send(b"hello")
            return probe.recv(100).decode().strip()
    if kind == "from":
        source = "" if words[0] == "any" else words[0]
        with socket.create_connection((words[1], int(words[2])), 4, (source, 0)) as probe:
            probe.sendall(b"hello\\n")
            return "answer " + probe.recv(100).decode().strip()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as probe,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as answers,
    ):
        body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"12345678"
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        source, target = map(socket.inet_aton, words)
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0, source, target)
        answers.settimeout(4)
        probe.sendto(head + body, (words[1], 0))
        while True:
            packet = answers.recv(1000)
            if packet[12:16] == target and packet[20] == 0:
                return "answer"
            if packet[20] == 3 and packet[28 + 16 : 28 + 20] == target:
                return "refused"
lines = sys.stdin.read().splitlines()
said = {}
def attempt(number):
    try:
        said[number] = tried(*lines[number].split())
    except OSError as error:
        said[number] = str(error)
threads = [threading.Thread(target=attempt, args=[number]) for number in range(len(lines))]
for thread in threads: thread.start()
for thread in threads: thread.join()
for number in range(len(lines)): print(said[number])
"""


@pytest.fixture(scope="module")
def plain(world: World, debian_image: str) -> Iterator[str]:
    """A sandbox with ``--net user`` and nothing else, and the program above."""
    words = ("--image", debian_image, "--net", "user", "-p", "0:9000", "-p", "0:9000/udp", "--idle")
    world.ballonet("run", "-d", "--name", "plain", *words)
    world.run(
        sys.executable,
        "-P",
        "-m",
        "ballonet",
        "exec",
        "-i",
        "plain",
        "--",
        "sh",
        "-c",
        "cat > /probe.py",
        stdin=_PROBE,
    )
    world.ballonet(
        "cp", str(find_program("busybox", hint="apt-get install busybox-static")), "plain:/bin/busybox"
    )
    world.guest("plain", "ln -s busybox /bin/ip")
    yield "plain"
    world.ballonet("rm", "--force", "plain")


@pytest.fixture(scope="module")
def ruled(world: World) -> Iterator[str]:
    """A sandbox with rules for names."""
    rules = (
        "allowed.test:80",
        "*.below.test",
        "rebound.test",
        "metadata.test",
        "local.test",
        "hosts-own.test",
    )
    words = [word for rule in rules for word in ("--net-allow", rule)]
    world.ballonet("run", "-d", "--name", "ruled", *words, "--idle")
    yield "ruled"
    world.ballonet("rm", "--force", "ruled")


def connect(world: World, name: str, address: str, port: int) -> str:
    """What a connection from a guest says: an answer, or why there is none."""
    return world.guest(name, f"echo hello | nc -w 5 {address} {port}", check=False)


def probe(world: World, *tries: str) -> dict[str, str]:
    """What each try of the program in ``plain`` says."""
    command = (sys.executable, "-P", "-m", "ballonet", "exec", "-i", "plain", "--", "python3", "/probe.py")
    answers = world.run(*command, stdin="\n".join(tries)).stdout.splitlines()
    return dict(zip(tries, answers, strict=True))


def answered(said: dict[str, str]) -> list[str]:
    """The tries that were answered."""
    return [words for words, answer in said.items() if "answer" in answer]


def test_public_addresses_are_reached(world: World, plain: str) -> None:
    said = probe(world, f"from any {PUBLIC} 80", "from any allowed.test 443", f"udp {PUBLIC} 80")
    assert list(said.values()) == [f"answer {PUBLIC}", f"answer {PUBLIC}", "answer"]


def test_the_host_the_metadata_and_private_networks_are_refused_at_once(world: World, plain: str) -> None:
    far, host = world.log("far"), world.log("host")
    gateways = ("10.0.2.2", "10.0.2.3", "192.0.0.2", "192.0.0.100")
    here = ("127.0.0.1", "127.1", "2130706433", "0177.0.0.1", "0", "::ffff:127.0.0.1", "::1")
    tcp = [f"from any {address} 8080" for address in (*HOST, *gateways, *here, f"::ffff:{HOST[0]}")]
    tcp += [f"from any {address} 443" for address in (METADATA, *PRIVATE)]
    udp = [f"udp {address} 8080" for address in (*HOST, *gateways)]
    udp += [f"udp {address} 80" for address in (METADATA, *PRIVATE)]
    odd = ("0.0.0.0", "203.0.113.255", "255.255.255.255", "224.0.0.1", "fd00:ec2::254", "fe80::1")
    said = probe(world, *tcp, *udp, *(f"from any {address} 80" for address in odd))
    assert answered(said) == []
    assert [words for words in tcp if REFUSED not in said[words]] == []
    # One after the other: each reads the answers to all.
    for address in (METADATA, *PRIVATE, *HOST):
        words = f"raw 10.0.2.15 {address}"
        assert probe(world, words) == {words: "refused"}
    assert (world.log("far"), world.log("host")) == (far, host)


def test_another_source_gateway_or_mac_changes_nothing(world: World, plain: str) -> None:
    far, host = world.log("far"), world.log("host")
    world.guest(plain, "ip addr add 192.0.0.100/24 dev eth0; ip addr add 10.0.2.77/24 dev eth0")
    sources = ("192.0.0.100", "10.0.2.77")
    tries = [f"from {source} {address} 80" for source in sources for address in (PUBLIC, METADATA, HOST[0])]
    tries += ["from 192.0.0.100 192.0.0.2 8080", f"raw 127.0.0.1 {METADATA}", f"raw 203.0.113.1 {PUBLIC}"]
    assert answered(probe(world, *tries)) == []
    world.guest(
        plain,
        "ip addr del 192.0.0.100/24 dev eth0; ip addr del 10.0.2.77/24 dev eth0; ip link set eth0 down;"
        "ip link set eth0 address 02:00:00:00:00:09; ip link set eth0 up; ip route replace default via 10.0.2.3;"
        "ip -6 addr add fd00::15/64 dev eth0; ip -6 route add default via fe80::1 dev eth0",
    )
    tries = [f"from any {address} 80" for address in (METADATA, *PRIVATE, *HOST, "fd00::2")]
    assert answered(probe(world, *tries)) == []
    assert (world.log("far"), world.log("host")) == (far, host)
    world.guest(plain, "ip route replace default via 10.0.2.2")
    words = f"from any {PUBLIC} 80"
    assert probe(world, words) == {words: f"answer {PUBLIC}"}


def test_other_sandboxes_are_out_of_reach(world: World, plain: str) -> None:
    """Their published ports, on every address of the host, and the address that each guest has."""
    world.ballonet("run", "-d", "--name", "neighbour", "-p", "0.0.0.0:0:9000", "--idle")
    try:
        world.guest("neighbour", _GREETS)
        assert greeting(world, "neighbour") == "b'neighbour\\n'\n"
        published: Any = world.inspect("neighbour")["ports"]
        port = published[0].split(":")[1]
        here = (*HOST, "10.0.2.2", "10.0.2.3", "10.0.2.16", "192.0.0.2", "192.0.0.100")
        said = probe(world, *(f"from any {address} {port}" for address in here))
        said |= probe(world, *(f"from any {address} 9000" for address in here))
        assert answered(said) == []
        assert "b'neighbour" in greeting(world, "neighbour")
    finally:
        world.ballonet("rm", "--force", "neighbour")


def test_an_address_that_the_host_gets_later_is_closed(world: World, plain: str) -> None:
    """The host gets an address that was reached before, on another interface."""
    words = f"from any {OTHER_PUBLIC} 80"
    assert probe(world, words) == {words: f"answer {OTHER_PUBLIC}"}
    world.run("ip", "addr", "add", f"{OTHER_PUBLIC}/32", "dev", "lo")
    try:
        log = state_dir_of(plain) / "network.jsonl"
        deadline = time.monotonic() + 20
        while f'"rule": "host", "address": "{OTHER_PUBLIC}"' not in log.read_text():
            assert time.monotonic() < deadline
            probe(world, f"from any {OTHER_PUBLIC} 443")
        said = probe(world, *(f"from any {OTHER_PUBLIC} {port}" for port in (80, 8080)))
        assert all(REFUSED in answer for answer in said.values())
    finally:
        world.run("ip", "addr", "del", f"{OTHER_PUBLIC}/32", "dev", "lo")


_ECHO = """
import socket, sys
tcp = socket.create_server(("", 9000))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 9000))
print("listens", flush=True)
connection, _ = tcp.accept()
connection.sendall(connection.recv(100).upper())
data, client = udp.recvfrom(100)
udp.sendto(data.upper(), client)
"""
_CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as tcp:
    tcp.sendall(b"stream")
    print(tcp.recv(100).decode())
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.settimeout(20)
    udp.connect(("127.0.0.1", int(sys.argv[2])))
    udp.send(b"datagram")
    print(udp.recv(100).decode())
"""


def test_published_ports_lead_into_the_guest_and_back(world: World, plain: str) -> None:
    echo = f"python3 -c '{_ECHO}' > /echo 2>&1 < /dev/null & until grep -q listens /echo; do sleep 0.1; done"
    world.guest(plain, echo)
    published = [str(port) for port in world.inspect(plain)["ports"]]  # type: ignore[attr-defined]
    assert [port.rpartition(":")[2] for port in published] == ["9000/tcp", "9000/udp"]
    hosts = [port.split(":")[1] for port in published]
    assert world.run(sys.executable, "-c", _CLIENT, *hosts).stdout == "STREAM\nDATAGRAM\n"


def test_a_port_is_published_at_an_ipv6_address(world: World) -> None:
    """One connection, with more than fits a buffer in both directions, and its end."""
    world.ballonet("run", "-d", "--name", "six", "-p", "[::1]:0:9000", "-p", "0:9000", "--idle")
    try:
        world.guest("six", "(while true; do nc -l -p 9000 -e cat; done) >/dev/null 2>&1 </dev/null &")
        published: Any = world.inspect("six")["ports"]
        six, four = (int(port.rpartition("/")[0].split(":")[-2]) for port in published)
        assert published[0] == f"[::1]:{six}:9000/tcp"
        client = """
import socket, sys, threading
data = bytes(range(256)) * 2000
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as connection:
    def send():
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = b""
    while piece := connection.recv(65536):
        got += piece
print(got == data)
"""
        assert world.run(sys.executable, "-c", client, "::1", str(six)).stdout == "True\n"
        assert world.run(sys.executable, "-c", client, "127.0.0.1", str(four)).stdout == "True\n"
        taken = world.ballonet("run", "--rm", "-p", f"[::1]:{six}:80", "--", "true", check=False)
        assert f"port [::1]:{six}/tcp cannot be published: Address already in use" in taken.stderr
        assert "[::1]:" in world.ballonet("ls", "--json").stdout
    finally:
        world.ballonet("rm", "--force", "six")


def test_the_engine_has_no_network_of_its_own(world: World, plain: str) -> None:
    """A program in the engine's place opens no connection, and does not get into the sandbox's namespace."""
    engine = int(str(world.inspect(plain)["engine_pid"]))
    links = world.run("ip", "-brief", "link", at=engine).stdout.split()
    assert links[0] == "lo"
    assert "UP" not in links
    reach = "import socket; socket.create_connection(('203.0.113.1', 8080), 5)"
    done = world.run("python3", "-c", reach, at=engine, check=False)
    assert "Network is unreachable" in done.stderr
    status = Path(f"/proc/{engine}/status").read_text()
    sets = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    assert all(int(sets[name], 16) in (0, 1 << 1) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"))


def test_a_port_of_the_hosts_loopback_is_open_if_allowed_and_no_other(world: World) -> None:
    world.ballonet(
        "run", "-d", "--name", "local", "--net-allow-host", "8080", "--net-allow-host", "8080/udp", "--idle"
    )
    try:
        assert connect(world, "local", "10.0.2.2", 8080) == "127.0.0.1\n"
        for address, port in (("10.0.2.2", 53), (HOST[0], 8080), ("192.0.0.2", 8080)):
            assert REFUSED in connect(world, "local", address, port)
        assert world.inspect("local")["running"]["net_allow_host"] == [  # type: ignore[index]
            {"port": 8080, "protocol": "tcp"},
            {"port": 8080, "protocol": "udp"},
        ]
    finally:
        world.ballonet("rm", "--force", "local")


def test_only_allowed_names_are_resolved_whatever_their_spelling(world: World, ruled: str) -> None:
    asked = world.log("names")
    for name in ("allowed.test", "ALLOWED.Test", "allowed.test.", "deep.below.test"):
        assert "Address: 5.5.5." in world.guest(ruled, f"nslookup -type=a {name}"), name
    before = world.log("names")
    assert len(before) > len(asked)
    data = "x" * 60
    for name in ("forbidden.test", "sub.allowed.test", "below.test", "notbelow.test", f"{data}.example.test"):
        said = world.guest(ruled, f"nslookup -type=a {name}", check=False)
        assert "Address: 5.5.5" not in said, name
        assert "REFUSED" in said or "NXDOMAIN" in said, name
    for kind in ("txt", "null", "mx", "any"):
        world.guest(ruled, f"nslookup -type={kind} {data}.forbidden.test", check=False)
    assert world.log("names") == before
    # A long name below an allowed one.
    world.guest(ruled, f"nslookup -type=txt {data}.{data}.{data}.below.test", check=False)
    assert world.log("names") == before


def test_names_open_their_addresses_and_ports_only(world: World, ruled: str) -> None:
    assert world.guest(ruled, "wget -qO- http://allowed.test/") == f"{PUBLIC}\n"
    assert REFUSED in connect(world, ruled, "allowed.test", 443)
    assert connect(world, ruled, "deep.below.test", 443) == f"{OTHER_PUBLIC}\n"
    assert REFUSED in connect(world, ruled, "5.5.5.9", 80)


def test_a_name_does_not_open_a_closed_address(world: World, ruled: str) -> None:
    far, host = world.log("far"), world.log("host")
    for name in ("rebound.test", "local.test", "metadata.test", "hosts-own.test"):
        world.guest(ruled, f"nslookup -type=a {name}", check=False)
        assert connect(world, ruled, name, 80) not in ("10.1.2.3\n", f"{METADATA}\n"), name
    for address in (PRIVATE[0], METADATA):
        assert REFUSED in connect(world, ruled, address, 80)
    assert REFUSED in connect(world, ruled, HOST[0], 8080)
    assert (world.log("far"), world.log("host")) == (far, host)


def test_other_resolvers_are_closed(world: World, ruled: str) -> None:
    for address, port in ((OTHER_PUBLIC, 53), ("192.0.0.3", 53), ("203.0.113.1", 53)):
        assert "Address: 5.5.5" not in world.guest(
            ruled, f"nslookup -type=a allowed.test {address}", check=False
        )
        assert REFUSED in connect(world, ruled, address, port)


def test_rules_for_addresses_open_a_private_network_and_nothing_else(world: World) -> None:
    words = (
        "--net-allow",
        "10.1.0.0/16:80/tcp",
        "--net-allow",
        "0.0.0.0/0:443",
        "--net-deny",
        f"{OTHER_PUBLIC}/32",
    )
    world.ballonet("run", "-d", "--name", "blocks", *words, "--idle")
    try:
        assert connect(world, "blocks", "10.1.2.3", 80) == "10.1.2.3\n"
        assert connect(world, "blocks", PUBLIC, 443) == f"{PUBLIC}\n"
        for address, port in (
            ("10.1.2.3", 443), (PRIVATE[1], 443), (METADATA, 443), (PUBLIC, 80), (OTHER_PUBLIC, 443), (HOST[0], 443),
        ):  # fmt: skip
            assert REFUSED in connect(world, "blocks", address, port), (address, port)
    finally:
        world.ballonet("rm", "--force", "blocks")


def test_none_leaves_nothing_but_a_port_of_the_host(world: World) -> None:
    world.ballonet(
        "run", "-d", "--name", "nothing", "--net-allow", "none", "--net-allow-host", "8080", "--idle"
    )
    try:
        asked = world.log("names")
        for address in (PUBLIC, PRIVATE[0], METADATA):
            assert REFUSED in connect(world, "nothing", address, 80), address
        assert "REFUSED" in world.guest("nothing", "nslookup -type=a allowed.test", check=False)
        assert world.log("names") == asked
        assert connect(world, "nothing", "10.0.2.2", 8080) == "127.0.0.1\n"
    finally:
        world.ballonet("rm", "--force", "nothing")


def test_rules_change_at_run_time_and_end_connections_that_they_do_not_allow(world: World) -> None:
    world.ballonet("run", "-d", "--name", "changed", "--net-allow", f"{PUBLIC}:80", "--idle")
    try:
        # A connection that only receives, and one that stays allowed.
        script = f"(echo hello; sleep 1000) | nc {PUBLIC} 80 > /out; echo ended > /end"
        world.guest(
            "changed", f"({script}) >/dev/null </dev/null & while ! grep -q {PUBLIC} /out; do sleep 0.1; done"
        )
        assert REFUSED in connect(world, "changed", OTHER_PUBLIC, 443)
        shown = world.ballonet("modify", "changed", "--net-allow", "deep.below.test:443").stdout
        assert "live" in shown
        assert "done" in shown
        assert REFUSED in connect(world, "changed", PUBLIC, 80)
        assert connect(world, "changed", "deep.below.test", 443) == f"{OTHER_PUBLIC}\n"
        inspected = world.inspect("changed")
        assert inspected["pending"] == {}
        assert [rule["host"] for rule in inspected["running"]["net_allow"]] == ["deep.below.test"]  # type: ignore[index]
        world.ballonet("modify", "changed", "--net-allow", "")
        assert connect(world, "changed", PUBLIC, 80) == f"{PUBLIC}\n"
        assert world.guest("changed", "wget -qO- http://forbidden.test/") == f"{PUBLIC}\n"
    finally:
        world.ballonet("rm", "--force", "changed")


def test_a_connection_ends_when_it_is_no_longer_allowed(world: World) -> None:
    world.ballonet("run", "-d", "--name", "ending", "--net-allow", f"{PUBLIC}:80", "--idle")
    try:
        talk = f"while sleep 0.2; do echo hello; done | nc {PUBLIC} 80 > /out; echo ended > /end"
        world.guest(
            "ending", f"({talk}) >/dev/null </dev/null & until grep -q {PUBLIC} /out; do sleep 0.1; done"
        )
        world.ballonet("modify", "ending", "--net-allow", f"{OTHER_PUBLIC}:80")
        # nc may find out with its next write only.
        world.guest(
            "ending",
            "until [ -e /end ]; do sleep 0.1; done; wc -l < /out > /before; sleep 1; wc -l < /out > /after",
        )
        world.guest("ending", "cmp /before /after")
    finally:
        world.ballonet("rm", "--force", "ending")


def processes_of(supervisor: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(supervisor)], capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def supervisor_of(name: str) -> int:
    return int(json.loads((state_dir_of(name) / "machine.json").read_text())["process"][0])


#: Answers on port 9000 with the guest's name.
_GREETS = "(while true; do nc -l -p 9000 -e hostname; done) >/dev/null 2>&1 </dev/null &"


def greeting(world: World, name: str) -> str:
    """What the program in the guest says to a client on the host."""
    ports: Any = world.inspect(name)["ports"]
    client = (
        "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5).recv(99))"
    )
    deadline = time.monotonic() + 60
    while True:
        done = world.run(sys.executable, "-c", client, ports[0].split(":")[1], check=False)
        if done.returncode == 0 and done.stdout != "b''\n":
            return done.stdout
        assert time.monotonic() < deadline, done
        time.sleep(0.1)


def test_a_resumed_guest_has_its_rules_names_and_ports_in_a_new_network(world: World) -> None:
    world.ballonet("run", "-d", "--name", "slept", "--net-allow", "allowed.test:80", "-p", "0:9000", "--idle")
    try:
        talk = f"while sleep 0.2; do echo hello; done | nc {PUBLIC} 80 > /out; echo ended > /end"
        world.guest("slept", _GREETS)
        assert world.guest("slept", "wget -qO- http://allowed.test/") == f"{PUBLIC}\n"
        world.guest(
            "slept", f"({talk}) >/dev/null </dev/null & until grep -q {PUBLIC} /out; do sleep 0.1; done"
        )
        rules = ("--net-allow", "allowed.test:80", "--net-allow", "deep.below.test:443")
        world.ballonet("modify", "slept", *rules)
        assert greeting(world, "slept") == "b'slept\\n'\n"
        ports, neighbours = world.inspect("slept")["ports"], world.guest("slept", "cat /proc/net/arp")
        supervisor = supervisor_of("slept")
        children = processes_of(supervisor)
        world.ballonet("pause", "slept")
        assert all(map(gone, (supervisor, *children)))

        world.ballonet("resume", "slept")
        assert supervisor_of("slept") != supervisor
        assert world.inspect("slept")["ports"] == ports
        assert greeting(world, "slept") == "b'slept\\n'\n"
        assert world.guest("slept", "wget -qO- http://allowed.test/") == f"{PUBLIC}\n"
        assert connect(world, "slept", "deep.below.test", 443) == f"{OTHER_PUBLIC}\n"
        for address, port in ((PUBLIC, 443), (PRIVATE[0], 80), (METADATA, 80), (HOST[0], 8080)):
            assert REFUSED in connect(world, "slept", address, port), (address, port)
        world.guest("slept", "until [ -e /end ]; do sleep 0.1; done")
        assert world.guest("slept", "cat /proc/net/arp") == neighbours, "the gateway has the same address"
        assert "allow deep.below.test:443" in world.ballonet("net", "stats", "slept").stdout

        world.ballonet("pause", "slept")
        world.ballonet("modify", "slept", "--net-allow", f"{OTHER_PUBLIC}:80")
        world.ballonet("resume", "slept")
        assert connect(world, "slept", OTHER_PUBLIC, 80) == f"{OTHER_PUBLIC}\n"
        assert "wget: bad address" in world.guest("slept", "wget -qO- http://allowed.test/", check=False)
    finally:
        world.ballonet("rm", "--force", "slept")


def test_forks_and_copies_have_networks_and_rules_of_their_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    copies = ("fork-1", "fork-2", "copied")
    world.ballonet(
        "run", "-d", "--name", "origin", "--net-allow", "allowed.test:80", "-p", "0:9000", "--idle"
    )
    try:
        world.guest("origin", _GREETS)
        world.ballonet("fork", "-p", "0:9000", "origin", *copies[:2])
        world.ballonet("snapshot", "create", "origin", "moment")
        world.ballonet("run", "-d", "--from", "moment", "-p", "0:9000", "--name", copies[2])
        names = ("origin", *copies)
        assert [greeting(world, name) for name in names] == [f"b'{name}\\n'\n" for name in names]
        namespaces = {
            Path(f"/proc/{pid}/ns/net").readlink()
            for name in names
            for pid in processes_of(supervisor_of(name))
            if Path(f"/proc/{pid}/comm").read_text().strip() == "dnsmasq"
        }
        assert len(namespaces) == len(names)
        world.ballonet("modify", "fork-1", "--net-allow", f"{OTHER_PUBLIC}:80")
        for name in names:
            allowed = name != "fork-1"
            said = world.guest(name, "wget -qO- http://allowed.test/", check=False)
            assert (said == f"{PUBLIC}\n") == allowed, name
            assert (REFUSED in connect(world, name, OTHER_PUBLIC, 80)) == allowed, name
            assert REFUSED in connect(world, name, PRIVATE[0], 80)
    finally:
        for name in ("origin", *copies):
            world.ballonet("rm", "--force", name, check=False)


@pytest.mark.parametrize("part", ["its process", "its engine"])
def test_nothing_is_left_of_a_killed_sandbox(world: World, part: str) -> None:
    world.ballonet("run", "-d", "--name", "killed", "--net-allow", "allowed.test", "-p", "0:80", "--idle")
    supervisor = supervisor_of("killed")
    children = processes_of(supervisor)
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
    assert {"slirp4netns", "dnsmasq"} < names
    namespaces = {Path(f"/proc/{pid}/ns/net").readlink() for pid in children}
    engine = int(str(world.inspect("killed")["engine_pid"]))
    os.kill(supervisor if part == "its process" else engine, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not all(map(gone, (supervisor, *children))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left = subprocess.run(
        ["lsns", "-t", "net", "-n", "-o", "NS"], capture_output=True, text=True, check=True
    ).stdout
    own = Path(f"/proc/{world.host}/ns/net").readlink()
    for namespace in namespaces - {own}:
        assert str(namespace)[5:-1] not in left.split()
    world.ballonet("rm", "--force", "killed")


@pytest.mark.parametrize("part", ["slirp4netns", "dnsmasq"])
def test_the_death_of_a_part_closes_the_network_is_told_and_repaired(
    world: World, ruled: str, part: str
) -> None:
    supervisor = supervisor_of(ruled)
    (pid,) = (p for p in processes_of(supervisor) if Path(f"/proc/{p}/comm").read_text().strip() == part)
    os.kill(pid, signal.SIGKILL)
    log = state_dir_of(ruled) / "network.jsonl"
    deadline = time.monotonic() + 60
    while not (
        log.exists() and any('"failed"' in line and part in line for line in log.read_text().splitlines())
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert PRIVATE[0] not in connect(world, ruled, PRIVATE[0], 80).splitlines()
    while world.guest(ruled, "wget -qO- http://allowed.test/", check=False) != f"{PUBLIC}\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert REFUSED in connect(world, ruled, PRIVATE[0], 80)


def test_the_log_has_what_was_refused_and_asked_for(world: World, ruled: str) -> None:
    connect(world, ruled, METADATA, 80)
    world.guest(ruled, "nslookup -type=a forbidden.test; nslookup -type=a allowed.test", check=False)
    lines = [json.loads(line) for line in world.ballonet("net", "log", ruled).stdout.splitlines()]
    facts = [{key: line[key] for key in line if key != "time"} for line in lines]
    assert {"event": "refused", "rule": "closed", "address": METADATA, "protocol": "tcp", "port": 80} in facts
    assert {"event": "name", "name": "forbidden.test", "type": "A", "forwarded": False} in facts
    assert {"event": "name", "name": "allowed.test", "type": "A", "forwarded": True} in facts


def test_what_a_network_has_counted_is_scraped(world: World, ruled: str) -> None:
    def scraped() -> dict[str, float]:
        lines = world.ballonet("metrics").stdout.splitlines()
        found = (line.rsplit(" ", 1) for line in lines if line.startswith("ballonet_sandbox_network_"))
        return {key.removeprefix("ballonet_sandbox_network_"): float(value) for key, value in found}

    before = scraped()
    world.guest(ruled, "wget -qO- http://allowed.test/")
    connect(world, ruled, METADATA, 80)
    world.guest(ruled, "nslookup -type=a forbidden.test", check=False)
    after = scraped()
    grown = {key: value - before[key] for key, value in after.items() if 'sandbox="ruled"' in key}
    assert grown.pop('sent_bytes_total{sandbox="ruled"}') > 200
    assert grown.pop('received_bytes_total{sandbox="ruled"}') > 200
    assert grown.pop('names_asked_total{sandbox="ruled"}') >= 2
    assert grown.pop('names_refused_total{sandbox="ruled"}') >= 1
    assert {key: value for key, value in grown.items() if value} == {
        'connections_allowed_total{rule="allowed.test:80",sandbox="ruled"}': 1,
        'connections_refused_total{rule="closed",sandbox="ruled"}': 1,
    }


def test_requests_about_one_network_take_turns(world: World, ruled: str) -> None:
    command = (*world.entering(), sys.executable, "-P", "-m", "ballonet", "net", "stats", "--json", ruled)
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = [json.loads(each.communicate(timeout=60)[0]) for each in asking]
    assert all("sent_bytes" in answer for answer in answers)


def test_the_counters_tell_how_often_each_rule_decided(world: World, ruled: str) -> None:
    def counters() -> dict[str, Any]:
        found = json.loads(world.ballonet("net", "stats", "--json", ruled).stdout)
        assert isinstance(found, dict)
        return found

    before = counters()
    connect(world, ruled, METADATA, 80)
    world.guest(ruled, "wget -qO- http://allowed.test/")
    after = counters()
    closed = next(reason for reason in before["refused"] if "cloud metadata" in reason)
    assert after["refused"][closed] == before["refused"][closed] + 1
    (rule,) = (number for number, of in enumerate(after["rules"]) if of["rule"] == "allowed.test:80")
    assert after["rules"][rule]["connections"] == before["rules"][rule]["connections"] + 1
    assert after["sent_bytes"] > before["sent_bytes"]
    assert "allow allowed.test:80" in world.ballonet("net", "stats", ruled).stdout
