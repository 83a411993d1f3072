"""Figures of real sandboxes against independent readings, and through a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.memory import KIB, MIB
from ballonet.control.client import Client
from ballonet.guest.bundle import GuestBundle
from ballonet.lifecycle.samples import collect, history_path
from ballonet.metrics.figures import SANDBOX_FIGURES
from ballonet.metrics.history import read_history
from ballonet.metrics.model import TOTALS, SandboxSample
from ballonet.sdk.sandbox import Sandbox
from tests.monitoring import RULES, ask, dashboard_queries, documented_queries, prometheus_program
from tests.vm.processes import wait_until

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


def ballonet(*words: str) -> str:
    done = subprocess.run([*BALLONET, *words], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, (words, done)
    return done.stdout


def inspect(name: str) -> dict[str, Any]:
    (found,) = json.loads(ballonet("inspect", name))
    assert isinstance(found, dict)
    return found


def sample(name: str, **options: Any) -> SandboxSample:
    return next(one for one in collect(**options).sandboxes if one.name == name)


@pytest.fixture(scope="module")
def kept(guest: GuestBundle, run_directory: Path) -> Iterator[str]:
    """A detached sandbox of 512 MiB, floor 128."""
    ballonet("run", "-d", "--name", "kept", "--memory", "512M", "--balloon-min", "128M")
    yield "kept"
    ballonet("rm", "--force", "kept")


@pytest.fixture(scope="module")
def prometheus(kept: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that scrapes ``ballonet metrics`` every second, with our rules."""
    directory = tmp_path_factory.mktemp("prometheus")
    exporter = subprocess.Popen(
        [*BALLONET, "metrics", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    assert exporter.stdout is not None
    url = exporter.stdout.readline().split()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "ballonet", "static_configs": [{"targets": [url.split("/")[2]]}]},
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # YAML holds all of JSON
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                prometheus_program("prometheus"),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: is_up(f"http://{address}"), "Prometheus' first scrape")
        yield f"http://{address}"
    finally:
        for process in (server, exporter):
            process.terminate()
            process.wait()
        exporter.stdout.close()


def is_up(base: str) -> bool:
    try:
        return any(found["value"][1] == "1" for found in ask(base, "query", query="up")["result"])
    except OSError:
        return False


def first_after(base: str, moment: float, metric: str, name: str) -> float:
    """The value of the first scrape after ``moment``."""
    found: list[float] = []

    def scraped() -> bool:
        for series in ask(base, "query", query=f'{metric}{{sandbox="{name}"}}[5m]')["result"]:
            found.extend(float(value) for at, value in series["values"] if at >= moment)
        return bool(found)

    wait_until(scraped, f"a scrape of {metric}")
    return found[0]


def kib_lines(text: str) -> dict[str, int]:
    """``Name:  123 kB`` lines, in bytes."""
    words = [line.split() for line in text.splitlines()]
    return {line[0].rstrip(":"): int(line[1]) * KIB for line in words if len(line) == 3 and line[2] == "kB"}


