"""A sandbox's process that was forked early: it loads its modules while its parent reads the command line.

A command line that starts one sandbox would otherwise load a second interpreter, with most modules of the first. The
child is forked before the parent loads anything that the sandbox's process does not need, and before it has threads, an
event loop or open files. It waits for :meth:`PreparedProcess.begin`, and ends if its parent does. The SDK does not
fork: it runs in programs of any size, with threads, whose memory the sandbox's process would keep. It has a
:mod:`~ballonet.machine.fork_server` instead.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ballonet.base.errors import HostError
from ballonet.machine.become_sandbox import become_sandbox, leave_parent

#: Length of the message that begins a run, before the message itself.
_LENGTH_BYTES = 4


class ForkedChild:
    """A child of this process. See :class:`ballonet.base.process.Child`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that killed it; ``None`` while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        status = self._reap(0)
        assert status is not None
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _reap(self, flags: int) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, flags)
            except ChildProcessError:  # this program ignores SIGCHLD: the kernel has reaped it
                pid, status = self.pid, 0
            if pid != 0:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


class PreparedProcess:
    """The parent's side. ``line`` becomes the owner channel; its other end is ``owner_fd`` in the child."""

    def __init__(self, child: ForkedChild, line: socket.socket, owner_fd: int) -> None:
        self.child = child
        self.line = line
        self.owner_fd = owner_fd

    def begin(self, words: Sequence[str], env: Mapping[str, str], log_fd: int) -> None:
        """Make it the process of a sandbox.

        :param words: its command line, as for another interpreter.
        :param env: its environment.
        :param log_fd: its standard error.
        :raises HostError: it has ended.
        """
        message = json.dumps([list(words), dict(env)]).encode()
        try:
            socket.send_fds(self.line, [len(message).to_bytes(_LENGTH_BYTES, "little")], [log_fd])
            self.line.sendall(message)
        except OSError as error:
            raise HostError(f"the sandbox's process cannot be started: {error.strerror}") from error

    def discard(self) -> None:
        """End it. Nothing has begun in it."""
        self.line.close()
        self.child.kill()
        self.child.wait()


_prepared: PreparedProcess | None = None


def prepare_process() -> None:
    """Fork a process for the next sandbox that this program starts: see :func:`ballonet.machine.launch.prepare`.

    Does nothing if that cannot be done. In the child, it raises :class:`SystemExit` in the end.
    """
    global _prepared
    if sys.getfilesystemencoding() != "utf-8":
        return  # another interpreter would use UTF-8
    try:
        near, far = socket.socketpair()
    except OSError:
        return  # the start itself reports it
    try:
        pid = os.fork()
    except OSError:
        near.close()
        far.close()
        return
    if pid == 0:
        near.close()
        _run_child(far.detach())
    owner_fd = far.fileno()
    far.close()
    _prepared = PreparedProcess(ForkedChild(pid), near, owner_fd)


def is_prepared() -> bool:
    """Whether the next sandbox that this program starts has a process already."""
    return _prepared is not None


def take_prepared() -> PreparedProcess | None:
    """The prepared process, if there is one; it is used once."""
    global _prepared
    taken, _prepared = _prepared, None
    return taken


def discard_prepared() -> None:
    """End the prepared process, if it was not used."""
    if (unused := take_prepared()) is not None:
        unused.discard()


def _run_child(line: int) -> NoReturn:
    """Wait for what to run, and run it. If it cannot, the parent starts another interpreter."""
    try:
        leave_parent(line)
        importlib.import_module("ballonet.machine.main")
        words, env = _wait_begin(line)
    except BaseException:
        os._exit(1)
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory, which may belong to another user
    become_sandbox(words, env, line)


def _wait_begin(line: int) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment. Ends this process if the parent has ended or does not need it."""
    with socket.socket(fileno=line) as connection:
        try:
            head, fds, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 1)
            message = b""
            while len(head) == _LENGTH_BYTES and len(message) < int.from_bytes(head, "little"):
                part = connection.recv(int.from_bytes(head, "little") - len(message))
                if not part:
                    break
                message += part
        except OSError:
            os._exit(0)
        finally:
            connection.detach()
    if not message:
        os._exit(0)
    os.dup2(fds[0], 2)
    os.close(fds[0])
    words, env = json.loads(message)
    return words, env
