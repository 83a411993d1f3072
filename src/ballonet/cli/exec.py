"""``ballonet exec``: run a command in a running sandbox; a paused one is resumed."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import TYPE_CHECKING

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError, GuestPausedError, NotRunningError
from ballonet.cli.attach import Joined, NotStartedError, joined_from, run_joined
from ballonet.cli.caught_signals import CaughtSignals
from ballonet.cli.command_options import (
    EXIT_STATUSES,
    add_command_options,
    add_stream_options,
    add_timeout_option,
    argv_from,
    defaults_from,
    timeout_from,
)
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import image_of, inherited_settings
from ballonet.lifecycle.record import Defaults, Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import MachineNote

if TYPE_CHECKING:
    from ballonet.sdk.timeouts import Timeout

#: How often a sandbox that is being paused is tried again (seconds).
_PAUSING_LOOK_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stream_options(parser)
    add_timeout_option(parser)
    parser.add_argument("name", metavar="NAME", help="name of the sandbox")
    add_command_options(parser, inherits="the sandbox's, else the image's")
    parser.epilog = EXIT_STATUSES


def run(options: argparse.Namespace) -> int:
    argv = argv_from(options)
    if not argv:
        raise ConfigError("no command was given", hint=f"for example: ballonet exec {options.name} uname -a")
    said, timeout = defaults_from(options), timeout_from(options)
    while True:
        with contextlib.suppress(_PausedMeanwhileError):
            return _run(options, argv, said, timeout)
        time.sleep(_PAUSING_LOOK_S)


def _run(options: argparse.Namespace, argv: list[str], said: Defaults, timeout: Timeout | None) -> int:
    """:raises _PausedMeanwhileError: to be tried again."""
    with Registry.open() as registry:
        try:
            record, note = lifecycle.find_running(registry, options.name)
        except NotRunningError:
            if lifecycle.find(registry, options.name).state in (State.CREATED, State.STOPPED, State.FAILED):
                raise
            record, note = _awake(registry, options.name)
    settings = inherited_settings(record, image_of(record), said.env, said.cwd, said.user)
    joined = replace(joined_from(options, settings), timeout=timeout)
    return _exec(options.name, note, argv, joined)


class _PausedMeanwhileError(Exception):
    """The sandbox is being paused, and the command was not started."""


def _awake(registry: Registry, name: str) -> tuple[Record, MachineNote]:
    """:raises NotRunningError: it is not paused, nor being resumed."""
    import asyncio

    from ballonet.lifecycle.wake import find_awake
    from ballonet.pilot.admission_control import admission_control

    return asyncio.run(find_awake(registry, name, gate=admission_control(True)))


def _exec(name: str, note: MachineNote, argv: list[str], joined: Joined) -> int:
    try:
        with CaughtSignals() as signals:
            return run_joined(note.agent_socket, argv, joined, signals)
    except NotStartedError as error:
        import asyncio

        from ballonet.lifecycle.wake import was_paused

        with Registry.open() as registry:
            paused = isinstance(error.cause, GuestPausedError)
            if not paused and not asyncio.run(was_paused(registry, name, note.process.pid)):
                raise error.cause from None
        raise _PausedMeanwhileError from None