def counts(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def ram_blocks(pid: int) -> int:
    """What the host holds of the guest's RAM: the blocks of the file that the engine has mapped, by stat(1)."""
    mapped = next(
        line.split()[0] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "/memfd:" in line
    )
    start, end = (int(address, 16) for address in mapped.split("-"))
    words = ["stat", "-L", "-c", "%b %B", f"/proc/{pid}/map_files/{start:x}-{end:x}"]
    count, size = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return int(count) * int(size)


def engine_own(pid: int) -> int:
    """The rest of the engine's memory, by its mappings (proc(5), smaps)."""
    lines = iter(Path(f"/proc/{pid}/smaps").read_text().splitlines())
    held, ram = 0, False
    for line in lines:
        if line.startswith("Rss:"):
            held += 0 if ram else int(line.split()[1]) * KIB
        elif "-" in line.split()[0]:
            ram = "/memfd:" in line
    return held


async def test_each_figure_agrees_with_an_independent_reading(sandbox: Sandbox, client: Client) -> None:
    """Read through other ways: the guest's own /proc and ``free``, the host's smaps, after a shrink and a growth.

    How much is in the balloon is the guest's own count of pages, not what QEMU says.
    """
    for target in (300, 900):
        reply = await client.set(target, wait=True, timeout_s=120, force=True)
        assert reply.state == "applied"
        snapshot = await asyncio.to_thread(collect, guest_age_s=0)
        told = next(one for one in snapshot.sandboxes if one.name == sandbox.name)
        assert told.unknown == {}
        assert (told.ceiling, told.floor, told.limit) == (1024 * MIB, 256 * MIB, 1024 * MIB)
        assert (told.requested, told.target, told.balloon_state) == (target * MIB, target * MIB, "applied")

        async def read(path: str) -> str:
            return (await sandbox.exec(["cat", path])).stdout.decode()

        vmstat = counts(await read("/proc/vmstat"))
        assert told.actual == 1024 * MIB - (vmstat["balloon_inflate"] - vmstat["balloon_deflate"]) * 4 * KIB
        meminfo = kib_lines(await read("/proc/meminfo"))
        free = (await sandbox.exec(["free", "-k"])).stdout.decode().splitlines()[1].split()
        for ours, theirs, apart in (
            (told.guest_total, meminfo["MemTotal"], 1),
            (told.guest_total, int(free[1]) * KIB, 1),
            (told.guest_free, meminfo["MemFree"], 16),
            (told.guest_available, meminfo["MemAvailable"], 16),
            (told.guest_available, int(free[6]) * KIB, 16),
            (told.guest_caches, meminfo["Cached"] + meminfo["Buffers"], 4),
            (told.guest_swap_total, meminfo["SwapTotal"], 1),
            (told.guest_swap_free, meminfo["SwapFree"], 1),
            (told.swap_in, vmstat["pswpin"] * 4 * KIB, 1),
            (told.swap_out, vmstat["pswpout"] * 4 * KIB, 1),
            (told.resident, engine_own(sandbox.engine_pid) + ram_blocks(sandbox.engine_pid), 16),
            (told.guest_ram, ram_blocks(sandbox.engine_pid), 16),
            (told.pss, kib_lines(Path(f"/proc/{sandbox.engine_pid}/smaps_rollup").read_text())["Pss"], None),
            (snapshot.host.total, kib_lines(Path("/proc/meminfo").read_text())["MemTotal"], 0),
        ):
            assert ours is not None
            # PSS may be half a minute old; that it is near is shown below.
            assert apart is None or abs(ours - theirs) <= apart * MIB, (ours, theirs)
        assert told.major_faults is not None
        assert 0 <= vmstat["pgmajfault"] - told.major_faults <= 100
        assert told.oom_kills == vmstat["oom_kill"]
        pressure = (await read("/proc/pressure/memory")).splitlines()
        for ours, line in zip((told.pressure_some_us, told.pressure_full_us), pressure, strict=True):
            assert ours is not None
            assert 0 <= int(line.rpartition("=")[2]) - ours <= 1_000_000
        assert told.guest_uptime_s is not None
        assert 0 <= float((await read("/proc/uptime")).split()[0]) - told.guest_uptime_s < 60
        assert told.overhead == (told.resident or 0) - (told.guest_ram or 0)
        assert told.pss_age_s is not None
        assert told.pss_age_s < 60


async def test_a_fresh_pss_agrees_with_the_kernels(sandbox: Sandbox) -> None:
    from ballonet.machine.engine_memory import EngineMemory

    told = EngineMemory(sandbox.engine_pid).figures()
    kernels = kib_lines(Path(f"/proc/{sandbox.engine_pid}/smaps_rollup").read_text())["Pss"]
    assert told.pss_mib is not None
    assert told.pss_age_s is not None
    assert abs(told.pss_mib * MIB - kernels) <= 16 * MIB


def test_they_are_served_and_written(sandbox: Sandbox, tmp_path: Path) -> None:
    ballonet("metrics", "--textfile", str(tmp_path / "x.prom"))
    line = f'ballonet_sandbox_memory_ceiling_bytes{{sandbox="{sandbox.name}"}} 1.073741824e+09'
    assert line in (tmp_path / "x.prom").read_text()
    assert line in ballonet("metrics")


def test_a_real_prometheus_has_each_size_by_its_next_scrape_and_after_a_restart(
    kept: str, prometheus: str
) -> None:
    def sizes(moment: float) -> list[int]:
        names = ("target", "actual", "limit", "ceiling")
        metrics = [f"ballonet_sandbox_memory_{name}_bytes" for name in names]
        return [int(first_after(prometheus, moment, metric, kept)) // MIB for metric in metrics]

    for target in (200, 512, 300):
        ballonet("balloon", "set", kept, str(target), "--wait", "--force")
        assert sizes(time.time()) == [target, target, 512, 512]
    ballonet("balloon", "limit", kept, "400M")
    assert sizes(time.time())[2] == 400
    reclaimed = "ballonet_sandbox_memory_reclaimed_bytes_total"
    before = first_after(prometheus, time.time(), reclaimed, kept)
    assert before > 0
    ballonet("restart", kept)
    assert sizes(time.time()) == [512, 512, 512, 512]
    assert first_after(prometheus, time.time(), reclaimed, kept) >= before
    for figure in SANDBOX_FIGURES:
        if figure.kind == "counter":
            backwards = ask(
                prometheus, "query", query=f'resets({figure.metric}_total{{sandbox="{kept}"}}[10m])'
            )
            assert [found["value"][1] for found in backwards["result"]] == ["0"], figure
    # A new exporter knows what the earlier run came to.
    line = next(
        line for line in ballonet("metrics").splitlines() if line.startswith(f'{reclaimed}{{sandbox="{kept}"')
    )
    assert float(line.split()[1]) >= before


def test_prometheus_accepts_every_query_of_the_dashboard_and_the_rules(prometheus: str) -> None:
    for query in [*dashboard_queries(), *documented_queries()]:
        ask(prometheus, "query", query=query)
    sizes = ask(prometheus, "query", query="ballonet_sandbox_memory_ceiling_bytes")["result"]
    assert {found["metric"]["sandbox"] for found in sizes} >= {"kept"}
    (group,) = ask(prometheus, "rules")["groups"]
    wait_until(
        lambda: all(rule["health"] == "ok" for rule in ask(prometheus, "rules")["groups"][0]["rules"]),
        "the rules' first evaluation",
    )
    assert len(group["rules"]) == 3
    types = ask(prometheus, "metadata")
    assert types["ballonet_sandbox_memory_reclaimed_bytes"][0]["type"] == "counter"
    assert types["ballonet_sandbox_memory_target_bytes"][0]["type"] == "gauge"


def test_an_idle_guest_is_not_asked_for_each_scrape(kept: str) -> None:
    asked = sample(kept, guest_age_s=0).guest_at
    assert asked is not None
    # An answer has its age when it is sent. On a busy host, it may arrive much later.
    while time.time() < asked + 5:
        time.sleep(0.1)
    for _ in range(3):
        again = sample(kept).guest_at
        assert again is not None
        assert again < asked + 5


def in_time(kept: str, during: Callable[[], None] = lambda: None, deadline_s: float = 2.0) -> SandboxSample:
    """A sample taken while something is wrong; it must end by itself, long before the server's own 30 s."""
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(sample, kept, deadline_s=deadline_s, guest_age_s=0)
        during()
        return taking.result(timeout=20)


def test_a_stuck_guest_a_stuck_process_a_death_and_a_stop_are_told(kept: str) -> None:
    facts = inspect(kept)
    os.kill(facts["engine_pid"], signal.SIGSTOP)
    try:
        told = in_time(kept)
        assert told.unknown == {"guest": "no answer within 2 s", "pss": "no answer within 2 s"}
        assert (told.state, told.target) == ("running", 512 * MIB)
        assert told.resident
        assert told.guest_available is None
    finally:
        os.kill(facts["engine_pid"], signal.SIGCONT)
    wait_until(lambda: sample(kept, guest_age_s=0).unknown == {}, "the guest's answer")

    before = sample(kept)
    os.kill(facts["pid"], signal.SIGSTOP)
    try:
        told = in_time(kept)
        assert told.unknown == dict.fromkeys(("balloon", "pss", "guest"), "no answer within 2 s")
        assert told.resident
        assert told.ceiling == 512 * MIB

        # What the stopped process has not accepted of the scrape before is still there.
        earlier = connections(facts["control_socket"])

        def die() -> None:
            wait_until(lambda: connections(facts["control_socket"]) > earlier, "the scrape's connection")
            os.kill(facts["pid"], signal.SIGKILL)

        told = in_time(kept, die, deadline_s=15)
    finally:
        os.kill(facts["pid"], signal.SIGKILL) if Path(f"/proc/{facts['pid']}").exists() else None
    assert "balloon" in told.unknown
    assert "closed the connection" in told.unknown["balloon"], told.unknown
    wait_until(lambda: sample(kept).state == "stopped", "the end")
    told = sample(kept)
    assert set(told.unknown.values()) == {"it is stopped"}
    assert told.resident is None
    assert [getattr(told, name) for name in TOTALS] == [
        pytest.approx(getattr(before, name), abs=64 * MIB) for name in TOTALS
    ]
    metrics = ballonet("metrics")
    assert f'ballonet_sandbox_state{{sandbox="{kept}",state="stopped"}} 1.0' in metrics
    assert f'{{figures="guest",reason="it is stopped",sandbox="{kept}"}} 1.0' in metrics


def connections(path: str) -> int:
    """How many clients' connections a socket has (state 02: being connected, or 03: connected)."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return sum(line[-1] == path and line[5] in ("02", "03") for line in lines)


def test_a_history_survives_kills_and_restarts_and_is_shown(kept: str, tmp_path: Path) -> None:
    """After the kill above: each earlier run's samples are there, and totals never went back."""
    ballonet("start", kept)
    wait_until(
        lambda: len({one.run_id for one in read_history(history_path(kept))}) == 3, "the third run's samples"
    )
    ballonet("balloon", "set", kept, "200M", "--wait", "--force")
    wait_until(lambda: read_history(history_path(kept))[-1].actual == 200 * MIB, "the sample of the shrink")
    samples = read_history(history_path(kept))
    assert {200 * MIB, 300 * MIB, 512 * MIB} <= {one.actual for one in samples}
    assert any(one.balloon_state == "converging" for one in samples)
    for name in TOTALS:
        values = [getattr(one, name) for one in samples]
        assert values == sorted(values)
    assert [one.at for one in samples] == sorted(one.at for one in samples)

    rows = json.loads(ballonet("history", kept, "--since", "1h", "--json"))
    assert len(rows) >= len(samples)
    assert rows[0]["run_id"] == samples[0].run_id
    lines = ballonet("history", kept, "--csv").splitlines()
    assert lines[0].startswith("at,name,state,run_id,guest_at")
    assert ballonet("history", kept).splitlines()[0].startswith("TIME (UTC)")
    ballonet("plot", kept, "--since", "1h", "-o", str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    carried = "<!-- carried forward from the last sample -->"
    ballonet("plot", kept, "--since", "1s", "-o", str(tmp_path / "a.svg"))
    assert carried in (tmp_path / "a.svg").read_text(), "nothing changes, but it lives"
    ballonet("stop", kept)
    ballonet("plot", kept, "-o", str(tmp_path / "a.svg"))
    assert carried not in (tmp_path / "a.svg").read_text()


def test_the_server_answers_scrapes_that_come_at_once(sandbox: Sandbox, prometheus: str) -> None:
    (target,) = ask(prometheus, "targets")["activeTargets"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: urllib.request.urlopen(target["scrapeUrl"], timeout=60).read(), range(4))
        )
    assert all(sandbox.name.encode() in answer for answer in answers)
