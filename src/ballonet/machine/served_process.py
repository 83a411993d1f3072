"""The program's side of the :mod:`~ballonet.machine.fork_server`: when there is one, and the processes it forks.

A program that starts one sandbox starts an interpreter for it. With the second one, or when it says that it will start
several, it gets a server, which is used as soon as it is ready: no start waits for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ballonet.base.errors import HostError
from ballonet.base.forked import keep_from_children, never_destroy
from ballonet.base.process import spawn
from ballonet.machine.fork_server import PACKET_BYTES

log = logging.getLogger(__name__)

#: How long the server may take to fork (seconds). It takes milliseconds.
_FORK_S = 10.0
#: How long the server may take to report a process that has ended (seconds).
_REPORT_S = 2.0
#: The status of a process whose server has ended before it: nobody can read it.
_UNKNOWN_STATUS = 255
#: Lines of /proc/self/status that a child has from its parent.
_STATUS_LINES = ("Uid", "Gid", "Groups", "Umask", "SigIgn", "CapEff", "NoNewPrivs", "Seccomp", "Cpus_allowed")


class ServedChild:
    """A process that the server has forked. See :class:`ballonet.base.process.Child`."""

    def __init__(self, server: ForkServer, pid: int, pidfd: int) -> None:
        self.pid = pid
        #: Leads to this process and no later one with the same number.
        self.pidfd = pidfd
        self._server = server
        self._status: int | None = None

    def __del__(self) -> None:
        self.close()

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that killed it; 255 if its server has ended. ``None`` while it runs."""
        if self._status is None and _readable(self.pidfd, 0):
            self._status = self._server.status_of(self.pid)
            self.close()
        return self._status

    def wait(self) -> int:
        while (status := self.poll()) is None:
            _readable(self.pidfd, None)
        return status

    def send_signal(self, sig: int) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Do not follow it any more. Its server reaps it."""
        pidfd, self.pidfd = self.pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
            self._server.forget(self.pid)


class ForkServer:
    """One server, started with what this process is at that time.

    :raises BallonetError: it cannot be started.
    """

    def __init__(self) -> None:
        self._surroundings = _surroundings()
        self._turn = threading.Lock()
        #: Its processes that are followed, with the status of those that have ended.
        self._statuses: dict[int, int | None] = {}
        self._ready = self._ended = False
        try:
            self._line, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise HostError(f"no connection can be created: {error.strerror}") from error
        keep_from_children(self._line)
        with far:
            words = [sys.executable, "-P", "-m", "ballonet.machine.fork_server", str(far.fileno())]
            self._process = spawn(words, pass_fds=[far.fileno()], new_session=True)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    @property
    def usable(self) -> bool:
        """Whether a process that it forks would be as one that this process starts."""
        with self._turn:
            self._read(0.0)
            return not self._ended and self._surroundings == _surroundings()

    @property
    def ready(self) -> bool:
        with self._turn:
            self._read(0.0)
            return self._ready and not self._ended

    def begin(
        self, words: Sequence[str], env: Mapping[str, str], owner_fd: int, errors_fd: int
    ) -> ServedChild:
        """Fork a process that runs the sandbox that ``words`` describe.

        :raises HostError: it cannot.
        """
        packet = json.dumps({"words": list(words), "env": dict(env)}).encode()
        if len(packet) > PACKET_BYTES:
            raise HostError(f"the command line and the environment have {len(packet)} bytes")
        with self._turn:
            try:
                socket.send_fds(self._line, [packet], [owner_fd, errors_fd])
            except OSError as error:
                raise HostError(f"the fork server cannot be reached: {error.strerror}") from error
            found = self._read(_FORK_S)
            if found is not None:
                self._statuses[found[0]] = None
        if found is None:
            self.close()  # an answer that comes later would be taken for another one
            raise HostError("the fork server does not answer")
        return ServedChild(self, *found)

    def status_of(self, pid: int) -> int:
        """The exit status of one of its processes that has ended."""
        with self._turn:
            self._read(0.0)
            if self._statuses.get(pid) is None:
                self._read(_REPORT_S, ended=pid)
            status = self._statuses.get(pid)
            return _UNKNOWN_STATUS if status is None else status

    def forget(self, pid: int) -> None:
        """Nobody asks for the status of this process any more."""
        self._statuses.pop(pid, None)

    def close(self) -> None:
        """End it. What it has forked runs on."""
        self._line.close()
        self._ended = True
        self._process.poll()

    def _read(self, timeout_s: float, *, ended: int | None = None) -> tuple[int, int] | None:
        """Read what it says, until it has forked a process, or process ``ended`` has ended, or the time is over.

        :returns: the process that was forked, with its pidfd.
        :raises HostError: it could not fork.
        """
        while not self._ended and _readable(self._line.fileno(), timeout_s):
            packet, fds, _, _ = socket.recv_fds(self._line, PACKET_BYTES, 1)
            if not packet:
                self.close()
                break
            said: dict[str, Any] = json.loads(packet)
            if "error" in said:
                raise HostError(f"the fork server could not fork: {said['error']}")
            if "pid" in said:
                return said["pid"], fds[0]
            if "ended" in said:
                if said["ended"] in self._statuses:
                    self._statuses[said["ended"]] = said["status"]
                if said["ended"] == ended:
                    break
            self._ready = True
        return None


_turn = threading.Lock()
_server: ForkServer | None = None
_starts = 0


def expect_starts() -> None:
    """Say that this program will start several sandboxes. Returns at once."""
    with _turn:
        _renew()


def server_for_start() -> ForkServer | None:
    """The server for the next sandbox, if there is one that is ready."""
    global _starts
    with _turn:
        _starts += 1
        if _starts > 1:
            _renew()
        return _server if _server is not None and _server.ready else None


def _renew() -> None:
    """Start a server, unless there is one that can be used."""
    global _server
    if _server is not None and _server.usable:
        return
    _server = None  # it ends when none of its processes is followed any more
    try:
        _server = ForkServer()
    except (HostError, OSError) as error:
        log.debug("no fork server: %s", error)


def _forget() -> None:
    """In a forked child: the server is its parent's, and another thread of that may have had the lock."""
    global _turn, _server, _starts
    never_destroy(_server, _turn)
    _turn, _server, _starts = threading.Lock(), None, 0


os.register_at_fork(after_in_child=_forget)


def _surroundings() -> tuple[object, ...]:
    """What a child has from its parent, apart from the environment."""
    proc = Path("/proc/self")
    lines = (line.partition(":") for line in (proc / "status").read_text().splitlines())
    return (
        *(value for name, _, value in lines if name in _STATUS_LINES),
        *((proc / name).read_text() for name in ("cgroup", "limits", "oom_score_adj")),
        *(os.readlink(proc / name) for name in ("cwd", "root", "ns/mnt", "ns/net", "ns/user", "ns/pid")),  # noqa: PTH115
        os.getpriority(os.PRIO_PROCESS, 0),
    )


def _readable(fd: int, timeout_s: float | None) -> bool:
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))
