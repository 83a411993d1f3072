"""For commands that take several names: the argument, and running an action for each name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ballonet.base.errors import BallonetError


def add_names(parser: argparse.ArgumentParser, *, nargs: str = "+") -> None:
    parser.add_argument("names", metavar="NAME", nargs=nargs, help="name of a sandbox")


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
