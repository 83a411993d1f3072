"""``ballonet mcp``: serves sandboxes to an agent over standard input and output."""

from __future__ import annotations

import argparse

from ballonet.base.errors import BallonetError
from ballonet.cli.mcp_options import add_policy, policy_of

_EPILOG = """\
An agent's program starts this command and speaks the Model Context Protocol
with it. All sandboxes that it makes are removed when the command ends, however
it ends. In the program's configuration:
  {"command": "ballonet", "args": ["mcp", "--image", "IMAGE"]}
Over HTTP: 'ballonet serve --mcp'."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_policy(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    import asyncio
    import signal

    from ballonet.mcp.stdio import serve_stdio

    policy = policy_of(options)
    # A thread waits for input, and cannot be interrupted. Sandboxes that this process owns end with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        asyncio.run(serve_stdio(policy))
    except BaseExceptionGroup as group:  # of the SDK's tasks, which read and write
        raise _cause(group) from group
    return 0


def _cause(group: BaseExceptionGroup) -> BaseException:
    """Why the standard streams could not be used, if that is the reason."""
    from ballonet.cli.standard_streams import stream_error

    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            error = _cause(error)
        if isinstance(error, BrokenPipeError | BallonetError):
            return error
        if isinstance(error, OSError):
            return stream_error(1, error)
    return group
