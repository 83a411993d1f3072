"""What an operation of the HTTP API is: its address, what it takes and returns, and the code that does it.

The routes and the OpenAPI document follow from the same list of operations.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ballonet.base.errors import BallonetError, HostError
from ballonet.serve.pieces import close_pieces
from ballonet.serve.problems import MEDIA_TYPE, Problem, problem_of, refused
from ballonet.serve.tokens import Scope as TokenScope

if TYPE_CHECKING:
    from ballonet.serve.access import Access
    from ballonet.serve.services import Services

log = logging.getLogger(__name__)

#: The OpenAPI document of all operations: the shipped copy.
OPENAPI_FILE = Path(__file__).with_name("openapi.json")
#: The largest JSON body (bytes).
MAX_JSON_BYTES = 4 << 20
#: How long the server waits for the next part of a body (seconds).
BODY_STALL_S = 60.0


class Operation(NamedTuple):
    """One method at one address."""

    method: str
    #: With path parameters in braces.
    path: str
    handler: Callable[[Call], Awaitable[Response | Streamed]]
    #: The scope that a token needs; ``None``: no token.
    scope: TokenScope | None
    summary: str
    description: str = ""
    #: The parameters of the query: a struct.
    query: type[msgspec.Struct] | None = None
    #: The body: a struct, or :data:`BYTES`.
    body: Any = None
    #: What the response has: a type, a media type, or ``None`` for nothing.
    result: Any = None
    status: int = 200
    #: The codes of errors that are particular to it, and what they mean.
    errors: Mapping[int, str] = {}
    #: Headers of the request that it uses, with their meaning.
    headers: Mapping[str, str] = {}
    #: Its handler reads the body itself.
    raw: bool = False


class Media(NamedTuple):
    """A body that is not JSON. An empty type: it has none."""

    type: str


BYTES = Media("application/octet-stream")
TAR = Media("application/x-tar")
EVENT_STREAM = Media("text/event-stream")


class Call:
    """One request for an operation."""

    def __init__(
        self,
        operation: Operation,
        services: Services,
        access: Access,
        request: Request,
        query: Any,
        body: Any,
    ) -> None:
        self.operation = operation
        self.services = services
        self.access = access
        self.request = request
        self.query = query
        self.body = body

    def path(self, parameter: str) -> str:
        """A path parameter."""
        return str(self.request.path_params[parameter])

    @property
    def name(self) -> str:
        """The path parameter ``name``."""
        return self.path("name")

    def upload(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, up to the server's limit."""
        return request_pieces(self.request, self.services.max_upload_bytes)


class Streamed(NamedTuple):
    """A response that is sent piece by piece. It ends when the client disconnects, or when the server stops."""

    pieces: AsyncIterator[bytes]
    media: Media
    headers: Mapping[str, str] = {}
    status: int = 200


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response with a JSON document."""
    return Response(encode(value), status, dict(headers or {}), "application/json")


def nothing() -> Response:
    """A response without a body."""
    return Response(status_code=204)


def encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(problem), problem.status, dict(headers or {}), MEDIA_TYPE)


def response_to(error: Exception) -> Response:
    """The response for an error. One that is not expected is logged, and told without its details."""
    if isinstance(error, BallonetError):
        return problem_response(problem_of(error), getattr(error, "headers", None))
    if isinstance(error, OSError) and error.errno is not None:
        return problem_response(problem_of(HostError(f"{error.filename or 'the host'}: {error.strerror}")))
    log.error("internal error", exc_info=error)
    return problem_response(
        problem_of(refused("internal", "this is a bug; the server's log has the details"))
    )


async def carry_out(
    operation: Operation, services: Services, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve one request."""
    request = Request(scope, receive)
    access: Access = scope["state"]["access"]
    response: Response | Streamed
    try:
        access.check(operation.scope)
        query = _query(operation, request)
        body = await _body(operation, request)
        response = await operation.handler(Call(operation, services, access, request, query, body))
    except ClientDisconnect:
        return
    except asyncio.CancelledError:
        if not services.stopping.is_set():
            raise
        response = response_to(refused("stopping", "the server was stopped before this was done"))
    except Exception as error:
        response = response_to(error)
    if isinstance(response, Streamed):
        await send_stream(response, services.stopping, receive, send)
    else:
        await response(scope, receive, send)


def _query(operation: Operation, request: Request) -> Any:
    pairs = request.query_params.multi_items()
    values: dict[str, Any] = dict(pairs)
    repeated = _repeated(operation.query)
    if len(values) != len([name for name, _ in pairs if name not in repeated]) + len(
        repeated & values.keys()
    ):
        raise refused("invalid-request", "a parameter of the query is given twice")
    for name in repeated & values.keys():
        values[name] = request.query_params.getlist(name)
    if operation.query is None:
        if values:
            raise refused("invalid-request", f"the parameter {next(iter(values))[:80]!r} is not known here")
        return None
    try:
        return msgspec.convert(values, operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise refused("invalid-request", f"the query is invalid: {error}") from None


@functools.cache
def _repeated(query: type[msgspec.Struct] | None) -> frozenset[str]:
    """The parameters that may be given several times."""
    found = () if query is None else msgspec.structs.fields(query)
    return frozenset(field.name for field in found if isinstance(field.default_factory, type))


async def _body(operation: Operation, request: Request) -> Any:
    if operation.raw or operation.body is None or isinstance(operation.body, Media):
        return None
    parts = [piece async for piece in request_pieces(request, MAX_JSON_BYTES)]
    raw = b"".join(parts)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also a protection: a page of another site can send other types without asking.
    if raw and media != "application/json":
        raise refused(
            "unsupported-media-type", f"the body has the type {media[:80]!r}", hint="send application/json"
        )
    try:
        return msgspec.json.decode(raw or b"{}", type=operation.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise refused("invalid-request", f"the body is invalid: {error}") from None


async def request_pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece.

    :raises RequestRefusedError: it is longer than ``limit`` bytes, or stops arriving.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise _too_large(limit)
    total = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_STALL_S):
                piece = await anext(stream, None)
        except TimeoutError:
            raise refused(
                "invalid-request", f"the body stopped arriving for {BODY_STALL_S:g} seconds"
            ) from None
        if piece is None:
            return
        total += len(piece)
        if total > limit:
            raise _too_large(limit)
        if piece:
            yield piece


def _too_large(limit: int) -> BallonetError:
    # The rest of the body is not read.
    return refused("too-large", f"the body has more than {limit} bytes", Connection="close")


async def send_stream(response: Streamed, stopping: asyncio.Event, receive: Receive, send: Send) -> None:
    """Send a response whose pieces come over time, at the pace of the client."""
    headers = [(b"content-type", response.media.type.encode())] if response.media.type else []
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers.items()]

    async def write() -> None:
        # The first piece is awaited before the response starts: until then an error has a status of its own.
        pieces = response.pieces
        try:
            first = await anext(pieces, None)
        except Exception as error:
            failed = response_to(error)
            await failed({"type": "http"}, receive, send)
            return
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if first is not None:
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work) for work in (write(), gone(), stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done() and (error := tasks[0].exception()) is not None:
            # The response has begun: breaking it off tells the client that it is not complete.
            log.warning("a response was broken off: %s", error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_pieces(response.pieces)


async def send_made(
    making: Awaitable[Streamed | None], stopping: asyncio.Event, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send a response, or one to the error that it could not be made; ``None``: all was sent already."""
    try:
        response = await making
    except ClientDisconnect:
        return
    except Exception as error:
        await response_to(error)(scope, receive, send)
        return
    if response is not None:
        await send_stream(response, stopping, receive, send)
