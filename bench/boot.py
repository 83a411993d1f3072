"""Cold start to the first command's exit: ``ballonet run -- true`` against bare QEMU.

The bare arm boots the same kernel, initramfs and devices with the same engine options, speaks just enough of the
agent's frames to run one command, and kills QEMU. Both arms are timed from outside, in turn.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time

from ballonet.guest.bundle import prepare_guest
from ballonet.guest.frames import Frame, FrameDecoder, FrameType
from ballonet.guest.messages import Exec
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.qemu.command_line import EngineFds, render_command
from ballonet.vmm.qemu.vm import QemuVm
from bench.result import state


def bare() -> float:
    """Seconds from starting QEMU to its end, with one command run in between."""
    vm = build_vm(SandboxConfig(name="bare"))
    assert isinstance(vm, QemuVm)
    started = time.perf_counter()
    agent, agent_far = socket.socketpair()
    unused = [socket.socketpair() for _ in range(2)]
    fds = EngineFds(unused[0][1].fileno(), agent_far.fileno(), unused[1][1].fileno())
    argv = [word for word in render_command(vm.spec, vm.engine, fds) if word != "-S"]
    engine = subprocess.Popen(argv, pass_fds=[fds.qmp, fds.agent, fds.console], stdin=subprocess.DEVNULL)
    agent_far.close()
    decoder = FrameDecoder()
    command = Exec(argv=["true"], env={"PATH": "/bin"}).encode()
    done = False
    while not done:
        for frame in decoder.feed(agent.recv(65536)):
            if frame.kind is FrameType.READY:
                agent.sendall(Frame(FrameType.EXEC, 1, command).encode())
            done = done or frame.kind is FrameType.EXIT
    engine.kill()
    engine.wait()
    for pair in unused:
        pair[0].close()
        pair[1].close()
    return time.perf_counter() - started


def ours() -> float:
    """Seconds that the whole command takes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-m", "ballonet", "run", "--", "true"], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    prepare_guest()
    arms: dict[str, list[float]] = {"bare QEMU": [], "ballonet run -- true": []}
    for _ in range(rounds):
        arms["bare QEMU"].append(bare())
        arms["ballonet run -- true"].append(ours())
    state("boot", arms, unit="s", base="bare QEMU", note="cold start to first command's exit")


if __name__ == "__main__":
    main()
