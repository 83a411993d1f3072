"""Step sequences that once found a defect; ``tests/vm/test_chaos.py`` repeats them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Regression:
    """A sequence of steps for one sandbox, and the defect that it found."""

    found: str
    script: str
    seed: int = 1

    @property
    def words(self) -> list[str]:
        """Options of ``python -m tests.chaos``."""
        return ["--seed", str(self.seed), "--script", self.script, "--freeze", "5"]


REGRESSIONS = (
    Regression("the run directory of a killed process was kept until a prune", "run,kill-supervisor,remove"),
    Regression("'rm --force' of a frozen sandbox kept its run directory", "run,freeze-and-remove,run"),
    Regression(
        "a damaged note made a running sandbox appear stopped, and orphaned its engine",
        ",".join(["damage-machine-note"] * 6),
    ),
    Regression(
        "a command with another run directory disowned a running sandbox",
        "run,other-run-dir,other-run-dir,stop",
    ),
    Regression(
        "removal of the run directory disowned all running sandboxes",
        "run,lose-run-dir,exec-echo,lose-run-dir",
    ),
    Regression("a removed agent socket was not restored", ",".join(["run", *["lose-run-entry"] * 4])),
)
