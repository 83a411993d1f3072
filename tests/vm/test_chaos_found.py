"""What chaos has found, as small as it could be made."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.control.client import Client
from ballonet.sdk.sandbox import Balloon, Sandbox

CLI = (sys.executable, "-P", "-m", "ballonet")


@pytest.fixture
def small_state(run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory on a file system of 64 MiB of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64M,mode=0700", "small", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


async def test_a_sandbox_whose_disk_met_a_full_host_starts_again(guest: object, small_state: Path) -> None:
    box = await Sandbox.create("full", memory=128, disk=64, detached=True)
    filler = small_state / "filler"
    try:
        await box.exec(["true"])  # connected: with a full disk even the registry cannot be read
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        await box.shell("dd if=/dev/zero of=/disk/x bs=1M count=40; sync; ls /disk")
        filler.unlink()
        await box.stop()
        await (await Sandbox.start("full")).close()
    finally:
        filler.unlink(missing_ok=True)
        await box.close()
        await Sandbox.remove("full", force=True)


def test_with_a_full_state_directory_sandboxes_can_be_removed_to_make_room(small_state: Path) -> None:
    def cli(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*CLI, *words], capture_output=True, text=True, check=False)

    assert cli("create", "--name", "old").returncode == 0
    filler = small_state / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    listed, removed = cli("ls", "-q"), cli("rm", "old")
    filler.unlink()
    assert (listed.returncode, listed.stdout) == (0, "old\n"), listed.stderr
    assert removed.returncode == 0, removed.stderr


async def test_a_set_that_another_has_replaced_does_not_say_that_it_was_applied(run_directory: Path) -> None:
    async with await Sandbox.create("two", memory=160, balloon=Balloon(min=80, pressure_relief=False)) as box:
        assert box.control_socket is not None
        words = ("balloon", "set", str(box.control_socket), "80M", "--wait", "--force")
        waiting = await asyncio.create_subprocess_exec(*CLI, *words, stdout=subprocess.PIPE)
        async with await Client.connect(box.control_socket) as other:
            async for now in other.watch():
                if now.requested_mib == 80:
                    break
            await other.set(160)
        out, _ = await waiting.communicate()
        assert waiting.returncode == 3, out
