"""``ballonet exec``: run a command in a running sandbox; a paused one is resumed."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError, GuestChannelError
from ballonet.cli.attach import Joined, SignalPasser, joined_from, run_joined, with_signals
from ballonet.cli.sandbox_options import (
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
from ballonet.lifecycle.record import Defaults, State
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
        record = lifecycle.find(registry, options.name)
        if record.state in (State.PAUSED, State.STARTING):  # which may be a resume
            _wake(registry, options.name)
        record, note = lifecycle.find_running(registry, options.name)
    settings = inherited_settings(record, image_of(record), said.env, said.cwd, said.user)
    joined = replace(joined_from(options, settings), timeout=timeout)
    return asyncio.run(with_signals(lambda signals: _exec(options.name, note, argv, joined, signals)))


class _PausedMeanwhileError(Exception):
    """The sandbox is being paused, and the command was not started."""


def _wake(registry: Registry, name: str) -> None:
    from ballonet.lifecycle.wake import find_awake
    from ballonet.pilot.admission_control import admission_control

    asyncio.run(find_awake(registry, name, gate=admission_control(True)))


async def _exec(name: str, note: MachineNote, argv: list[str], joined: Joined, signals: SignalPasser) -> int:
    from ballonet.guest.agent_client import AgentClient

    try:
        agent = await AgentClient.connect(note.agent_socket)
        try:
            return await run_joined(agent, argv, joined, signals)
        finally:
            await agent.close()
    except GuestChannelError:
        from ballonet.lifecycle.wake import was_paused

        with Registry.open() as registry:
            if signals.process is not None or not await was_paused(registry, name, note.process.pid):
                raise
        raise _PausedMeanwhileError from None
