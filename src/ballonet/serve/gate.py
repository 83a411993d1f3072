"""What every request passes before it reaches an operation: limits, Host, Origin and the token."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from ballonet.base.errors import BallonetError
from ballonet.serve.access import SCOPE_HEADER, TOKEN_PROTOCOL, Access
from ballonet.serve.operations import response_to
from ballonet.serve.problems import refused
from ballonet.serve.request_checks import host_permitted, origin_permitted
from ballonet.serve.tokens import Scope, TokenFile

log = logging.getLogger(__name__)

#: Headers of all responses, unless a response has its own.
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Range, "
    "Mcp-Session-Id, Mcp-Protocol-Version",
    "Access-Control-Max-Age": "600",
}


class Gate:
    """An ASGI application in front of another one.

    :param tokens: ``None``: whoever can connect is the user, as on a Unix socket with mode 0600.
    :param hosts: names of this server, in lower case.
    :param origins: origins of pages that may use it, besides its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        counter: Counter,
        tokens: TokenFile | None,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._counter = counter
        self._tokens = tokens
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        request = HTTPConnection(scope)
        page = _cross_origin(request.headers.get("origin"), self._origins)
        send = _with_headers(send, {**_HEADERS, **page})
        try:
            self._counter.enter()
        except BallonetError as error:
            await response_to(error)(scope, receive, send)
            return
        try:
            try:
                access = self._let_in(request)
            except BallonetError as error:
                await response_to(error)(scope, receive, send)
                return
            if page and _is_preflight(request):
                await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send)
                return
            scope.setdefault("state", {})["access"] = access
            await self._app(scope, receive, send)
        except Exception:  # after a response has begun: otherwise it is told in the response
            log.exception("internal error")
        finally:
            self._counter.leave()

    def _let_in(self, request: HTTPConnection) -> Access:
        if self._tokens is None:
            if (origin := request.headers.get("origin")) is not None and origin not in self._origins:
                raise refused("origin-refused", f"pages of {origin[:200]!r} may not use this server")
            return Access("local", _stated_scope(request))
        host = request.headers.get("host", "")
        if not host_permitted(host, self._hosts):
            raise refused(
                "host-refused",
                f"the request is for the host {host[:200]!r}",
                hint="use its address, or start the server with --host-name NAME",
            )
        origin = request.headers.get("origin")
        # A WebSocket has the scheme ws or wss, and its page http or https.
        scheme = "https" if request.scope["scheme"] in ("https", "wss") else "http"
        if origin is not None and not origin_permitted(origin, host, self._origins, scheme=scheme):
            raise refused(
                "origin-refused",
                f"pages of {origin[:200]!r} may not use this server",
                hint="start the server with --allow-origin ORIGIN",
            )
        text = _token_in(request)
        if text is None:
            return Access("", None, "the request has no token")
        token, why = self._tokens.check(text, time.time())
        return Access("", None, why) if token is None else Access(token.id, Scope(token.scope))


def _stated_scope(request: HTTPConnection) -> Scope:
    """:raises RequestRefusedError: there is no such scope."""
    text = request.headers.get(SCOPE_HEADER.decode())
    try:
        return Scope.ADMIN if text is None else Scope(text)
    except ValueError:
        raise refused("invalid-request", f"there is no scope {text!r}"[:200]) from None


class Counter:
    """Limits how many requests are served at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def enter(self) -> None:
        """:raises RequestRefusedError: the limit is reached."""
        if self._count >= self._limit:
            raise refused(
                "too-many-requests",
                f"the server handles {self._limit} requests now, which is its limit",
                hint="try again later",
                Retry_After="1",
            )
        self._count += 1

    def leave(self) -> None:
        self._count -= 1


def _token_in(request: HTTPConnection) -> str | None:
    given = request.headers.get("authorization")
    if given is not None:
        kind, _, text = given.partition(" ")
        return text.strip() if kind.lower() == "bearer" else ""
    if request.scope["type"] == "websocket":
        for offered in request.scope.get("subprotocols", ()):
            if offered.startswith(TOKEN_PROTOCOL):
                return str(offered.removeprefix(TOKEN_PROTOCOL))
    return None


def _cross_origin(origin: str | None, origins: Collection[str]) -> dict[bytes, bytes]:
    """The headers with which a browser lets a page of another origin read a response, if it is one of ``origins``."""
    if origin is None or origin not in origins:
        return {}
    return {
        b"access-control-allow-origin": origin.encode("latin-1"),
        b"access-control-expose-headers": b"Location, Idempotency-Replayed, Content-Range, Last-Event-ID, Retry-After, "
        b"Mcp-Session-Id",
        b"cross-origin-resource-policy": b"cross-origin",
        b"vary": b"Origin",
    }


def _is_preflight(request: HTTPConnection) -> bool:
    """Whether a browser asks if it may send a request (Fetch standard, section 3.3.2); it has no token."""
    is_options = request.scope.get("method") == "OPTIONS"
    return is_options and "access-control-request-method" in request.headers


def _with_headers(send: Send, added: Mapping[bytes, bytes]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in added.items() if name not in present]
            message = {**message, "headers": headers}
        await send(message)

    return sending
