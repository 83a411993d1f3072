"""What a cluster costs: creates and commands through it against the same on its host, and placements per second.

``python -m bench.cluster`` starts a cluster of one host on loopback in directories of its own.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from ballonet.base.paths import data_dir
from ballonet.cluster.bounds import Bounds
from ballonet.cluster.client import Cluster
from ballonet.cluster.directory import Directory
from ballonet.cluster.offer import HostOffer
from ballonet.cluster.request import Request
from ballonet.sdk.sync import Sandbox
from bench.common import BALLONET

EXECS, CREATES, HOSTS, PLACED = 100, 5, 1000, 3000


def main() -> None:
    print(f"placements in a directory of {HOSTS} hosts: {placements():.0f} a second of processor time")
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
