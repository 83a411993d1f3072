"""Ctrl-C ends a command also at a moment at which Python drops it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Python runs this module at its start. It sends an interrupt during a callback of the import of a given module, from
#: which Python lets no exception out.
_SENDS = """
import os, signal, sys

def look(frame, event, _):
    if event == "call" and frame.f_code.co_name == "cb" and os.environ["INTERRUPT_IN"] in sys.modules:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

sys.setprofile(look)
"""


@pytest.mark.parametrize("module", ["ballonet.cli.main", "ballonet.cli.parser", "ballonet.cli.events"])
def test_an_interrupt_that_python_drops_during_imports_ends_the_command(tmp_path: Path, module: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SENDS)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "ballonet", "events", "--follow"],
        env={**os.environ, "PYTHONPATH": path, "INTERRUPT_IN": module},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "")
