"""For commands that take several names, or a group of sandboxes: the arguments, and running an action for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError, UnknownSandboxError
from ballonet.cli.parser import FILTER_HELP
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry

#: How many sandboxes of a group are worked on at the same time.
_AT_ONCE = 8


def add_names(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    parser.add_argument("names", metavar="NAME", nargs=nargs, help="name of a sandbox")


def add_group(parser: argparse.ArgumentParser, *, of: str) -> None:
    """Names, or ``--all`` or ``--filter`` instead.

    :param of: which sandboxes are meant, for the help.
    """
    add_names(parser, nargs="*")
    parser.add_argument("-a", "--all", action="store_true", help=f"{of} instead of names")
    parser.add_argument(
        "--filter",
        dest="filters",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"instead of names, {FILTER_HELP}",
    )


def group_of(
    registry: Registry, options: argparse.Namespace, states: Collection[State] = tuple(State)
) -> list[str]:
    """The names of the sandboxes that the options of :func:`add_group` mean.

    :param states: those that ``--all`` and ``--filter`` include, unless there is a filter for states.
    :raises ConfigError: no sandboxes are given, or both names and a group.
    """
    from ballonet.lifecycle.filters import parse_filters
    from ballonet.lifecycle.sandboxes import list_sandboxes

    if not is_group(options):
        if not options.names:
            raise ConfigError("NAME is required", hint="give names, --filter or --all")
        return list(options.names)
    if options.names:
        option = "--all" if options.all else "--filter"
        raise ConfigError(f"{option} cannot be combined with names", hint=f"leave out {option} or the names")
    filters = parse_filters(options.filters)
    return [
        record.name
        for record in list_sandboxes(registry)
        if record.state in (filters.states or states) and filters.match(record)
    ]


def is_group(options: argparse.Namespace) -> bool:
    """Whether a group is meant, not names."""
    return bool(options.all or options.filters)


def for_group(
    names: Sequence[str],
    do: Callable[[str], Coroutine[Any, Any, object]],
    blocking: Callable[[Coroutine[Any, Any, object]], object],
    *,
    may_be_gone: bool,
) -> int:
    """Run ``do`` for each name, several at the same time, and print the names for which it succeeded, in their order.
    Returns the exit status of the first failure, or 0.

    :param blocking: runs ``do`` for a single name, without an event loop if possible.
    :param may_be_gone: it is no error if a sandbox does not exist any more.
    """
    if len(names) == 1 and not may_be_gone:
        blocking(do(names[0]))
        print(names[0])
        return 0
    if not names:
        return 0
    import asyncio

    return asyncio.run(_each(names, do, may_be_gone=may_be_gone))


async def _each(names: Sequence[str], do: Callable[[str], Awaitable[object]], *, may_be_gone: bool) -> int:
    import asyncio

    from ballonet.cli.main import print_error, status_of

    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> None:
        async with turns:
            await do(name)

    tasks = [asyncio.create_task(one(name)) for name in names]
    status = 0
    try:
        for name, task in zip(names, tasks, strict=True):
            try:
                await task
                print(name, flush=True)
            except BallonetError as error:
                if not (may_be_gone and isinstance(error, UnknownSandboxError)):
                    print_error(error)
                    status = status or status_of(error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return status


def for_each(names: Sequence[str], do: Callable[[str], object]) -> int:
    """Call ``do`` for each name, even after failures. Returns the exit status of the first failure, or 0."""
    from ballonet.cli.main import print_error, status_of

    if len(names) == 1:
        do(names[0])
        return 0
    status = 0
    for name in names:
        try:
            do(name)
        except BallonetError as error:
            print_error(error)
            status = status or status_of(error)
    sys.stdout.flush()
    return status
