"""A command in a guest, joined to our own standard streams, signals and terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
import tty
from collections.abc import AsyncIterable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import ConfigError, StreamError
from ballonet.cli.stdin_reader import check_stdin, read_stdin
from ballonet.cli.stdout_writer import write_stdout

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient, GuestProcess
    from ballonet.lifecycle.image_settings import Settings
    from ballonet.sdk.timeouts import Timeout

#: How long the command may take to end after a signal was passed on to it (seconds).
SIGNAL_GRACE_S = 10.0
#: After the command's ``--timeout``, how long writing its remaining output may take, in seconds: the exit must not wait
#: for a reader that has stopped.
LAST_OUTPUT_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def check_terminal(wanted: bool) -> None:
    """:raises ConfigError: a terminal is wanted and our standard input is none."""
    if wanted and not os.isatty(0):
        raise ConfigError("-t needs a terminal, and standard input is none", hint="leave out -t")


def check_streams(options: argparse.Namespace) -> None:
    """What ``-i`` and ``-t`` need of our own streams.

    :raises ConfigError: a terminal is wanted and there is none, or standard input cannot be read.
    """
    check_terminal(options.tty)
    if options.interactive:
        check_stdin()


def terminal_size() -> tuple[int, int]:
    """Rows and columns of our terminal; 24 by 80 if it does not say."""
    try:
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return 24, 80
    return rows or 24, cols or 80


@dataclass(frozen=True)
class Joined:
    """How a command in the guest is run and joined to our streams."""

    settings: Settings
    stdin: bool
    terminal: bool
    timeout: Timeout | None = None


def joined_from(options: argparse.Namespace, settings: Settings) -> Joined:
    """How a command with ``settings`` is joined to our streams, as the options ask.

    :raises ConfigError: the terminal makes no sense, or standard input cannot be read.
    """
    check_streams(options)
    return Joined(settings, options.interactive, options.tty)


class SignalPasser:
    """Catches our signals from now on, and passes them to the command once there is one. Needs the running loop."""

    def __init__(self) -> None:
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self.process: GuestProcess | None = None
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signals.put_nowait, number)

    async def wait_give_up(self) -> signal.Signals:
        """Pass signals on. Returns when the command is to be given up: on the second, after a grace, or at once
        while there is no command."""
        first = await self._signals.get()
        if self.process is None:
            return first
        await self.process.send_signal(first)
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGNAL_GRACE_S):
                await self._signals.get()
        return first


async def with_signals(work: Callable[[SignalPasser], Coroutine[Any, Any, int]]) -> int:
    """Run ``work`` to its exit status; once the command is given up for signal n, cancel it: 128+n then."""
    signals = SignalPasser()
    working = asyncio.create_task(work(signals))
    giving_up = asyncio.create_task(signals.wait_give_up())
    await asyncio.wait({working, giving_up}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        giving_up.cancel()
        return working.result()
    working.cancel()
    await asyncio.wait({working})
    return 128 + giving_up.result()


async def run_joined(agent: AgentClient, argv: Sequence[str], joined: Joined, signals: SignalPasser) -> int:
    """Run a command in the guest, joined to our streams, to its end; its exit status.

    :raises GuestCommandError: it could not be started.
    :raises CommandTimeoutError: it was killed at its ``--timeout``, or its output was not read until then.
    :raises GuestError: the guest was lost first.
    """
    from ballonet.sdk.timeouts import start_within

    env = dict(joined.settings.env)
    if joined.terminal:
        env.setdefault("TERM", os.environ.get("TERM", "linux"))
    rows, cols = terminal_size() if joined.terminal else (24, 80)
    starting = agent.exec(
        argv,
        env=env,
        cwd=joined.settings.cwd,
        user=joined.settings.user,
        make_cwd=joined.settings.make_cwd,
        tty=joined.terminal,
        rows=rows,
        cols=cols,
        stdin=joined.stdin,
    )
    process = await start_within(joined.timeout, starting)
    async with process:
        signals.process = process
        status, complete = await attach(process, stdin=joined.stdin, terminal=joined.terminal)
        if joined.timeout is not None and not complete:
            raise joined.timeout.unread_error()
        return status


async def attach(process: GuestProcess, *, stdin: bool, terminal: bool) -> tuple[int, bool]:
    """Copy the command's streams from and to ours until it ends. Returns its exit status, and whether all of its output
    was written.

    :param terminal: it has a terminal, whose size follows ours; with ``stdin`` ours becomes raw, so that each key goes
        to it. Without, the keys stay ours, so that Ctrl-C is heard.
    :raises GuestError: the guest was lost first.
    """
    with _joined_terminal(process, raw=stdin) if terminal else contextlib.nullcontext():
        feeding = asyncio.create_task(_feed(process)) if stdin else None
        try:
            complete = await _copy_outputs(process)
            return (await process.wait()).returncode, complete
        finally:
            if feeding is not None:
                feeding.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await feeding


@contextlib.contextmanager
def _joined_terminal(process: GuestProcess, *, raw: bool) -> Iterator[None]:
    """The command's terminal has the size of ours while the block runs. ``raw``: ours passes everything on, and is as
    it was afterwards."""
    loop = asyncio.get_running_loop()
    saved = termios.tcgetattr(0)
    resizing: set[asyncio.Task[None]] = set()

    def resized() -> None:
        task = asyncio.create_task(process.resize(*terminal_size()))
        resizing.add(task)
        task.add_done_callback(resizing.discard)

    loop.add_signal_handler(signal.SIGWINCH, resized)
    try:
        if raw:
            tty.setraw(0)
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        sys.stdout.flush()
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


async def _copy_outputs(process: GuestProcess) -> bool:
    """Copy both outputs to ours, to their end. False: the command's ``--timeout`` passed before all of it was read, and
    the rest is dropped."""
    copying = asyncio.gather(_copy(process.stdout, 1), _copy(process.stderr, 2))
    expiring = asyncio.create_task(process.wait_expired())
    try:
        either: set[asyncio.Future[Any]] = {copying, expiring}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not copying.done():
            await asyncio.wait({copying}, timeout=LAST_OUTPUT_S)
        complete = copying.done()
        if complete:
            await copying
        return complete
    finally:
        expiring.cancel()
        copying.cancel()
        await asyncio.gather(expiring, copying, return_exceptions=True)


async def _copy(stream: AsyncIterable[bytes], fd: int) -> None:
    """Copy the command's output to ours: a slow reader slows the command, and one that goes away ends it."""
    async for chunk in stream:
        await write_stdout(chunk, fd)


async def _feed(process: GuestProcess) -> None:
    """Copy our standard input to the command's, to its end; one that fails is told, and ends the command's, too."""
    from ballonet.cli.main import print_error

    try:
        while chunk := await read_stdin():
            await process.write_stdin(chunk)
    except StreamError as error:
        print_error(error)
    await process.close_stdin()
