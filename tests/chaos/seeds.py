"""What once went wrong: sequences of steps that found it, done again by ``tests/vm/test_chaos.py``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A sequence for one sandbox, and what it found."""

    found: str
    script: str
    seed: int = 1

    @property
    def words(self) -> list[str]:
        """Options of ``python -m tests.chaos``."""
        return ["--seed", str(self.seed), "--script", self.script, "--freeze", "5"]


KNOWN = (
    Known("after a killed process its run directory stayed until a prune", "run,kill-supervisor,remove"),
    Known("'rm --force' of one that stood still left its run directory", "run,freeze-and-remove,run"),
    Known(
        "a damaged note made a living sandbox look stopped, and orphaned its engine",
        ",".join(["damage-machine-note"] * 6),
    ),
    Known(
        "a look with another run directory disowned a living sandbox", "run,other-run-dir,other-run-dir,stop"
    ),
    Known(
        "a run directory that went away disowned all living sandboxes",
        "run,lose-run-dir,exec-echo,lose-run-dir",
    ),
    Known("a lost agent socket never came back", ",".join(["run", *["lose-run-entry"] * 4])),
)
