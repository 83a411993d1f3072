"""Cold start to the exit of the first command: ``ballonet run --cold -- true`` compared with bare QEMU.

The bare arm boots the same kernel, initramfs and devices with the same engine options, implements just enough of the
agent's protocol to run one command, and kills QEMU. Both arms are timed from outside, alternately.
"""

from __future__ import annotations

import time

from ballonet.guest.bundle import prepare_guest
from ballonet.guest.frames import Frame, FrameDecoder, FrameType
from ballonet.guest.messages import Exec
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from bench.common import Arms, BareEngine, options_parser, report, run_ballonet, seconds


def bare() -> float:
    """Seconds from the start of QEMU to its end, including one command."""
    vm = build_vm(SandboxConfig(name="bare"))
    started = time.perf_counter()
    engine = BareEngine(vm)
    decoder = FrameDecoder()
    command = Exec(argv=["true"], env={"PATH": "/bin"}).encode()
    done = False
    while not done:
        for frame in decoder.feed(engine.agent.recv(65536)):
            if frame.kind is FrameType.READY:
                engine.agent.sendall(Frame(FrameType.EXEC, 1, command).encode())
            done = done or frame.kind is FrameType.EXIT
    engine.kill()
    return time.perf_counter() - started


def main() -> None:
    rounds = options_parser(__doc__, rounds=15).parse_args().rounds
    prepare_guest()
    arms: Arms = {"bare QEMU": [], "ballonet run --cold -- true": []}
    for _ in range(rounds):
        arms["bare QEMU"].append(bare())
        arms["ballonet run --cold -- true"].append(seconds(run_ballonet, "run", "--cold", "--", "true"))
    report("boot", arms, unit="s", base="bare QEMU", note="cold start to exit of the first command")


if __name__ == "__main__":
    main()
