"""The options of one run: rendered by the program that starts a sandbox, parsed by the sandbox's process."""

from pathlib import Path

import pytest

from ballonet.machine.run_options import RunOptions, take_run_options


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(),
        RunOptions(cold=True),
        RunOptions(state_dir=Path("/s"), resume=True),
        RunOptions(owner_fd=5, run_id="1f", state_dir=Path("/s"), detached=True, command=True, cold=True),
    ],
)
def test_options_survive_the_way(options: RunOptions) -> None:
    assert take_run_options([*options.render(), "--name", "box"]) == (options, ["--name", "box"])
