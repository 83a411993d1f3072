"""``ballonet attach``: follows the command of a detached sandbox: its output, its signals and its end."""

from __future__ import annotations

import argparse
import asyncio
import select
import sys

from ballonet.base.errors import BallonetError, ConfigError, NotRunningError, SandboxError
from ballonet.base.paths import state_dir_of
from ballonet.cli.caught_signals import ENDING, CaughtSignals
from ballonet.cli.standard_streams import write_all
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.log_reader import LogReader
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.signals import signal_sandbox
from ballonet.machine.notes import EndNote

#: How often to check for new output (seconds).
_POLL_S = 0.1
_EPILOG = """\
Shows the output of the sandbox's command from now on; 'ballonet logs' has the
output before. Signals such as Ctrl-C are forwarded to the command; a second
one ends 'attach', and the command runs on. Exit status: that of the command;
125 if the sandbox ended without one, 128+n if a second signal n ended
'attach'. The command has no standard input: use 'ballonet exec -it' for a
shell."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of a running sandbox")
    parser.add_argument(
        "--no-signals", action="store_true", help="forward no signals: the first one ends 'attach'"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    name = options.name
    with Registry.open() as registry:
        record = lifecycle.find(registry, name)
        if record.command is None:
            raise ConfigError(
                f"sandbox {name!r} has no command of its own",
                hint=f"run one in it: ballonet exec -it {name} sh",
            )
        if not (record.state.lives or record.state is State.PAUSED):
            raise NotRunningError(
                f"sandbox {name!r} is {record.state}",
                hint=f"start it, or see its output: ballonet logs {name}",
            )
        with LogReader(state_dir_of(name)) as reader, CaughtSignals(ENDING) as signals:
            reader.skip_to(reader.end())
            return _follow(registry, record, reader, signals, forward=not options.no_signals)


def _follow(
    registry: Registry, record: Record, reader: LogReader, signals: CaughtSignals, *, forward: bool
) -> int:
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    while True:
        end = EndNote.read(state_dir_of(record.name))
        now = lifecycle.refresh(registry, record)
        _print(reader)
        if now is None or not (now.state.lives or now.state is State.PAUSED):
            of_this_run = end is not None and end.run_id == record.run_id
            return _status(lifecycle.with_end(record, end) if now is None and end and of_this_run else now)
        if now.state is State.PAUSED:  # it may be resumed
            now = registry.find(record.name) or now
        record = now
        if not poll.poll(_POLL_S * 1000):
            continue
        for number in signals.take():
            if not forward:
                return 128 + number
            forward = False
            try:
                asyncio.run(signal_sandbox(registry, record.name, number))
            except BallonetError as error:
                if lifecycle.refresh(registry, record) is record:
                    raise
                print(f"ballonet: the signal was not forwarded: {error.message}", file=sys.stderr)


def _print(reader: LogReader) -> None:
    for _, entry in reader.read():
        write_all(2 if entry.stream == "stderr" else 1, entry.content + (b"\n" if entry.whole else b""))


def _status(ended: Record | None) -> int:
    """The exit status after the end of the sandbox.

    :raises SandboxError: its command has none.
    """
    if ended is not None and ended.exit_code is not None:
        return ended.exit_code
    raise SandboxError(
        "the sandbox was removed"
        if ended is None
        else f"the sandbox has ended: {ended.end_detail or ended.state}"
    )
