"""Hardware virtualisation and cgroup version 2, in a machine that has both."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.control.client import Client
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.vm.test_balloon import held

Call = Callable[..., subprocess.CompletedProcess[str]]
#: Freed memory leaves the host within 4 s on hardware; here every second of the guest takes several.
_REPORTED_S = 60


def test_doctor_finds_kvm_and_a_memory_controller(ballonet: Call) -> None:
    done = ballonet("doctor", "--json")
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert found["accelerator"]["result"] == "ok"
    assert found["accelerator"]["detail"].startswith("KVM: /dev/kvm opens and the processor has ")
    assert found["hard cap"]["detail"].startswith("cgroup v2 at ")


@pytest.mark.parametrize("machine", ["microvm", "q35"])
def test_a_guest_boots_with_kvm(ballonet: Call, machine: str) -> None:
    script = "dmesg | grep 'Hypervisor detected'"
    done = ballonet("run", "--accel", "kvm", "--machine", machine, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Hypervisor detected: KVM")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(run_directory: Path) -> AsyncIterator[Sandbox]:
    config = SandboxConfig(name="box", memory_mib=512, free_page_reporting=True, balloon_min_mib=256)
    async with await Sandbox.create(config) as running:
        yield running


async def test_the_choice_by_itself_is_kvm(box: Sandbox) -> None:
    command = Path(f"/proc/{box.engine_pid}/cmdline").read_text().split("\0")
    assert command[command.index("-accel") + 1] == "kvm"
    assert command[command.index("-cpu") + 1] == "host"


async def test_freed_memory_leaves_the_host_by_free_page_reporting(box: Sandbox) -> None:
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as client:
        await box.shell("dd if=/dev/zero of=/dev/shm/f bs=1M count=200 2>/dev/null")
        before, _ = await held(client)
        assert before > 200
        await box.shell("rm /dev/shm/f")
        ends = time.monotonic() + _REPORTED_S
        while (after := (await held(client))[0]) > before - 150:
            assert time.monotonic() < ends, f"guest RAM on the host went from {before} to {after} MiB only"
            await asyncio.sleep(0.5)


async def test_a_disk_keeps_what_was_written_over_a_restart(ballonet: Call, run_directory: Path) -> None:
    assert ballonet("create", "--name", "disk", "--disk", "256M").returncode == 0
    try:
        for script in ("echo kept > /disk/file; sync", "cat /disk/file"):
            box = await Sandbox.start("disk")
            done = await box.shell(script)
            assert done.returncode == 0, done.stderr
            await box.stop()
            await box.close()
        assert done.stdout == b"kept\n"
    finally:
        await Sandbox.remove("disk", force=True)
