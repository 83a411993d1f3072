"""Real file systems that are soon full."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted_disk(directory: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` (``256k``, ``4m``) at ``directory``, made here; skips where none may be mounted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "ballonet-test", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
