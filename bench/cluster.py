"""What a cluster costs: creates and commands through it against the same on its host, and placements per second.

``python -m bench.cluster`` starts a cluster of one host on loopback in directories of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from ballonet.base.paths import data_dir
from ballonet.cluster.answers import Answer
from ballonet.cluster.bounds import Bounds
from ballonet.cluster.client import Cluster
from ballonet.cluster.directory import Directory
from ballonet.cluster.directory_service import DirectoryService
from ballonet.cluster.host_report import Grant, HostReport
from ballonet.cluster.ledger import Ledger, Order
from ballonet.cluster.offer import HostOffer
from ballonet.cluster.request import Request
from ballonet.sdk.sync import Sandbox
from ballonet.version import __version__
from bench.common import BALLONET

EXECS, CREATES, HOSTS, PLACED = 100, 5, 1000, 3000


def main() -> None:
    print(f"placements in a directory of {HOSTS} hosts: {placements():.0f} a second of processor time")
    with tempfile.TemporaryDirectory(prefix="ballonet-bench-") as directory:
        rate, processor = asyncio.run(creates(Path(directory)))
        print(
            f"creates through it with its ledger: {rate:.0f} a second, {processor:.0f} a second of processor time"
        )
    with tempfile.TemporaryDirectory(prefix="ballonet-bench-") as directory:
        os.environ["XDG_DATA_HOME"] = str(data_dir().parent)
        os.environ["XDG_STATE_HOME"] = f"{directory}/state"
        os.environ["BALLONET_RUN_DIR"] = f"{directory}/run"
        Path(directory, "run").mkdir(mode=0o700)
        up = subprocess.Popen(
            [*BALLONET, "cluster", "up", "--port", "16380", "--name", "bench"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert up.stdout is not None
            if not up.stdout.readline():
                raise SystemExit("the cluster did not start")
            with Cluster("auto") as cluster:
                measure(cluster)
        finally:
            up.terminate()
            up.wait()


def placements() -> float:
    directory = Directory(Bounds())
    for at in range(HOSTS):
        directory.update(HostOffer(f"h{at}", 0.0, 65_536, 3276, 65_536, 0, 0, 0, 0, 0))
    began = time.process_time()
    for at in range(PLACED):
        request = Request(f"box-{at}", 2048, 512, 2048, expected_mib=300, deviation_mib=200)
        host = directory.choose(request, 0.0).fits[0].host
        directory.reserve(request, host)
        directory.settle(request.name, host, 0.0, created=True)
    return PLACED / (time.process_time() - began)


class SimulatedHosts:
    """Hosts that create at once."""

    def __init__(self) -> None:
        self.orders: dict[str, dict[str, Order]] = {f"h{at}": {} for at in range(HOSTS)}

    async def names(self) -> list[str]:
        return list(self.orders)

    async def report(self, host: str, grant: Grant) -> Answer:
        offer = HostOffer(host, 0.0, 65_536, 3276, 65_536, 0, 0, 0, 0, 0, version=__version__)
        return Answer(
            HostReport(offer, dict.fromkeys(self.orders[host], "running"), 1.0, dict(self.orders[host]))
        )

    async def create(self, host: str, order: Order, permit_s: float | None) -> Answer:
        self.orders[host][order.name] = order
        return Answer(order.name)

    async def remove(self, host: str, name: str, force: bool) -> Answer:
        return Answer(name)

    async def fork(self, host: str, name: str, orders: Sequence[Order], permit_s: float | None) -> Answer:
        return Answer(name)

    async def pack_up(self, host: str, name: str) -> Answer:
        return Answer(name)

    async def take_over(self, host: str, order: Order, permit_s: float | None, source: str) -> Answer:
        return Answer(order.name)

    async def put_back(self, host: str, name: str) -> Answer:
        return Answer(name)


async def creates(directory: Path) -> tuple[float, float]:
    """Creates a second, by the clock and by processor time, through a directory with its ledger on disk."""
    service = DirectoryService(SimulatedHosts(), Ledger(directory / "ledger.db"))
    await service.refresh()
    orders = [
        Order(Request(f"box-{at}", 2048, 512, 2048, expected_mib=300, deviation_mib=200), {"memory": "2G"})
        for at in range(PLACED)
    ]
    began, processor = time.perf_counter(), time.process_time()
    for at in range(0, PLACED, 100):
        answers = await asyncio.gather(*(service.create(order) for order in orders[at : at + 100]))
        assert all(answer.code is None for answer in answers), answers[0]
    return PLACED / (time.perf_counter() - began), PLACED / (time.process_time() - processor)


def measure(cluster: Cluster) -> None:
    box = cluster.create("bench-exec", memory="256M")
    direct = Sandbox.get("bench-exec")
    through, on_host = [], []
    for _ in range(EXECS):
        on_host.append(timed(lambda: direct.exec(["true"])))
        through.append(timed(lambda: box.exec(["true"])))
    show("exec", on_host, through)
    direct.close()
    box.remove(force=True)
    through, on_host = [], []
    for _ in range(CREATES):
        on_host.append(timed(lambda: Sandbox.create("bench-direct", memory="256M", detached=True).close()))
        Sandbox.remove("bench-direct", force=True)
        through.append(timed(lambda: cluster.create("bench-cluster", memory="256M")))
        cluster.get("bench-cluster").remove(force=True)
    show("create", on_host, through)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def show(what: str, on_host: list[float], through: list[float]) -> None:
    more = median(through) - median(on_host)
    print(
        f"{what}: {median(on_host):.1f} ms on the host, {median(through):.1f} ms through the cluster "
        f"({more:+.1f} ms), medians of {len(through)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
