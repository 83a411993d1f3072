"""A guest's network: throughput and latency to a service of the host, the start, and the memory of what runs beside.

The arms are QEMU's own network (slirp in the engine, with the host's network), and ``--net user`` with no rule, 10 and
1,000. The service listens on the host's loopback, which the rules of ``--net-allow-host`` open at the same address. It
takes the times: the guest runs only ``dd``, ``nc`` and ``cat``. Needs root.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ballonet.base.process import find_program
from ballonet.host.proc import PROC
from ballonet.sdk.sync import Sandbox
from bench.common import Arms, options_parser, private_directories, report, run_ballonet, seconds

GATEWAY = "10.0.2.2"
#: What one transfer moves.
BYTES = 48 << 20
ROUND_TRIPS = 300

#: An engine that has QEMU's own network instead of the link that ballonet gives it.
_SLIRP = r"""#!{python}
import os, re, sys
words = [re.sub(r"^tap,id=net0,fd=\d+$", "user,id=net0,ipv6=off", word) for word in sys.argv[1:]]
os.execv("{qemu}", ["{qemu}", *words])
"""
#: Read by the sandbox's process at its start: its engine keeps the host's network, and may make sockets.
_KEEP_NETWORK = """
import ballonet.host.netns, ballonet.host.system_calls
ballonet.host.netns.empty_network = lambda: lambda: None
ballonet.host.system_calls.SOCKETS = {}
"""


class Service:
    """One connection at a time, handled as the next call says."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]

    def timed(self, work: Callable[[socket.socket], float], run: Callable[[], object]) -> float:
        """What ``work`` says about the connection that ``run`` makes."""
        found: list[float] = []

        def serve() -> None:
            connection, _ = self._server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                found.append(work(connection))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        run()
        thread.join(120)
        return found[0]


def receive(connection: socket.socket) -> float:
    """MB/s."""
    started, total = time.perf_counter(), 0
    while piece := connection.recv(1 << 20):
        total += len(piece)
    assert total == BYTES
    return total / 1e6 / (time.perf_counter() - started)


def send(connection: socket.socket) -> float:
    """MB/s, until the guest has received all and ends."""
    started = time.perf_counter()
    connection.sendall(bytes(BYTES))
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1 << 16):
        pass
    return BYTES / 1e6 / (time.perf_counter() - started)


def echo(connection: socket.socket) -> float:
    """Median of the round trips (milliseconds)."""
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        connection.sendall(b"x")
        assert connection.recv(16) == b"x"
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def rules(count: int) -> list[str]:
    return [f"10.{number // 256}.{number % 256}.0/24:443" for number in range(count)]


def beside_kib(sandbox: Sandbox) -> int:
    """PSS of the processes beside the engine that the sandbox's process has started (KiB)."""
    engine = sandbox.engine_pid
    parent = (PROC / f"{engine}/stat").read_text().rpartition(")")[2].split()[1]
    children = (PROC / f"{parent}/task/{parent}/children").read_text().split()
    others = [pid for pid in children if int(pid) != engine]
    lines = [line for pid in others for line in (PROC / pid / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    options = options_parser(__doc__, rounds=5).parse_args()
    if os.geteuid() != 0:
        sys.exit("bench.net needs root: its first arm gives the engine the host's network")
    service = Service()
    up: Arms = {}
    down: Arms = {}
    latency: Arms = {}
    starts: Arms = {"without a network": [], "with --net user": [], "with 10 rules": []}
    with private_directories("net"), tempfile.TemporaryDirectory() as directory:
        qemu = find_program("qemu-system-x86_64", hint="install QEMU")
        wrapper = Path(directory, "qemu-system-x86_64")
        wrapper.write_text(_SLIRP.format(python=sys.executable, qemu=qemu))
        wrapper.chmod(0o755)
        Path(directory, "sitecustomize.py").write_text(_KEEP_NETWORK)
        path = os.environ.get("PYTHONPATH", "")
        host = [f"{service.port}"]
        boxes = {}
        os.environ |= {"BALLONET_QEMU": str(wrapper), "PYTHONPATH": f"{directory}:{path}"}
        boxes["QEMU's own"] = Sandbox.create("slirp", net="user")
        del os.environ["BALLONET_QEMU"]
        os.environ["PYTHONPATH"] = path
        for name, count in (("no rule", 0), ("10 rules", 10), ("1,000 rules", 1000)):
            boxes[name] = Sandbox.create(f"rules{count}", net_allow_host=host, net_allow=rules(count))
        try:
            for _ in range(options.rounds):
                for arm, box in boxes.items():
                    where = f"{GATEWAY} {service.port}"
                    count = BYTES >> 16
                    for arms, work, script in (
                        (up, receive, f"dd if=/dev/zero bs=65536 count={count} 2>/dev/null | nc {where}"),
                        (down, send, f"nc {where} > /dev/null < /dev/null"),
                        (latency, echo, f"nc {where} -e cat"),
                    ):
                        value = service.timed(work, lambda box=box, script=script: box.shell(script))  # type: ignore[misc]
                        arms.setdefault(arm, []).append(value)
            memory = {arm: [beside_kib(box) / 1024] for arm, box in boxes.items()}
        finally:
            for box in boxes.values():
                box.close()
        ten = [word for rule in rules(10) for word in ("--net-allow", rule)]
        words = dict(zip(starts, ([], ["--net", "user"], ten), strict=True))
        for of in words.values():
            run_ballonet("run", *of, "--", "true")  # makes the template
        for _ in range(options.rounds):
            for arm, of in words.items():
                starts[arm].append(seconds(run_ballonet, "run", *of, "--", "true") * 1000)
    base = "QEMU's own"
    report("net-up", up, unit="MB/s", base=base, note="guest to host; more is better")
    report("net-down", down, unit="MB/s", base=base, note="host to guest; more is better")
    report("net-latency", latency, unit="ms", base=base, note="one byte there and back over TCP")
    report("net-memory", memory, unit="MiB", base="no rule", note="PSS of the processes beside the engine")
    report(
        "net-start", starts, unit="ms", base="without a network", note="ballonet run … true, from a template"
    )


if __name__ == "__main__":
    main()
