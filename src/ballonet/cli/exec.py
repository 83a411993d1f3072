"""``ballonet exec``: a command in a sandbox that runs."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from ballonet import lifecycle
from ballonet.cli.attach import Joined, SignalPasser, joined_from, run_joined, with_signals
from ballonet.cli.sandbox_options import (
    EXIT_STATUSES,
    add_command_options,
    add_stream_options,
    argv_from,
    parse_env,
)
from ballonet.errors import ConfigError
from ballonet.imaged import image_of, settings_for
from ballonet.registry.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stream_options(parser)
    parser.add_argument("name", metavar="NAME", help="a sandbox's name")
    add_command_options(parser)
    parser.epilog = EXIT_STATUSES


def run(options: argparse.Namespace) -> int:
    argv = argv_from(options)
    if not argv:
        raise ConfigError("no command was given", hint=f"for example: ballonet exec {options.name} uname -a")
    env = parse_env(options.env)
    with Registry.open() as registry:
        record, note = lifecycle.find_running(registry, options.name)
    settings = settings_for(image_of(record), env, options.workdir, options.user)
    joined = joined_from(options, settings)
    return asyncio.run(with_signals(lambda signals: _exec(note.agent_socket, argv, joined, signals)))


async def _exec(agent_socket: Path, argv: list[str], joined: Joined, signals: SignalPasser) -> int:
    from ballonet.guest.agent_client import AgentClient

    agent = await AgentClient.connect(agent_socket)
    try:
        return await run_joined(agent, argv, joined, signals)
    finally:
        await agent.close()
