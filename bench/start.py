"""Start of a sandbox to the exit of its first command, booted and from a template, compared with bare QEMU.

All arms are timed from outside, alternately. The engine's own part of a restore, and what it costs this side in
processor time, is measured in an arm without the command line: the VM is restored and runs a command in this process.
The last report has the host memory of idle sandboxes.
"""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import time
from pathlib import Path

from ballonet.guest.agent_client import AgentClient
from ballonet.guest.bundle import prepare_guest
from ballonet.guest.restored import renew_guest
from ballonet.host.proc import read_resident
from ballonet.machine.build import build_vm
from ballonet.sdk.sync import Sandbox
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.engine import Vm
from ballonet.vmm.saved_state import PendingState, SavedState
from bench.boot import bare
from bench.common import Arms, options_parser, private_directories, report, run_ballonet, seconds

#: How long a sandbox is idle before its memory is read (seconds): its guest reports freed pages meanwhile.
IDLE_S = 6.0


def children_cpu_s() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def save(path: Path) -> tuple[float, int]:
    """Boot a guest and save it when its agent is ready; seconds that it was stopped, and the size in bytes."""
    vm = build_vm(SandboxConfig(name="saved"))
    await vm.start()
    agent = AgentClient(vm.take_agent_channel())
    try:
        await agent.wait_ready(600)
        pending = PendingState.claim(path)
        assert pending is not None
        stopped_s = await vm.save(pending.file, key_of(vm), quiet=True)
        pending.commit()
    finally:
        await vm.kill()
        await agent.close()
    return stopped_s, path.stat().st_size


def key_of(vm: Vm) -> str:
    key = vm.engine.state_key(vm.spec)
    assert key is not None
    return key


async def start_saved(vm: Vm, path: Path) -> None:
    """Let the guest run that was saved in this file."""
    with SavedState.open(path, key_of(vm)) as state:
        vm.launch(state=state)
        await vm.start()


async def restore(path: Path) -> tuple[float, float]:
    """Seconds from the start of the engine until the guest runs, and until its first command has ended."""
    vm = build_vm(SandboxConfig(name="restored"))
    began = time.perf_counter()
    await start_saved(vm, path)
    runs_s = time.perf_counter() - began
    channel = vm.take_agent_channel()
    await renew_guest(channel, 60)
    agent = AgentClient(channel)
    try:
        await agent.wait_ready(60)
        async with await agent.exec(["true"]) as process:
            await process.wait()
        return runs_s, time.perf_counter() - began
    finally:
        await vm.kill()
        await agent.close()


def idle_memory(name: str, *, cold: bool) -> tuple[float, float]:
    """MiB that the host holds for an idle sandbox: guest RAM, and the engine's own."""
    words = ["run", "-d", "--idle", "--name", name] + ["--cold"] * cold
    run_ballonet(*words)
    try:
        time.sleep(IDLE_S)
        resident = read_resident(Sandbox.get(name).engine_pid)
        assert resident is not None
        return float(resident.guest_ram_mib), float(resident.engine_mib)
    finally:
        run_ballonet("rm", "-f", name)


def main() -> None:
    rounds = options_parser(__doc__, rounds=9).parse_args().rounds
    prepare_guest()
    wall: Arms = {"bare QEMU": [], "run --cold": [], "run, from a template": []}
    wall |= {"engine restored: first command": [], "engine restored: running": []}
    cpu: Arms = {"bare QEMU": [], "run --cold": [], "run, from a template": []}
    cpu |= {"engine restored: engine": [], "engine restored: own": []}
    memory: Arms = {f"{part}, {how}": [] for how in ("booted", "restored") for part in ("guest", "engine")}
    stops: list[float] = []
    with private_directories("start"), tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        run_ballonet("prune", "--templates")
        run_ballonet("run", "--", "true")  # makes the template
        path = Path(directory, "one.state")
        for number in range(rounds):
            stopped_s, size = asyncio.run(save(path))
            stops.append(stopped_s * 1000)
            for arm, words in (("run --cold", ["--cold"]), ("run, from a template", [])):
                before = children_cpu_s()
                wall[arm].append(seconds(run_ballonet, "run", *words, "--", "true"))
                cpu[arm].append(children_cpu_s() - before)
            before = children_cpu_s()
            wall["bare QEMU"].append(bare())
            cpu["bare QEMU"].append(children_cpu_s() - before)
            before, own_before = children_cpu_s(), time.process_time()
            runs_s, done_s = asyncio.run(restore(path))
            wall["engine restored: running"].append(runs_s)
            wall["engine restored: first command"].append(done_s)
            cpu["engine restored: own"].append(time.process_time() - own_before)
            cpu["engine restored: engine"].append(children_cpu_s() - before)
            if number < 3:
                for how in ("booted", "restored"):
                    guest, engine = idle_memory(f"idle-{how}", cold=how == "booted")
                    memory[f"guest, {how}"].append(guest)
                    memory[f"engine, {how}"].append(engine)
    report("start", wall, unit="s", base="bare QEMU", note="to the exit of the first command")
    report("start-cpu", cpu, unit="s", base="bare QEMU", note="processor time, with the engine's")
    report(
        "start-stop", {"stopped to save": stops}, unit="ms", base="stopped to save", note=f"{size >> 20} MiB"
    )
    report("start-memory", memory, unit="MiB", base="guest, booted", note="host memory of an idle sandbox")


if __name__ == "__main__":
    main()
