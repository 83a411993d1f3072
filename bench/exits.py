"""VM exits under KVM: how often a guest's processor has to leave the guest for the host, at its start and later.

An exit costs a microsecond or more on hardware, whatever the clock says here: the counts mean the same on a processor
whose virtualisation is emulated, where times mean little. They are the kernel's own (debugfs, as root), with the most
frequent reasons. A guest is counted from its engine's start until its first command has ended, then per command, per
change of the balloon by 256 MiB, and per second of idleness, without an autopilot and with one.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ballonet.guest.agent_client import AgentClient
from ballonet.guest.bundle import prepare_guest
from ballonet.guest.frames import Frame, FrameDecoder, FrameType
from ballonet.guest.messages import Exec
from ballonet.guest.restored import renew_guest
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Balloon, Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import BALLONET, Arms, BareEngine, options_parser, private_directories, report
from bench.start import save, start_saved

KVM = Path("/sys/kernel/debug/kvm")
#: Of the kernel's counters (arch/x86/kvm/x86.c), all exits, and the reasons that concern a design like this one: port
#: and device access, an idle processor, an interrupt of the host, and memory that the guest has to get first.
REASONS = ("io_exits", "mmio_exits", "halt_exits", "irq_exits", "pf_taken")
COMMANDS = 10
IDLE_S = 20.0
#: An emulated KVM boots a guest in half a minute, and more on a busy machine (seconds).
READY_S = 600.0

Counts = dict[str, int]


def counts(pid: int) -> Counts:
    """Of the guest of this engine.

    :raises SystemExit: KVM does not count here.
    """
    found = list(KVM.glob(f"{pid}-*"))
    if not found:
        raise SystemExit(f"{KVM} has no guest of process {pid}: this needs root, KVM, and debugfs mounted")
    return {
        name: sum(int((guest / name).read_text()) for guest in found if (guest / name).exists())
        for name in ("exits", *REASONS)
    }


class Results:
    """What was counted, by arm."""

    def __init__(self) -> None:
        self._of: dict[str, list[Counts]] = {}

    def add(
        self, arm: str, now: Mapping[str, int], before: Mapping[str, int] | None = None, by: float = 1
    ) -> None:
        """:param by: how many commands, or seconds, were counted together."""
        since = before or dict.fromkeys(now, 0)
        self._of.setdefault(arm, []).append({name: round((now[name] - since[name]) / by) for name in now})

    @contextmanager
    def counted(self, arm: str, pid: int, by: float = 1) -> Iterator[None]:
        before = counts(pid)
        yield
        self.add(arm, counts(pid), before, by)

    def show(self, name: str, *, base: str, note: str) -> None:
        arms: Arms = {arm: [float(each["exits"]) for each in found] for arm, found in self._of.items()}
        report(name, arms, unit="exits", base=base, note=note)
        for arm, found in self._of.items():
            reasons = (
                f"{reason} {statistics.median(each[reason] for each in found):g}" for reason in REASONS
            )
            print(f"  {arm:<34} {', '.join(reasons)}")


def bare() -> Counts:
    """Boot with bare QEMU to the end of the first command."""
    engine = BareEngine(build_vm(SandboxConfig(name="bare")))
    decoder = FrameDecoder()
    command = Exec(argv=["true"], env={"PATH": "/bin"}).encode()
    try:
        while True:
            for frame in decoder.feed(engine.agent.recv(65536)):
                if frame.kind is FrameType.READY:
                    engine.agent.sendall(Frame(FrameType.EXEC, 1, command).encode())
                elif frame.kind is FrameType.EXIT:
                    return counts(engine.pid)
    finally:
        engine.kill()


async def started(state: Path | None) -> Counts:
    """Boot or restore ballonet's guest, to the end of the first command."""
    vm = build_vm(SandboxConfig(name="started"))
    if state is None:
        await vm.start()
        channel = vm.take_agent_channel()
    else:
        await start_saved(vm, state)
        channel = vm.take_agent_channel()
        await renew_guest(channel, READY_S)
    agent = AgentClient(channel)
    try:
        await agent.wait_ready(READY_S)
        async with await agent.exec(["true"]) as process:
            await process.wait()
        return counts(vm.pid)
    finally:
        await vm.kill()
        await agent.close()


async def used(results: Results, rounds: int) -> None:
    """A sandbox that runs commands, gives memory back, gets it again, and is idle."""
    async with await Sandbox.create("used", memory="512M", balloon=Balloon(min="128M")) as box:
        await box.exec(["true"])
        for _ in range(rounds):
            with results.counted("a command", box.engine_pid, COMMANDS):
                for _ in range(COMMANDS):
                    await box.exec(["true"])
            for arm, target in (("balloon: 256 MiB less", 256), ("balloon: 256 MiB more", 512)):
                with results.counted(arm, box.engine_pid):
                    await box.balloon.set(target, wait=True)
            with results.counted("a second idle", box.engine_pid, IDLE_S):
                await asyncio.sleep(IDLE_S)
        with subprocess.Popen(
            [*BALLONET, "pilot"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as pilot:
            try:
                await asyncio.sleep(IDLE_S)
                for _ in range(rounds):
                    with results.counted("a second idle, with the autopilot", box.engine_pid, IDLE_S):
                        await asyncio.sleep(IDLE_S)
            finally:
                pilot.terminate()


def main() -> None:
    rounds = options_parser(__doc__, rounds=3).parse_args().rounds
    prepare_guest()
    at_start, in_use = Results(), Results()
    with private_directories("exits"), tempfile.TemporaryDirectory() as directory:
        state = Path(directory, "one.state")
        asyncio.run(save(state))
        for _ in range(rounds):
            at_start.add("bare QEMU", bare())
            at_start.add("booted", asyncio.run(started(None)))
            at_start.add("from a template", asyncio.run(started(state)))
        asyncio.run(used(in_use, rounds))
    at_start.show("exits-start", base="bare QEMU", note="to the end of the first command")
    in_use.show("exits-use", base="a command", note="in a sandbox of 512 MiB that runs")


if __name__ == "__main__":
    main()
