"""What a person sees of sandboxes that run: host memory in its two parts, and what the shell completes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from ballonet.base.memory import MIB
from ballonet.cli.main import main
from ballonet.control.client import Client
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Balloon, Sandbox
from ballonet.settings.config import SandboxConfig
from tests.unit.test_completion import offered


def memfd_bytes(engine_pid: int) -> int:
    """The blocks of the engine's guest RAM, looked at by another way than the product's: its mapping."""
    maps = Path(f"/proc/{engine_pid}/maps").read_text().splitlines()
    line = next(line for line in maps if "memfd:memory-backend-memfd" in line)
    start, end = (int(word, 16) for word in line.split()[0].split("-"))
    return Path(f"/proc/{engine_pid}/map_files/{start:x}-{end:x}").stat().st_blocks * 512


def test_the_guests_part_and_the_engines_are_told_apart(
    guest: object, run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def play() -> None:
        async with await Sandbox.create("parts", memory=256, balloon=Balloon(min=128)) as box:
            with Registry.open() as registry:
                note = living(registry.get("parts"))
            assert note is not None
            async with await Client.connect(str(box.control_socket)) as client:
                balloon, host = await client.get(), (await client.stats()).host
                assert balloon.guest_ram_mib is not None and balloon.engine_mib is not None
                assert abs(balloon.guest_ram_mib - memfd_bytes(int(note.engine_pid or 0)) // MIB) <= 2
                assert balloon.resident_mib is not None
                assert abs(balloon.resident_mib - balloon.guest_ram_mib - balloon.engine_mib) <= 1
                assert host.engine_mib is not None and host.engine_mib > 20
            assert await asyncio.to_thread(main, ["ls"]) == 0
            assert await asyncio.to_thread(main, ["balloon", "get", "parts"]) == 0
            assert await asyncio.to_thread(main, ["balloon", "stats", "parts"]) == 0

    asyncio.run(play())
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == [
        "NAME",
        "STATE",
        "CEILING",
        "TARGET",
        "ACTUAL",
        "GUEST",
        "ENGINE",
        "AGE",
        "DETAIL",
    ]
    row = dict(
        zip(shown[0].split(), next(line for line in shown if line.startswith("parts ")).split(), strict=True)
    )
    # A ceiling of 256 MiB is not said to cost more than that for the guest.
    assert int(row["GUEST"].removesuffix("M")) <= 256
    assert any(line.startswith("on the host") and "guest RAM" in line and "engine" in line for line in shown)
    assert not any("e-0" in line for line in shown)


def test_names_are_offered_by_state(guest: object, run_directory: Path, tmp_path: Path) -> None:
    program = tmp_path / "ballonet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m ballonet "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "WORK": str(tmp_path)}

    async def play() -> None:
        with Registry.open() as registry:
            lifecycle.create(registry, SandboxConfig(name="offered-resting"))
        try:
            async with await Sandbox.create("offered-living", memory=256):
                for command, names in (
                    ("start", {"offered-resting"}),
                    ("stop", {"offered-living"}),
                    ("exec", {"offered-living"}),
                    ("balloon get", {"offered-living"}),
                    ("cp", {"offered-living:"}),
                    ("rm", {"offered-living", "offered-resting"}),
                ):
                    assert await asyncio.to_thread(offered, env, f"ballonet {command} offered-") == names
        finally:
            await Sandbox.remove("offered-resting", force=True)

    asyncio.run(play())
