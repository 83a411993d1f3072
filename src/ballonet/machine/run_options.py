"""How one run of a sandbox differs from the next of the same configuration: rendered and parsed here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.errors import ConfigError

#: In the environment of a sandbox's own process and of all that it starts: the run's id, a space, and the sandbox's
#: state directory. By it an engine is found whose sandbox's process was killed.
RUN_VARIABLE = "BALLONET_SANDBOX_RUN"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """All optional: a sandbox typed by hand has none."""

    #: The inherited descriptor of the line to the program that starts the sandbox.
    owner_fd: int | None = None
    #: Names this run in the registry and in the notes.
    run_id: str | None = None
    #: The sandbox's own state directory, where its end is noted.
    state_dir: Path | None = None
    #: Once it is up, the sandbox outlives the program that started it.
    detached: bool = False
    #: There is a command in the state directory for the sandbox to run by itself.
    command: bool = False

    def render(self) -> list[str]:
        """The words that carry these to the sandbox's process."""
        words = []
        for flag, value in (
            ("--owner-fd", self.owner_fd),
            ("--run-id", self.run_id),
            ("--state-dir", self.state_dir),
        ):
            if value is not None:
                words += [flag, str(value)]
        return words + ["--detached"] * self.detached + ["--run-command"] * self.command


def take_run_options(argv: Sequence[str]) -> tuple[RunOptions, list[str]]:
    """The options of the run, and what is left: the flags of the configuration.

    :raises ConfigError: an option without its value, or with an unreadable one.
    """
    taken: dict[str, str] = {}
    left: list[str] = []
    words = iter(argv)
    for word in words:
        if word in ("--detached", "--run-command"):
            taken[word] = ""
        elif word in ("--owner-fd", "--run-id", "--state-dir"):
            value = next(words, None)
            if value is None:
                raise ConfigError(f"ballonet sandbox: {word} needs a value")
            taken[word] = value
        else:
            left.append(word)
    fd, state = taken.get("--owner-fd"), taken.get("--state-dir")
    if fd is not None and not fd.isdecimal():
        raise ConfigError(f"ballonet sandbox: --owner-fd {fd!r} is not a descriptor's number")
    if "--run-command" in taken and state is None:
        raise ConfigError("ballonet sandbox: --run-command needs --state-dir")
    options = RunOptions(
        owner_fd=None if fd is None else int(fd),
        run_id=taken.get("--run-id"),
        state_dir=None if state is None else Path(state),
        detached="--detached" in taken,
        command="--run-command" in taken,
    )
    return options, left
