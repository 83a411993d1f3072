"""What it costs that a guest's kernel fills pages with zeros when it allocates them, as Debian's kernels do by default.

ballonet tells them not to (``init_on_alloc=0``). Both arms are fresh guests of 1 GiB, alternately: the engine's
processor time for a shrink to 256 MiB, the pages that the host provides meanwhile, a second shrink, and work in the
guest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ballonet.base.memory import mib_to_bytes
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.bundle import prepare_guest
from ballonet.host.proc import read_cpu_s
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import VmSpec
from ballonet.vmm.qemu import command_line
from ballonet.vmm.qemu.vm import QemuVm
from bench.common import Arms, options_parser, report

HIGH_MIB, LOW_MIB = 1024, 256
READY_S = 300.0
FILLED, OURS = "filled (the kernel's default)", "not filled"
WORK = {
    "300 commands": "i=0; while [ $i -lt 300 ]; do /bin/busybox true; i=$((i + 1)); done",
    "a file of 150 MiB": "dd if=/dev/zero of=/tmp/file bs=1M count=150 2>/dev/null && rm /tmp/file",
}


@contextmanager
def parameters_of(arm: str) -> Iterator[None]:
    ours = command_line.kernel_command_line

    def filled(spec: VmSpec, version: tuple[int, ...]) -> str:
        return ours(spec, version).replace(" init_on_alloc=0", "")

    command_line.kernel_command_line = filled if arm == FILLED else ours
    try:
        yield
    finally:
        command_line.kernel_command_line = ours


def used_s(vm: QemuVm) -> float:
    """Processor time of the engine."""
    used = read_cpu_s(vm.pid)
    assert used is not None
    return used


def provided_mib(vm: QemuVm) -> float:
    """Memory that the kernel has provided for the engine: its minor page faults (proc(5))."""
    fields = Path(f"/proc/{vm.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) * 4096 / mib_to_bytes(1)


async def resize(vm: QemuVm, target_mib: int) -> float:
    """Processor time until ``query-balloon`` shows the target (seconds)."""
    before, wanted = used_s(vm), mib_to_bytes(target_mib)
    await vm.qmp.execute("balloon", value=wanted)
    while (await vm.qmp.execute("query-balloon"))["actual"] != wanted:
        await asyncio.sleep(0.02)
    return used_s(vm) - before


async def measure(arm: str, cpu: dict[str, Arms], provided: Arms) -> None:
    with parameters_of(arm):
        vm = build_vm(SandboxConfig(name="filled", memory_mib=HIGH_MIB, balloon_min_mib=LOW_MIB))
        assert isinstance(vm, QemuVm)
        await vm.start()
    agent = AgentClient(vm.take_agent_channel())
    try:
        await agent.wait_ready(READY_S)
        assert vm.balloon is not None
        await vm.balloon.check_driver()
        await vm.balloon.stop()
        before = provided_mib(vm)
        cpu["shrink"][arm].append(await resize(vm, LOW_MIB))
        provided[arm].append(provided_mib(vm) - before)
        await resize(vm, HIGH_MIB)
        cpu["shrink again"][arm].append(await resize(vm, LOW_MIB))
        await resize(vm, HIGH_MIB)
        for name, script in WORK.items():
            started = used_s(vm)
            async with await agent.exec(["sh", "-c", script]) as process:
                await process.wait()
            cpu[name][arm].append(used_s(vm) - started)
    finally:
        await vm.kill()
        await agent.close()


def main() -> None:
    rounds = options_parser(__doc__, rounds=5).parse_args().rounds
    prepare_guest()
    arms = (FILLED, OURS)
    cpu: dict[str, Arms] = {what: {arm: [] for arm in arms} for what in ("shrink", "shrink again", *WORK)}
    provided: Arms = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in arms if number % 2 else reversed(arms):
            asyncio.run(measure(arm, cpu, provided))
    for what, found in cpu.items():
        report(
            f"filled-{what.replace(' ', '-')}",
            found,
            unit="s",
            base=FILLED,
            note="processor time of the engine",
        )
    report(
        "filled-provided",
        provided,
        unit="MiB",
        base=FILLED,
        note="memory that the host provides for the first shrink",
    )


if __name__ == "__main__":
    main()
