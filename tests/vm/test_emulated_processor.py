"""Faults of the emulated processor that would end guests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ballonet.base.paths import cache_dir
from ballonet.sdk.sandbox import Sandbox
from ballonet.vmm.qemu.command_line import CMPXCHG16B_FIXED
from ballonet.vmm.qemu.engine import Qemu

SOURCE = Path(__file__).with_name("cmpxchg16b.c")


async def test_the_kernel_leaves_an_instruction_alone_that_is_emulated_wrongly(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    program = tmp_path / "cmpxchg16b"
    flags = ["-O1", "-static", "-mno-red-zone"]
    subprocess.run(["cc", *flags, "-o", str(program), str(SOURCE)], check=True)
    await sandbox.fs.write("/tmp/cmpxchg16b", program.read_bytes(), mode=0o755)
    is_wrong = int((await sandbox.exec(["/tmp/cmpxchg16b"])).stdout) > 0
    await sandbox.exec(["rm", "/tmp/cmpxchg16b"])
    kernel_uses_it = b"cx16" in (await sandbox.exec(["cat", "/proc/cpuinfo"])).stdout.split()
    assert kernel_uses_it is not is_wrong
    emulated = b"mitigations=off" in (await sandbox.exec(["cat", "/proc/cmdline"])).stdout
    assert is_wrong is (emulated and Qemu.find(cache_dir()).version < CMPXCHG16B_FIXED)
