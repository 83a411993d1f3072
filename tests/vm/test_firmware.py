"""The firmware of a guest is ballonet's choice, whatever this host's QEMU takes by default."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet.vmm.default_engine import DefaultEngine

SEABIOS = Path("/usr/share/seabios/bios-microvm.bin")


@pytest.mark.skipif(not SEABIOS.exists(), reason="no SeaBIOS for microvms on this host")
def test_a_microvm_boots_where_the_default_firmware_is_seabios(
    ballonet: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in Debian 13. In Debian 12 a link gives qboot the name of the default."""
    shutil.copy(SEABIOS, tmp_path)
    engine = DefaultEngine.find(tmp_path).binary
    program = tmp_path / "qemu"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(str(engine))} -L {tmp_path} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("BALLONET_QEMU", str(program))
    done = ballonet("run", "--cold", "--machine", "microvm", "--", "echo", "out")
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr
