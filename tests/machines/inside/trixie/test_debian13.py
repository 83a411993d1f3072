"""Debian 13: its QEMU 10, its Python 3.13, and its virtiofsd, which serves plain users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet.cli.commands import COMMANDS
from ballonet.cli.main import main
from tests.machines.inside.users import BALLONET, findings, login

Call = Callable[..., subprocess.CompletedProcess[str]]
USER = "alice"


def test_doctor_finds_newer_programs(ballonet: Call) -> None:
    done = ballonet("doctor", "--json")
    found = {finding["check"]: finding["detail"] for finding in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert found["engine"].startswith("QEMU 10.")
    assert found["volumes"].startswith("virtiofsd in Rust")
    assert sys.version_info[:2] == (3, 13)


@pytest.mark.parametrize("machine", ["microvm", "q35"])
def test_a_guest_boots_and_runs_a_command(ballonet: Call, machine: str) -> None:
    done = ballonet("run", "--machine", machine, "--", "sh", "-c", "echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr


def test_volumes_of_a_plain_user_are_shared_and_read_only_ones_protected() -> None:
    assert findings(USER)["volumes"][0] == "ok"
    login(USER, "mkdir -p data kept && echo as it was >kept/file")
    script = "cat /kept/file && echo from the guest >/data/file && ! echo x >/kept/file 2>/dev/null"
    said = login(USER, f"{BALLONET} run -v ./data:/data -v ./kept:/kept:ro -- sh -c '{script}'")
    assert said == "as it was\n"
    written = Path(f"/home/{USER}/data/file")
    assert written.read_text() == "from the guest\n"
    assert written.owner() == USER
    assert Path(f"/home/{USER}/kept/file").read_text() == "as it was\n"


def test_a_volume_of_root(ballonet: Call, tmp_path: Path) -> None:
    assert os.geteuid() == 0
    done = ballonet("run", "-v", f"{tmp_path}:/data", "--", "sh", "-c", "echo from the guest >/data/file")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "from the guest\n"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", name]) == 0
    assert f"usage: ballonet {name}" in capsys.readouterr().out
