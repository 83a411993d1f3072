"""One request to another HTTP server, and its response, over any connection: for requests that are passed on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import h11
from starlette.requests import Request
from starlette.types import Scope as Connection

from ballonet.serve.operations import Media, Streamed, request_pieces
from ballonet.serve.problems import refused

_READ_BYTES = 64 << 10
#: They concern one connection only (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

Headers = list[tuple[bytes, bytes]]


def passed_headers(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> Headers:
    """The headers that are passed on. What ``Connection`` names is for one connection only, too."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in without and name not in named]


def target_of(scope: Connection) -> bytes:
    """The path and the query of a request, as the client has encoded them."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return raw.partition(b"?")[0] + (b"?" + query if query else b"")


def passed_request(
    request: Request, without: frozenset[bytes], limit: int
) -> tuple[Headers, AsyncIterator[bytes] | None]:
    """The headers and the body of a request that is passed on; ``None``: it has no body.

    :param without: names of headers that are not passed on, in lower case.
    :param limit: the largest body (bytes).
    """
    headers = passed_headers(request.scope["headers"], without)
    if "content-length" not in request.headers:
        if "transfer-encoding" not in request.headers:
            return headers, None
        headers.append((b"transfer-encoding", b"chunked"))
    return headers, request_pieces(request, limit)


class Exchange:
    """A connection for one request.

    :param server: who answers, for messages.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: str) -> None:
        self._reader, self._writer = reader, writer
        self._server = server
        self._http = h11.Connection(h11.CLIENT)
        self._sending: asyncio.Task[None] | None = None
        #: Why the request could not be sent whole.
        self._unsent: BaseException | None = None
        #: Set when the whole request has been sent.
        self.sent = asyncio.Event()

    async def begin(
        self, head: h11.Request, body: AsyncIterator[bytes] | None, timeout_s: float | None
    ) -> h11.Response:
        """Send the request, and return the head of the response. The body may still be sent then.

        :raises RequestRefusedError: there is no response.
        """
        try:
            self._writer.write(self._http.send(head) or b"")
            self._sending = asyncio.create_task(self._send(body))
            async with asyncio.timeout(timeout_s):
                while True:
                    event = await self._next()
                    if isinstance(event, h11.Response):
                        return event
                    if not isinstance(event, h11.InformationalResponse):
                        raise self._unsent or refused("bad-gateway", f"{self._server} closed the connection")
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            if self._unsent is not None:
                raise self._unsent from None
            why = str(error) or f"not within {timeout_s:g} s"
            raise refused("bad-gateway", f"{self._server} did not answer: {why}") from error

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the response. Its end closes the connection.

        :raises RequestRefusedError: it is not whole.
        """
        try:
            while isinstance(event := await self._next(), h11.Data):
                yield bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise refused("bad-gateway", f"{self._server} closed the connection")
        except (OSError, h11.ProtocolError) as error:
            raise refused("bad-gateway", f"{self._server} broke its answer off: {error}") from error
        finally:
            await self.close()

    def streamed(self, answer: h11.Response, without: frozenset[bytes]) -> Streamed:
        """The response to pass on. Its media type is empty if the response has none.

        :param without: names of headers that are not, in lower case.
        """
        found: dict[str, str] = {}
        for name, value in passed_headers(answer.headers, without | {b"content-type"}):
            key, text = name.decode("latin-1"), value.decode("latin-1")
            found[key] = f"{found[key]}, {text}" if key in found else text
        kind = next((value for name, value in answer.headers if name.lower() == b"content-type"), b"")
        return Streamed(self.body(), Media(kind.decode("latin-1")), found, answer.status_code)

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._writer.close()

    async def _send(self, body: AsyncIterator[bytes] | None) -> None:
        if body is not None:
            try:
                async for piece in body:
                    self._writer.write(self._http.send(h11.Data(data=piece)) or b"")
                    await self._writer.drain()
            except OSError:
                return  # the server reads no more; it may have answered
            except (
                Exception
            ) as error:  # the client sent too much, or is gone: nobody answers an incomplete request
                self._unsent = error
                self._writer.transport.abort()
                return
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()
        self.sent.set()

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event
