"""``ballonet run``: a sandbox for one command."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from ballonet.cli.sandbox_options import add_sandbox_options, config_from, report_progress
from ballonet.config import SandboxConfig
from ballonet.errors import ConfigError, GuestChannelError, GuestCommandError, SandboxError

if TYPE_CHECKING:
    from ballonet.guest.agent_client import GuestProcess

#: The command exists in the guest but cannot be run, or does not exist: as a shell and Docker say it.
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
#: How long the command may take to end after a signal was passed on to it (seconds).
SIGNAL_GRACE_S = 10.0
#: When the channel to the command is lost, the sandbox's own end, which says why, follows within this (seconds).
_END_S = 15.0
_READ_BYTES = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sandbox_options(parser)
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="pass our standard input on to the command"
    )
    parser.add_argument("-w", "--workdir", metavar="DIR", help="the command's working directory in the guest")
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a variable for the command",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the engine's command line and stop")
    parser.add_argument(
        "command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, and its arguments"
    )
    parser.epilog = (
        "Exit status: the command's own, 128+n if signal n killed it; 2 for bad usage, 125 if ballonet failed or the "
        "guest ended first, 126 if the command cannot be executed, 127 if it does not exist."
    )


def run(options: argparse.Namespace) -> int:
    argv = options.command[1:] if options.command[:1] == ["--"] else options.command
    from ballonet.sandbox import random_name

    config = config_from(options, default_name=random_name("run"))
    env = _environment(options.env)
    if options.dry_run:
        return _print_engine_command(config)
    if not argv:
        raise ConfigError("no command was given", hint="for example: ballonet run -- uname -a")

    from ballonet.guest.bundle import prepare_guest

    prepare_guest(report=report_progress)  # here, where a person sees the progress; the sandbox finds it made
    return asyncio.run(_Run(config, argv, env, options).go())


def _environment(settings: list[str]) -> dict[str, str]:
    env = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ConfigError(f"--env {setting!r} is not NAME=VALUE")
        env[name] = value
    return env


def _print_engine_command(config: SandboxConfig) -> int:
    from ballonet.guest.bundle import prepare_guest
    from ballonet.machine.build import build_vm
    from ballonet.process import show_command
    from ballonet.vmm.qemu_args import EngineFds, render_command

    vm = build_vm(config, guest=prepare_guest(report=report_progress))
    print(show_command(render_command(vm.spec, vm.engine, EngineFds(qmp=3, agent=4, console=5))))
    return 0


class _Run:
    """One run: the sandbox, its command, and the signals that come meanwhile."""

    def __init__(
        self, config: SandboxConfig, argv: list[str], env: dict[str, str], options: argparse.Namespace
    ) -> None:
        self._config = config
        self._argv = argv
        self._env = env
        self._options = options
        self._process: GuestProcess | None = None
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def go(self) -> int:
        """Run it; whatever happens, the sandbox is gone when this returns."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        work = asyncio.create_task(self._work())
        interrupted = asyncio.create_task(self._interrupted())
        await asyncio.wait({work, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            interrupted.cancel()
            return work.result()
        work.cancel()
        await asyncio.wait({work})
        return 128 + interrupted.result()

    async def _interrupted(self) -> signal.Signals:
        """Pass signals on to the command. Returns when it is to be given up: on the second, or after a grace."""
        first = await self._signals.get()
        process = self._process
        if process is None:
            return first
        await process.send_signal(first)
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGNAL_GRACE_S):
                await self._signals.get()
        return first

    async def _work(self) -> int:
        from ballonet.sandbox import Sandbox

        async with AsyncExitStack() as stack:
            sandbox = await Sandbox.create(self._config)
            stack.push_async_callback(sandbox.kill)
            try:
                process = await sandbox.exec_stream(
                    self._argv, env=self._env, cwd=self._options.workdir, stdin=self._options.interactive
                )
            except GuestCommandError as error:
                print(f"ballonet: error: {error.message}", file=sys.stderr)
                return EXIT_NOT_FOUND if error.errno == 2 else EXIT_NOT_EXECUTABLE
            self._process = process
            stack.callback(process.abandon)
            feeding = asyncio.create_task(_feed(process)) if self._options.interactive else None
            try:
                await asyncio.gather(_copy(process.stdout, 1), _copy(process.stderr, 2))
                return (await process.wait()).returncode
            except GuestChannelError as error:
                try:
                    async with asyncio.timeout(_END_S):
                        end = await sandbox.wait()
                except TimeoutError:
                    raise error from None  # it lives, but the guest cannot be talked to any more
                raise SandboxError(f"the sandbox ended before the command did: {end.detail}") from error
            finally:
                if feeding is not None:
                    feeding.cancel()
        raise AssertionError("unreachable")


async def _copy(stream: AsyncIterable[bytes], fd: int) -> None:
    """Copy the command's output to ours. Blocking writes on purpose: a slow reader slows the command."""
    async for chunk in stream:
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]


async def _feed(process: GuestProcess) -> None:
    """Copy our standard input to the command's, to its end."""
    while chunk := await _read_stdin():
        await process.write_stdin(chunk)
    await process.close_stdin()


async def _read_stdin() -> bytes:
    """Wait for input without a thread, which could not be interrupted, and without changing the terminal's flags."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(0, ready.set)
    except PermissionError:
        return os.read(0, _READ_BYTES)  # a regular file: always ready
    try:
        await ready.wait()
    finally:
        loop.remove_reader(0)
    return os.read(0, _READ_BYTES)
