"""Serves sessions over streamable HTTP, as an extension of ``ballonet serve``.

A client opens a session with ``initialize``, and sends its ID with each further request. The session ends when the
client deletes it, or when no request of it was open for the idle timeout. Protocol versions without sessions are
refused: sandboxes belong to a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncIterator

import anyio
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, StreamableHTTPServerTransport
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp_types import INVALID_REQUEST, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ballonet.base.errors import BallonetError
from ballonet.mcp.policy import Policy
from ballonet.mcp.server import build_server
from ballonet.serve.access import Access
from ballonet.serve.operations import MAX_JSON_BYTES, response_to
from ballonet.serve.problems import refused
from ballonet.serve.tokens import Scope as TokenScope

log = logging.getLogger(__name__)

_VERSION_HEADER = "mcp-protocol-version"
#: How long sessions may take to end when the server stops (seconds).
_END_S = 30.0


class _Session:
    """One session: its connection, who opened it, and the task that serves it."""

    def __init__(self, id: str, access: str, idle_s: float) -> None:
        self.transport = StreamableHTTPServerTransport(id, idle_timeout=idle_s)
        self.access = access
        self.connected = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class McpEndpoint:
    """An :class:`~ballonet.serve.extension.Extension`.

    :param max_sessions: of all clients together.
    """

    path = "/mcp"

    def __init__(self, policy: Policy, max_sessions: int) -> None:
        self._server = build_server(policy, proxied=True)
        self._idle_s = float(policy.idle_timeout_s)
        self._max_sessions = max_sessions
        self._sessions: dict[str, _Session] = {}
        #: Those that end; their sandboxes are being removed.
        self._ending: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._limited = RequestBodyLimitMiddleware(self._handle, MAX_JSON_BYTES)

    @contextlib.asynccontextmanager
    async def running(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Serve until the end of the block; then all sessions end."""
        logging.getLogger("mcp").setLevel(logging.ERROR)
        self._stopping = stopping
        try:
            yield
        finally:
            for session in list(self._sessions.values()):
                await session.transport.terminate()
            if self._ending:
                await asyncio.wait(self._ending, timeout=_END_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access: Access = scope["state"]["access"]
        try:
            access.check(TokenScope.USE)
        except BallonetError as error:
            await response_to(error)(scope, receive, send)
            return
        # A stream of events would keep the server from stopping.
        serving = asyncio.ensure_future(self._limited(scope, receive, send))
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not serving.done():
                serving.cancel()
            await asyncio.gather(serving, stopped, return_exceptions=True)
        if not serving.cancelled() and (failed := serving.exception()) is not None:
            raise failed

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        version = headers.get(_VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            known = list(HANDSHAKE_PROTOCOL_VERSIONS)
            data = {"supported": known, "requested": version[:40]}
            message = "this server needs sessions, which that protocol version does not have"
            await _refusal(400, UNSUPPORTED_PROTOCOL_VERSION, message, data)(scope, receive, send)
            return
        access: Access = scope["state"]["access"]
        id = headers.get(MCP_SESSION_ID_HEADER)
        if id is None:
            await self._open(access, scope, receive, send)
            return
        session = self._sessions.get(id)
        if session is None or session.access != access.id:
            await _refusal(404, INVALID_REQUEST, "there is no such session: open a new one")(
                scope, receive, send
            )
            return
        await session.transport.handle_request(scope, receive, send)

    async def _open(self, access: Access, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a new session answer the request that opens it. If it does not succeed, nothing is left."""
        if len(self._sessions) >= self._max_sessions:
            error = refused(
                "too-many-requests",
                f"the server has {self._max_sessions} sessions of agents, which is its limit",
                hint="try again later",
                Retry_After="60",
            )
            await response_to(error)(scope, receive, send)
            return
        id = secrets.token_hex(16)
        session = self._sessions[id] = _Session(id, access.id, self._idle_s)
        session.task = asyncio.create_task(self._run(id, session), name="MCP session")
        self._ending.add(session.task)
        session.task.add_done_callback(self._ending.discard)
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await session.connected.wait()
            await session.transport.handle_request(scope, receive, watched)
        finally:
            if status >= 400:
                with anyio.CancelScope(shield=True):
                    await session.transport.terminate()

    async def _run(self, id: str, session: _Session) -> None:
        try:
            async with session.transport.connect() as (read, write):
                session.connected.set()
                with session.transport.idle_scope or anyio.CancelScope():
                    await self._server.run(read, write, self._server.create_initialization_options())
        except Exception:
            log.exception("an MCP session ended with an internal error")
        finally:
            session.connected.set()
            self._sessions.pop(id, None)
            if not session.transport.is_terminated:
                await session.transport.terminate()


def _refusal(status: int, code: int, message: str, data: object = None) -> Response:
    """An error of JSON-RPC 2.0, section 5.1."""
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    return Response(body, status, media_type="application/json")
