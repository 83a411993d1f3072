"""Starts a sandbox's process from a program, waits until it is ready, ends it, and learns how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import BallonetError, HostError, SandboxError
from ballonet.base.forked import keep_from_children
from ballonet.base.process import Child, clean_environment, show_command, spawn, wait_exit
from ballonet.host.identity import ProcessId
from ballonet.machine.owner_channel import STOP, Report
from ballonet.machine.prepared_process import is_prepared, prepare_process, take_prepared
from ballonet.machine.run_options import RUN_VARIABLE, RunOptions

log = logging.getLogger(__name__)

#: What the command line and the sandbox's process both load, apart from what this module loads.
_COMMON = (
    "ballonet.settings.flags",
    "ballonet.machine.run_directory",
    "ballonet.machine.guest_files",
    "ballonet.guest.process_state",
    "ballonet.guest.channel_stream",
    "ballonet.vmm.default_engine",
)
#: How long the sandbox's process may take to end after a request (seconds).
_END_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class SandboxEnd:
    """How a sandbox ended: the reason (see :class:`ballonet.vmm.engine.ExitReason`), a sentence, and the exit status
    of the sandbox's own command if it had one that ended."""

    reason: str
    detail: str
    exit_code: int | None = None


#: Tasks that follow the sandboxes of this program. The references keep a sandbox whose object was dropped until the
#: program ends, and not only until a garbage collection.
_following: set[asyncio.Task[SandboxEnd]] = set()
#: Detached children, which are reaped after they have ended.
_let_go: list[Child] = []


