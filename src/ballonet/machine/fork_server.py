"""Forks the processes of sandboxes for a program that starts several: ``python -m ballonet.machine.fork_server FD``.

Each sandbox's process would otherwise load an interpreter and its modules, which takes longer than to restore a guest.
This process has loaded them, and has neither threads nor an event loop nor open files, so that a fork of it costs a few
milliseconds, and its copies share its memory. :mod:`ballonet.machine.served_process` is the program's side.

Packets on the Unix socket ``FD`` (``SOCK_SEQPACKET``), each a JSON object:

- to the server: ``words`` and ``env`` of a sandbox's process, with two descriptors: its end of the owner channel, which
  becomes :data:`OWNER_FD`, and its standard error;
- from the server: ``ready``; ``pid``, the answer, with a pidfd (pidfd_open(2)); ``error``, the answer if it could not
  fork; ``ended`` and ``status``, once a process has ended.

It ends when the program's end of the socket is closed. What it has forked runs on.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from ballonet.machine.become_sandbox import become_sandbox, leave_parent

#: The owner channel in a forked process.
OWNER_FD = 3
#: The largest packet (bytes): the kernel's default limit is 208 KiB.
PACKET_BYTES = 256 * 1024
#: A server that nobody has used for this long, and whose processes have all ended, ends (seconds).
_IDLE_S = 120.0
#: What the process of a sandbox loads before it has begun to serve. Copies share it.
_MODULES = (
    "ballonet.machine.main",
    "ballonet.machine.run_directory",
    "ballonet.machine.guest_files",
    "ballonet.machine.services",
    "ballonet.machine.disk",
    "ballonet.machine.lifetime",
    "ballonet.machine.live_save",
    "ballonet.machine.memory_events",
    "ballonet.machine.network",
    "ballonet.machine.network_requests",
    "ballonet.machine.sampler",
    "ballonet.guest.process_state",
    "ballonet.guest.channel_stream",
    "ballonet.host.process_words",
    "ballonet.vmm.default_engine",
    "ballonet.vmm.qemu.vm",
    "ballonet.vmm.qemu.migration",
    "concurrent.futures.thread",
)


def main(fd: int) -> None:
    """Serve until the program's end of the socket is closed."""
    for module in _MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a forked process must not write to what it shares
    line = socket.socket(fileno=fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children = 0
    _say(line, {"ready": True})
    while True:
        waiting = select.poll()
        waiting.register(line, select.POLLIN)
        waiting.register(woken, select.POLLIN)
        events = waiting.poll(_IDLE_S * 1000)
        if not events and children == 0:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        children -= _reap(line)
        if any(found == line.fileno() for found, _ in events):
            packet, fds, _, _ = socket.recv_fds(line, PACKET_BYTES, 2)
            if not packet:
                return
            children += _fork(line, json.loads(packet), fds)


def _reap(line: socket.socket) -> int:
    """Report the processes that have ended; returns how many."""
    count = 0
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            count += 1
            _say(line, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})
    return count


def _fork(line: socket.socket, asked: dict[str, Any], fds: list[int]) -> int:
    """Fork a process that runs what was asked, and answer; returns 1, or 0 if that failed."""
    try:
        if len(fds) != 2:
            _say(line, {"error": f"{len(fds)} descriptors came with the request"})
            return 0
        try:
            pid = os.fork()
        except OSError as error:
            _say(line, {"error": error.strerror})
            return 0
        if pid == 0:
            _become(asked["words"], asked["env"], *fds)
        pidfd = os.pidfd_open(pid)  # it is not reaped yet: this is the process that was forked
        try:
            _say(line, {"pid": pid}, [pidfd])
        finally:
            os.close(pidfd)
        return 1
    finally:
        for fd in fds:
            os.close(fd)


def _become(words: list[str], env: dict[str, str], owner: int, errors: int) -> NoReturn:
    """In the forked process."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        leave_parent(owner, errors)
        os.dup2(errors, 2)
        os.close(errors)
        if owner != OWNER_FD:
            os.dup2(owner, OWNER_FD, inheritable=False)
            os.close(owner)
        become_sandbox(words, env, OWNER_FD)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    # Not by leaving the loop of the server, whose objects this process has as well.
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _say(line: socket.socket, what: dict[str, Any], fds: list[int] | None = None) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionError):  # the next read finds the end
        socket.send_fds(line, [json.dumps(what).encode()], fds or [])


if __name__ == "__main__":
    main(int(sys.argv[1]))
