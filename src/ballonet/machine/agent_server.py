"""Gives programs of the sandbox's owner access to the guest's agent, over a Unix socket with the agent's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from ballonet.control.peers import Access, AccessPolicy, peer_of
from ballonet.control.socketfile import ControlSocket
from ballonet.guest.relay import AgentRelay

log = logging.getLogger(__name__)

#: The maximum number of clients, because each one needs buffers.
MAX_CLIENTS = 256


class AgentServer:
    """Accepts connections on the agent socket and passes them to the relay."""

    def __init__(self, relay: AgentRelay, agent_socket: ControlSocket) -> None:
        self._relay = relay
        self._socket = agent_socket
        self._policy = AccessPolicy()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start accepting. Earlier connections are waiting in the kernel."""
        # asyncio closes the socket that it gets, so it gets a duplicate.
        listener = socket.socket(fileno=self._socket.socket.dup().detach())
        self._server = await asyncio.start_unix_server(self._accepted, sock=listener)

    async def repair(self) -> None:
        """Listen again if the socket's file is missing. Open connections are kept.

        :raises BindError: it cannot be bound now. May be tried again.
        """
        if self._server is None or self._socket.is_bound():
            return
        self._socket.rebind().close()
        self._server.close()
        await self.start()
        log.warning("the agent socket was missing; it is bound again at %s", self._socket.path)

    async def close(self) -> None:
        """Stop accepting, and close all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            peer = peer_of(writer.get_extra_info("socket"))
            if self._policy.access(peer) is not Access.FULL:
                log.warning("refused agent client %s: not permitted", peer)
            elif len(self._clients) > MAX_CLIENTS:
                log.warning("refused agent client %s: %d are connected already", peer, MAX_CLIENTS)
            else:
                await self._relay.serve_connection(reader, writer)
        except asyncio.CancelledError:
            pass  # only close() cancels, and it waits for this task
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
