"""What benchmarks share: options, timing, private directories, a bare VM, and the report of the results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ballonet.vmm.engine import Vm
from ballonet.vmm.guest_ram import create_guest_ram
from ballonet.vmm.qemu.command_line import EngineFds, render_command
from ballonet.vmm.qemu.vm import QemuVm

RESULTS = Path(__file__).parent / "results"
#: The command line of this checkout.
BALLONET = (sys.executable, "-P", "-m", "ballonet")
#: A guest's file with the name of the clock that its kernel uses.
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

#: Measured values by arm.
Arms = dict[str, list[float]]


def options_parser(doc: str | None, *, rounds: int | None = None) -> argparse.ArgumentParser:
    """The parser of a benchmark, with ``--rounds`` if it has a default.

    :param doc: the module's docstring, printed by ``--help`` as it is.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    return parser


def run_ballonet(*words: str, env: Mapping[str, str] | None = None) -> None:
    """Run a ballonet command, without its output; it must succeed."""
    subprocess.run(
        [*BALLONET, *words], check=True, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def seconds(work: Callable[..., object], *args: object) -> float:
    """How long ``work`` takes (seconds)."""
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


@contextmanager
def timed(values: list[float], *, scale: float = 1.0) -> Iterator[None]:
    """Append how long the ``with`` block took, in seconds times ``scale``."""
    started = time.perf_counter()
    yield
    values.append((time.perf_counter() - started) * scale)


@contextmanager
def timed_with_cpu(wall_ms: list[float], cpu_ms: list[float]) -> Iterator[None]:
    """Append the wall time and this process's CPU time of the ``with`` block (milliseconds)."""
    started, started_cpu = time.perf_counter(), time.process_time()
    yield
    wall_ms.append((time.perf_counter() - started) * 1000)
    cpu_ms.append((time.process_time() - started_cpu) * 1000)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def private_directories(name: str) -> Iterator[None]:
    """Use a temporary registry and run directory, so that other sandboxes of the user are not involved."""
    with tempfile.TemporaryDirectory(prefix=f"ballonet-{name}-") as directory:
        os.environ["XDG_STATE_HOME"] = f"{directory}/state"
        os.environ["BALLONET_RUN_DIR"] = f"{directory}/run"
        yield


class BareEngine:
    """QEMU with the options that ballonet would use, but without anything around it; it starts to run at once."""

    def __init__(self, vm: Vm) -> None:
        assert isinstance(vm, QemuVm)
        self._pairs = [socket.socketpair() for _ in range(3)]
        self._ram = create_guest_ram(vm.spec.memory_mib)
        qmp, agent, console = (far.fileno() for _, far in self._pairs)
        fds = EngineFds(qmp=qmp, agent=agent, console=console, ram=self._ram)
        argv = [word for word in render_command(vm.spec, vm.engine, fds) if word != "-S"]
        self._process = subprocess.Popen(
            argv, pass_fds=[fds.qmp, fds.agent, fds.console, fds.ram], stdin=subprocess.DEVNULL
        )
        self.qmp, self.agent = self._pairs[0][0], self._pairs[1][0]
        self._pairs[1][1].close()  # so that the end of QEMU shows as the end of the agent's channel

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ram)
        for near, far in self._pairs:
            near.close()
            far.close()


def report(name: str, arms: Mapping[str, Sequence[float]], *, unit: str, base: str, note: str = "") -> None:
    """Print the median of each arm and its ratio to the arm ``base``; write all values to ``results/NAME.json``.

    :param arms: measured values by arm, taken alternately in this run.
    """
    medians = {arm: statistics.median(values) for arm, values in arms.items()}
    print(f"\n{name}{f' ({note})' if note else ''}")
    for arm, values in arms.items():
        low, high = min(values), max(values)
        print(
            f"  {arm:<34} {medians[arm]:9.3f} {unit}  (n={len(values)}, {low:.3f} … {high:.3f})"
            f"  {medians[arm] / medians[base]:6.3f} ×"
        )
    RESULTS.mkdir(exist_ok=True)
    document = {
        "name": name,
        "note": note,
        "unit": unit,
        "base": base,
        "medians": medians,
        "ratios": {arm: value / medians[base] for arm, value in medians.items()},
        "values": {arm: list(values) for arm, values in arms.items()},
        "host": {"kernel": platform.release(), "python": platform.python_version()},
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
