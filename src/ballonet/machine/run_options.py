"""The options of one run of a sandbox, which are not part of its configuration: rendered and parsed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError

#: In the environment of a sandbox's process and its children: the id of the run, a space, and the state directory of
#: the sandbox. It identifies an engine whose sandbox's process was killed.
RUN_VARIABLE = "BALLONET_SANDBOX_RUN"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """All are optional: a sandbox started by hand has none."""

    #: The inherited descriptor of the channel to the program that starts the sandbox.
    owner_fd: int | None = None
    #: Identifies this run in the registry and in the status files.
    run_id: str | None = None
    #: The sandbox's state directory.
    state_dir: Path | None = None
    #: The sandbox outlives the program that started it, once it is ready.
    detached: bool = False
    #: The state directory has a command for the sandbox to run.
    command: bool = False
    #: Boot, even if there is a template to restore.
    cold: bool = False
    #: Restore the saved state in the state directory.
    resume: bool = False

    def render(self) -> list[str]:
        """The command-line arguments for the sandbox's process."""
        words = []
        for flag, value in (
            ("--owner-fd", self.owner_fd),
            ("--run-id", self.run_id),
            ("--state-dir", self.state_dir),
        ):
            if value is not None:
                words += [flag, str(value)]
        flags = {
            "--detached": self.detached,
            "--run-command": self.command,
            "--cold": self.cold,
            "--resume": self.resume,
        }
        return words + [flag for flag, given in flags.items() if given]


def take_run_options(argv: Sequence[str]) -> tuple[RunOptions, list[str]]:
    """The options of the run, and the remaining arguments: the flags of the configuration.

    :raises ConfigError: an option lacks its value, or has an invalid one.
    """
    taken: dict[str, str] = {}
    left: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--detached", "--run-command", "--cold", "--resume"):
            taken[word] = ""
        elif word in ("--owner-fd", "--run-id", "--state-dir"):
            value = next(words, None)
            if value is None:
                raise ConfigError(f"ballonet sandbox: {word} requires a value")
            taken[word] = value
        else:
            left.append(word)
    fd, state = taken.get("--owner-fd"), taken.get("--state-dir")
    if fd is not None and not fd.isdecimal():
        raise ConfigError(f"ballonet sandbox: --owner-fd {fd!r} is not a file descriptor")
    for word in ("--run-command", "--resume"):
        if word in taken and state is None:
            raise ConfigError(f"ballonet sandbox: {word} requires --state-dir")
    options = RunOptions(
        owner_fd=None if fd is None else int(fd),
        run_id=taken.get("--run-id"),
        state_dir=None if state is None else Path(state),
        detached="--detached" in taken,
        command="--run-command" in taken,
        cold="--cold" in taken,
        resume="--resume" in taken,
    )
    return options, left
