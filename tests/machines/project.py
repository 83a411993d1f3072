"""The project's files, for a machine that gets them as they are now."""

from __future__ import annotations

import subprocess
from pathlib import Path

from build_tools.generate import MODULES
from build_tools.python_source import file_of

from ballonet.guest.bundle import guest_program
from tests.machines.catalogue import ROOT


def project_files() -> list[Path]:
    """Those of the repository, and what is built from them: the guest's programs, and modules."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in listed] + list(guest_program("agent").parent.iterdir())
    paths += [file_of(ROOT / "src", module) for module in MODULES]
    return [path for path in paths if path.is_file()]
