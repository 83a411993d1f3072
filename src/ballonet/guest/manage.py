"""The frames between local clients and the sandbox's process: requests to the process itself (MANAGE and MANAGED), and
the news that it was paused (PAUSED). The guest never gets them. Pure.

Payloads are JSON objects: ``{"do": NAME, …}``, answered by ``{"done": …}`` or ``{"error": CODE, "message": …}``.
"""

from __future__ import annotations

import json
from typing import Any

from ballonet.base.errors import BallonetError, GuestChannelError, GuestPausedError, error_class
from ballonet.base.text import printable


def encode_request(do: str, arguments: dict[str, Any]) -> bytes:
    return json.dumps({"do": do, **arguments}).encode()


def decode_request(payload: bytes) -> tuple[str, dict[str, Any]]:
    """:raises GuestChannelError: it is malformed."""
    request = _object(payload)
    do = request.pop("do", None)
    if not isinstance(do, str):
        raise GuestChannelError("a MANAGE frame that names no request")
    return do, request


def encode_done(result: dict[str, Any]) -> bytes:
    return json.dumps({"done": result}).encode()


def encode_failed(error: BallonetError) -> bytes:
    return json.dumps({"error": error.code, "message": error.message, "hint": error.hint}).encode()


def decode_reply(payload: bytes) -> dict[str, Any]:
    """The result.

    :raises BallonetError: the one that was raised in the sandbox's process.
    :raises GuestChannelError: the reply is malformed.
    """
    reply = _object(payload)
    done = reply.get("done")
    if isinstance(done, dict):
        return done
    hint = reply.get("hint")
    raise error_class(str(reply.get("error")))(
        str(reply.get("message")), hint=None if hint is None else str(hint)
    )


def encode_paused(error: GuestPausedError) -> bytes:
    return json.dumps({"message": error.message, "hint": error.hint}).encode()


def decode_paused(payload: bytes) -> GuestPausedError:
    """:raises GuestChannelError: it is malformed."""
    news = _object(payload)
    hint = news.get("hint")
    return GuestPausedError(
        printable(str(news.get("message")))[:512], hint=None if hint is None else printable(str(hint))[:512]
    )


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise GuestChannelError("a frame whose payload is not JSON") from error
    if not isinstance(value, dict):
        raise GuestChannelError("a frame whose payload is not an object")
    return value
