"""A test's own directories, and processes that stand for sandboxes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ballonet.base.paths import state_dir_of


def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test have a registry, named volumes and sockets of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("BALLONET_RUN_DIR", str(tmp_path / "run"))


@contextmanager
def sandbox_process(name: str, run_id: str = "run1") -> Iterator[subprocess.Popen[bytes]]:
    """A process with the command line of a sandbox's own process."""
    words = ["--run-id", run_id, "--state-dir", str(state_dir_of(name)), "--name", name]
    code = "import time; print(flush=True); time.sleep(600)"
    argv = [sys.executable, "-c", code, "-m", "ballonet", "sandbox", *words]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
    finally:
        child.kill()
        child.communicate()