class OwnedProcess:
    """A sandbox's process that this program started. Created by :func:`launch`, which waits until it is ready."""

    def __init__(
        self,
        child: Child,
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        log_file: IO[bytes],
    ) -> None:
        self._child = child
        self._reader, self._writer = line
        self._log_file = log_file
        #: The event loop in which it is followed; it cannot be used in another.
        self.loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Report] = self.loop.create_future()
        self._last_report: Report | None = None
        self._ended = asyncio.create_task(self._follow(), name="sandbox end")
        _following.add(self._ended)
        self._ended.add_done_callback(_following.discard)
        #: The facts in its report that it is ready.
        self.facts: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def agent_socket(self) -> Path:
        """The socket of its guest's agent, once it is ready."""
        return Path(self.facts["agent_socket"])

    @property
    def end(self) -> SandboxEnd | None:
        """How it ended; ``None`` while it runs."""
        ended = self._ended
        return ended.result() if ended.done() and not ended.cancelled() and not ended.exception() else None

    async def come_up(self, name: str) -> None:
        """Wait until the sandbox is ready.

        :raises BallonetError: it did not start.
        """
        either: set[asyncio.Future[Any]] = {self._ready, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            raise self._failure(name, await self._ended)
        self.facts = self._ready.result().facts
        log.debug("the guest of %s is %s", name, self.facts.get("start", "ready"))

    async def wait(self) -> SandboxEnd:
        """Wait for its end; everything is cleaned up then."""
        return await asyncio.shield(self._ended)

    async def stop(self, timeout_s: float) -> SandboxEnd:
        """Stop it gracefully; kill it after ``timeout_s``."""
        with contextlib.suppress(OSError):
            self._writer.write(STOP)
        self._wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wait()
        return await self.kill()

    async def kill(self) -> SandboxEnd:
        """End it without asking the guest, and wait until everything is cleaned up."""
        self._writer.close()
        self._wake()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            log.warning("sandbox process %d does not end; killing it", self._child.pid)
            self._child.kill()
            return await self.wait()
        finally:
            self._log_file.close()

    def _wake(self) -> None:
        """Continue a stopped process (SIGSTOP), so that it reads the request."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGCONT)

    def let_go(self) -> None:
        """Do not follow it any more. It must have been started detached."""
        self._ended.cancel()
        self._writer.close()
        self._log_file.close()
        close: Callable[[], None] | None = getattr(self._child, "close", None)
        if close is None:
            _let_go.append(self._child)
        else:  # it is the fork server's child
            close()

    async def _follow(self) -> SandboxEnd:
        """Read the reports of the sandbox's process until it ends."""
        while (report := await self._next_report()) is not None:
            if report.event == "ready":
                self._ready.set_result(report)
            else:
                self._last_report = report
        status = await wait_exit(self._child)
        self._writer.close()
        last = self._last_report
        if last is None:
            detail = f"the sandbox's process exited with status {status} without giving a reason"
            return SandboxEnd("killed", detail)
        if last.event == "failed":
            return SandboxEnd("failed", str(last.facts.get("message")))
        return SandboxEnd(str(last.facts["reason"]), str(last.facts["detail"]), last.facts.get("exit_code"))

    async def _next_report(self) -> Report | None:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        return Report.decode(line) if line.endswith(b"\n") else None

    def _failure(self, name: str, end: SandboxEnd) -> BallonetError:
        """Why the sandbox did not start."""
        if self._last_report is not None and self._last_report.event == "failed":
            return self._last_report.to_error()
        message = f"sandbox {name!r} ended while it was booting: {end.detail}"
        self._log_file.seek(0)
        output = self._log_file.read()[-2000:].decode(errors="replace").strip()
        return SandboxError(f"{message}; its log ends with:\n{output}" if output else message)


def prepare() -> None:
    """Fork the process of the next sandbox that this program starts, with the modules that are loaded now.

    For a command line, at its very beginning: see :mod:`ballonet.machine.prepared_process`.
    """
    for module in _COMMON:
        importlib.import_module(module)
    prepare_process()


def expect_starts(count: int) -> None:
    """Say that this program is about to start so many sandboxes: their processes are prepared. Returns at once."""
    if count > is_prepared():
        from ballonet.machine.served_process import expect_starts

        expect_starts()


async def launch(
    name: str,
    flags: Sequence[str],
    options: RunOptions,
    log_path: Path,
    *,
    started: Callable[[ProcessId], None] | None = None,
) -> OwnedProcess:
    """Start a sandbox's process, and return when its guest answers.

    :param log_path: the log file of the process; overwritten.
    :param started: called with the process as soon as it exists, long before its guest answers.
    :raises BallonetError: it did not start; nothing is left behind.
    """
    _let_go[:] = [child for child in _let_go if child.poll() is None]
    try:
        log_file = log_path.open("w+b")
    except OSError as error:
        raise HostError(f"the log {log_path} cannot be written: {error.strerror}") from error
    try:
        child, own_end = _begin(flags, options, log_file)
    except BaseException:
        log_file.close()
        raise
    process = OwnedProcess(child, await asyncio.open_connection(sock=own_end), log_file)
    try:
        if started is not None and (identity := ProcessId.of(child.pid)) is not None:
            started(identity)
        await process.come_up(name)
    except BaseException:
        await process.kill()
        raise
    return process


def _begin(flags: Sequence[str], options: RunOptions, log_file: IO[bytes]) -> tuple[Child, socket.socket]:
    """Begin the sandbox's process; returns it and this end of the owner channel."""
    env = {RUN_VARIABLE: f"{options.run_id or ''} {options.state_dir or ''}"}
    if (prepared := take_prepared()) is not None:
        keep_from_children(prepared.line)
        words = _words(replace(options, owner_fd=prepared.owner_fd), flags)
        log.debug("begin %s", show_command(words))
        try:
            prepared.begin(words, clean_environment(env), log_file.fileno())
            return prepared.child, prepared.line
        except HostError as error:  # another one does instead
            log.debug("%s", error)
            prepared.discard()
        except BaseException:
            prepared.discard()
            raise
    try:
        own_end, far_end = socket.socketpair()
    except OSError as error:
        raise HostError(f"a connection to the sandbox cannot be created: {error.strerror}") from error
    # From now on, because another thread may fork while the guest boots: a copy of the connection in a child would
    # keep an owned sandbox alive. spawn() does not run fork handlers.
    keep_from_children(own_end)
    keep_from_children(far_end)
    try:
        with far_end:
            return _begin_at(far_end.fileno(), flags, options, log_file.fileno(), env), own_end
    except BaseException:
        own_end.close()
        raise


def _begin_at(
    owner_fd: int, flags: Sequence[str], options: RunOptions, log_fd: int, env: Mapping[str, str]
) -> Child:
    """Begin it in a process that the fork server has, or in an interpreter."""
    # Not loaded by a command line that starts one sandbox.
    from ballonet.machine.fork_server import OWNER_FD
    from ballonet.machine.served_process import server_for_start

    if (server := server_for_start()) is not None:
        words = _words(replace(options, owner_fd=OWNER_FD), flags)
        log.debug("fork %s", show_command(words))
        try:
            return server.begin(words, clean_environment(env), owner_fd, log_fd)
        except HostError as error:
            log.debug("%s", error)
    words = _words(replace(options, owner_fd=owner_fd), flags)
    return spawn(words, pass_fds=[owner_fd], stderr=log_fd, env=env, new_session=True)


def _words(options: RunOptions, flags: Sequence[str]) -> list[str]:
    """The command line of the sandbox's process."""
    # -P: no module is imported from the working directory, which may belong to another user.
    return [sys.executable, "-P", "-m", "ballonet", "sandbox", *options.render(), *flags]
