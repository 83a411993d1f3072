"""The control server: accepts connections, checks credentials, and isolates clients from one another.

It writes nothing to disk, so a full disk does not affect it. While descriptors or memory are short, it refuses new
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable

from ballonet.base.errors import BindError
from ballonet.control import protocol
from ballonet.control.backend import Backend
from ballonet.control.connection import Connection, Limits
from ballonet.control.dispatch import Dispatcher
from ballonet.control.peers import Access, AccessPolicy, Peer, peer_of
from ballonet.control.socketfile import ControlSocket
from ballonet.version import __version__

log = logging.getLogger(__name__)

#: Connections that are accepted before others get their turn.
_ACCEPTS_PER_TURN = 16

#: Bytes that are read from a connection at a time.
_READ_BYTES = 16 * 1024

#: Size of the kernel's send buffer, in bytes (the kernel doubles it: socket(7)).
_KERNEL_BUFFER_BYTES = 16 * 1024

#: Pause after ``accept`` failed and the client could not be refused (seconds).
_ACCEPT_PAUSE_S = 0.1

#: Refused clients whose connection stays open for a short time, so that they can read the reason.
_REFUSED_KEPT = 32

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class ControlServer:
    """Serves one sandbox's control socket.

    :param control_socket: bound; the server owns it from now on and removes it in :meth:`close`.
    """

    def __init__(
        self,
        backend: Backend,
        control_socket: ControlSocket,
        *,
        policy: AccessPolicy | None = None,
        limits: Limits | None = None,
        program_version: str = __version__,
    ) -> None:
        self.limits = limits or Limits()
        self.dispatcher = Dispatcher(backend, program_version=program_version, call_s=self.limits.call_s)
        self.scratch = memoryview(bytearray(_READ_BYTES))
        self.loop: asyncio.AbstractEventLoop
        self._policy = policy or AccessPolicy()
        self._control_socket = control_socket
        self._connections: set[Connection] = set()
        self._per_user: Counter[int] = Counter()
        self._joining: set[asyncio.Task[None]] = set()
        self._refused: deque[tuple[float, socket.socket]] = deque()
        self._spare_fd = -1
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._lost_reason: str | None = None

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return self._per_user.total()

    async def start(self) -> None:
        """Start accepting."""
        self.loop = asyncio.get_running_loop()
        self._keep_spare()
        self._listen()
        self._later("check socket", self.limits.check_socket_s, self._check_socket)

    async def close(self) -> None:
        """Stop accepting, remove the socket, and close all connections. May be called again."""
        self._stop_timers()
        if self._control_socket.fileno() >= 0:
            self.loop.remove_reader(self._control_socket.fileno())
        self._control_socket.close()
        await asyncio.gather(*self._joining, return_exceptions=True)
        for connection in list(self._connections):
            connection.end()
        self._stop_timers()
        self._keep_refused(0)
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1
        # Closed transports flush and report their end in the next iterations of the event loop.
        await asyncio.sleep(0)

    def remember(self, connection: Connection) -> None:
        """``connection`` was opened."""
        self._connections.add(connection)
        if "sweep" not in self._timers:
            self._later("sweep", self.limits.sweep_s, self._sweep)

    def forget(self, connection: Connection) -> None:
        """``connection`` was closed."""
        self._connections.discard(connection)
        self._leave(connection.peer)

    def _later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._timers[name] = self.loop.call_later(seconds, call)

    def _stop_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # --- accepting ---

    def _listen(self) -> None:
        self.loop.add_reader(self._control_socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client = self._next_client()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            if client is not None:
                self._admit(client)

    def _next_client(self) -> socket.socket | None:
        """The next client; ``None`` if it had to be refused because no descriptor is free.

        A client left in the queue would keep the listener ready and the event loop spinning, and never learn why. So
        the spare descriptor is closed to accept the client, tell it the reason and close it. The kernel needs a free
        descriptor even to report an empty queue, so the spare one is always reopened.
        """
        try:
            return self._control_socket.socket.accept()[0]
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS or self._spare_fd < 0:
                self._keep_spare()
                raise
        self._keep_refused(0)
        os.close(self._spare_fd)
        self._spare_fd = -1
        try:
            with self._control_socket.socket.accept()[0] as client:
                _say_refused(client, "the sandbox is out of file descriptors: try again later")
        finally:
            self._keep_spare()
        return None

    def _keep_spare(self) -> None:
        if self._spare_fd < 0:
            with contextlib.suppress(OSError):
                self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _pause_accepting(self, error: OSError) -> None:
        log.warning("the control socket cannot accept now, pausing: %s", error.strerror)
        self.loop.remove_reader(self._control_socket.fileno())
        self._later("accept", _ACCEPT_PAUSE_S, self._listen)

    def _admit(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            peer = peer_of(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER_BYTES)
        except OSError as error:
            log.warning("a control client was refused, its credentials are unknown: %s", error.strerror)
            self._refuse(client, "not permitted: your credentials are unknown")
            return
        access = self._policy.access(peer)
        if access is Access.NONE:
            log.warning("refused control client %s: not permitted", peer)
            self._refuse(client, f"not permitted: {peer} may not use this socket")
        elif self._per_user[peer.uid] >= self.limits.per_user:
            self._refuse(
                client, f"too many connections: uid {peer.uid} has {self.limits.per_user}, the most per user"
            )
        elif self.connections >= self.limits.total:
            self._refuse(client, f"too many connections: there are {self.limits.total}, the most in all")
        else:
            self._per_user[peer.uid] += 1
            task = self.loop.create_task(self._join(client, peer, access))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)

    def _refuse(self, client: socket.socket, reason: str) -> None:
        """Send the reason, and close later: some clients do not read a reply before they have sent their request."""
        _say_refused(client, reason)
        self._refused.append((self.loop.time() + self.limits.linger_s, client))
        self._keep_refused(_REFUSED_KEPT)
        if "refused" not in self._timers:
            self._later("refused", self.limits.linger_s, self._sweep_refused)

    def _keep_refused(self, most: int) -> None:
        """Close the connections of all refused clients except the ``most`` newest."""
        while len(self._refused) > most:
            self._refused.popleft()[1].close()

    async def _join(self, client: socket.socket, peer: Peer, access: Access) -> None:
        await self.loop.connect_accepted_socket(lambda: Connection(self, peer, access), client)

    def _leave(self, peer: Peer) -> None:
        self._per_user[peer.uid] -= 1
        if self._per_user[peer.uid] <= 0:
            del self._per_user[peer.uid]

    # --- periodic work ---

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self._connections):
            connection.check_deadlines(now)
        del self._timers["sweep"]
        if self._connections:
            self._later("sweep", self.limits.sweep_s, self._sweep)

    def _sweep_refused(self) -> None:
        now = self.loop.time()
        self._keep_refused(sum(until > now for until, _ in self._refused))
        del self._timers["refused"]
        if self._refused:
            self._later("refused", self.limits.sweep_s, self._sweep_refused)

    def _check_socket(self) -> None:
        """Bind again if the file was deleted.

        Unlike a watch on the inode, a check of the path also detects a renamed directory. It costs one system call.
        """
        self._later("check socket", self.limits.check_socket_s, self._check_socket)
        self.repair_socket()

    def repair_socket(self) -> None:
        """Bind again if the socket's file is missing."""
        if self._control_socket.is_bound():
            return
        before = self._control_socket.fileno()
        try:
            old = self._control_socket.rebind()
        except BindError as error:
            if error.message != self._lost_reason:
                log.error("the control socket is missing and cannot be bound again yet: %s", error.message)
            self._lost_reason = error.message
            return
        self._lost_reason = None
        log.warning("the control socket %s was missing; it is bound again", self._control_socket.path)
        self.loop.remove_reader(before)
        # Clients in the queue of the old socket are still served.
        with contextlib.suppress(OSError):
            while True:
                self._admit(old.accept()[0])
        old.close()
        self._listen()


def _say_refused(client: socket.socket, reason: str) -> None:
    """Send one line, in the plain protocol: the peer has not selected a protocol yet."""
    with contextlib.suppress(OSError):
        client.setblocking(False)
        client.send(protocol.plain_error(reason))
        client.shutdown(socket.SHUT_WR)
