"""``ballonet mcp``: serves sandboxes to an agent over standard input and output."""

from __future__ import annotations

import argparse

from ballonet.base.errors import missing_module
from ballonet.cli.mcp_options import add_policy, policy_of

_EPILOG = """\
An agent's program starts this command and speaks the Model Context Protocol with it. All sandboxes that it makes
are removed when the command ends, however it ends.
In the program's configuration: {"command": "ballonet", "args": ["mcp", "--image", "IMAGE"]}
Over HTTP: 'ballonet serve --mcp'."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_policy(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    try:
        from ballonet.mcp.stdio import serve_stdio
    except ImportError as error:
        raise missing_module(error, "the Model Context Protocol cannot be served") from error
    import asyncio
    import signal

    policy = policy_of(options)
    # A thread waits for input, and cannot be interrupted. Sandboxes that this process owns end with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(serve_stdio(policy))
    return 0
