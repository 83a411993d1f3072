"""The examples run as they are, and do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "agent_loop": r"step 1: status 0: 3\nstep 2: status 0: one\nstep 3: status 1: .*\nstep 4: status 0: the host",
    "ci_job": r"the next job has 1024 MiB again",
    "image_and_volume": r"mean 4.5, by Python 3\.\d+ on Debian .*; files on the host: \['numbers.txt', 'result.txt'\]",
    "notebook": r"Out: 42\n",
    "ten_in_parallel": r"squares: \[0, 1, 4, 9, 16, 25, 36, 49, 64, 81\]",
}
#: Those that take an image's name.
WITH_IMAGE = {"image_and_volume"}


def test_each_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_example(name: str, run_directory: Path, debian_image: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / f"{name}.py"), *[debian_image] * (name in WITH_IMAGE)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[name], done.stdout), done.stdout
    assert not [path for path in run_directory.iterdir() if path.name.startswith("example")]
