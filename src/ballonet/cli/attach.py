"""Attaches a guest command to this process's standard streams, signals and terminal."""

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
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, StreamError
from ballonet.cli.stdin_reader import check_stdin, read_stdin
from ballonet.cli.stdout_writer import write_stdout

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient, GuestProcess
    from ballonet.lifecycle.image_settings import Settings
    from ballonet.sdk.timeouts import Timeout

#: How long the command may run on after a signal was forwarded to it (seconds).
SIGNAL_GRACE_S = 10.0
#: After the command's ``--timeout``, how long writing its remaining output may take, in seconds: the exit must not wait
#: for a reader that has stopped.
LAST_OUTPUT_S = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def check_terminal(wanted: bool) -> None:
    """:raises ConfigError: a terminal is requested and standard input is not one."""
    if wanted and not os.isatty(0):
        raise ConfigError("-t requires a terminal as standard input", hint="omit -t")


def check_streams(options: argparse.Namespace) -> None:
    """Check that the standard streams allow ``-i`` and ``-t``.

    :raises ConfigError: a terminal is requested and standard input is not one, or standard input is not readable.
    """
    check_terminal(options.tty)
    if options.interactive:
        check_stdin()


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal on standard input; 24 by 80 if unknown."""
    try:
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return 24, 80
    return rows or 24, cols or 80


@dataclass(frozen=True)
class Joined:
    """How a guest command is run and attached to the standard streams."""

    settings: Settings
    stdin: bool
    terminal: bool
    timeout: Timeout | None = None


def joined_from(options: argparse.Namespace, settings: Settings) -> Joined:
    """How a command with ``settings`` is attached according to the options.

    :raises ConfigError: as :func:`check_streams`.
    """
    check_streams(options)
    return Joined(settings, options.interactive, options.tty)


class SignalPasser:
    """Catches signals and forwards them to the command. Must be created while the event loop runs."""

    def __init__(self) -> None:
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self.process: GuestProcess | None = None
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signals.put_nowait, number)

    async def wait_give_up(self) -> signal.Signals:
        """Forward signals until the command should be killed, and return the first signal: on the second signal, after
        a grace period, or immediately if no command runs yet."""
        first = await self._signals.get()
        if self.process is None:
            return first
        await self.process.send_signal(first)
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGNAL_GRACE_S):
                await self._signals.get()
        return first


async def with_signals(work: Callable[[SignalPasser], Coroutine[Any, Any, int]]) -> int:
    """Run ``work`` and return its exit status; 128+n if signal n made it necessary to cancel it."""
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
    """Run a guest command, attached to the standard streams, and return its exit status.

    :raises GuestCommandError: the command cannot be started.
    :raises CommandTimeoutError: the command was killed at its ``--timeout``, or its output was not read until then.
    :raises GuestError: the connection to the guest was lost.
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
    """Copy the command's streams until it exits. Returns its exit status, and whether all of its output was written.

    :param terminal: the command has a terminal, whose size follows the local one. With ``stdin`` the local terminal is
        switched to raw mode, so that the command gets every key; without, Ctrl-C still interrupts this process.
    :raises GuestError: the connection to the guest was lost.
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
    """Keep the size of the command's terminal equal to the local one's during the block.

    :param raw: switch the local terminal to raw mode during the block.
    """
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
    """Copy standard output and standard error until both end. False: the command's ``--timeout`` passed before all of
    it was read, and the rest is dropped."""
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
    """Copy one output. A slow local reader slows the command down; if the reader goes away, the command is killed."""
    async for chunk in stream:
        await write_stdout(chunk, fd)


async def _feed(process: GuestProcess) -> None:
    """Copy standard input to the command until it ends. A read error is printed and ends the command's input, too."""
    from ballonet.cli.main import print_error

    try:
        while chunk := await read_stdin():
            await process.write_stdin(chunk)
    except StreamError as error:
        print_error(error)
    await process.close_stdin()
