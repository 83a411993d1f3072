"""The client's side of the protocol: encodes requests, decodes replies and errors. Pure."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Mapping
from typing import Any, TypeVar

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ControlError, ControlRefusedError
from ballonet.base.paths import MAX_SOCKET_PATH_BYTES
from ballonet.base.text import printable
from ballonet.control.backend import BalloonSnapshot
from ballonet.control.protocol import CHANGED, ERRORS, LINE_LIMIT, METHODS, encode, parse_json
from ballonet.control.wire import decode, show

T = TypeVar("T")

#: The longest line that is accepted from a server.
_MAX_REPLY_BYTES = 2 * LINE_LIMIT

_ids = itertools.count(1)


@dataclass(frozen=True)
class Call:
    """One pending request."""

    id: int
    method: str
    line: bytes


def make_call(method: str, params: object = None) -> Call:
    """The request for ``method``; ``params`` is its parameter dataclass."""
    call_id = next(_ids)
    message: dict[str, object] = {"jsonrpc": "2.0", "id": call_id, "method": method}
    if params is not None:
        message["params"] = params
    return Call(call_id, method, encode(message))


def take_line(received: bytearray, path: str) -> bytes | None:
    """Remove the first complete line from ``received`` and return it; ``None`` if there is none yet.

    :raises ControlError: it is longer than the protocol allows.
    """
    end = received.find(b"\n")
    if end > _MAX_REPLY_BYTES or (end < 0 and len(received) > _MAX_REPLY_BYTES):
        raise ControlError(f"the server at {path} sent a line of more than {_MAX_REPLY_BYTES} bytes")
    if end < 0:
        return None
    line = bytes(received[: end + 1])
    del received[: end + 1]
    return line


def read_line(line: bytes, path: str) -> dict[str, Any]:
    """The message in a server's line.

    :raises ControlRefusedError: the server refused the connection.
    :raises ControlError: it is not a message of this protocol.
    """
    if line.startswith((b"ERR", b"OK")):
        text = line.decode("ascii", "replace").strip()
        reason = text.removeprefix("ERR ")
        if reason.startswith("not permitted"):
            raise ControlRefusedError(reason, hint="ask the sandbox's owner for access", name="not-permitted")
        if reason.startswith(("too many connections", "the sandbox is out of")):
            raise ControlRefusedError(reason, hint="close other connections, or try again later", name="busy")
        raise ControlError(
            f"the server at {path} supports only the plain protocol; it answered {show(text)}",
            hint="it is an older version: send a plain target",
        )
    try:
        message = parse_json(line)
    except ControlError as error:
        raise ControlError(
            f"the server at {path} sent a line that is not a message: {error.message}"
        ) from error
    if not isinstance(message, dict):
        raise ControlError(f"the server at {path} sent {show(message)} instead of a message")
    return message


def result_of(call: Call, message: Mapping[str, Any]) -> Any:
    """The result of ``call``, or ``None`` if ``message`` answers another request.

    :raises ControlRefusedError: the server refused.
    :raises ControlError: the reply does not have the documented form.
    """
    error = message.get("error")
    # An error without an id is about the connection, such as a timeout.
    if isinstance(error, dict) and message.get("id") in (call.id, None):
        raise refusal_from(error)
    if message.get("id") != call.id:
        return None
    return decode_reply(METHODS[call.method].result, message.get("result"), call.method)


def change_of(message: Mapping[str, Any]) -> BalloonSnapshot | None:
    """The snapshot in a change notification; ``None`` for other messages.

    :raises ControlRefusedError: the message is an error, which ends the watch.
    """
    error = message.get("error")
    if isinstance(error, dict):
        raise refusal_from(error)
    if message.get("method") != CHANGED:
        return None
    return decode_reply(BalloonSnapshot, message.get("params"), CHANGED)


def decode_reply(cls: type[T], members: object, what: str) -> T:
    """``members`` as a ``cls``. Members that a newer server adds are ignored."""
    try:
        return decode(cls, members, ignore_unknown=True)
    except ControlError as error:
        raise ControlError(
            f"the reply to {what} is not as documented: {error.message}",
            hint="the versions of client and server differ",
        ) from error


#: The longest text of a server that is shown.
_MAX_SHOWN = 1000


def refusal_from(error: Mapping[str, Any]) -> ControlRefusedError:
    """The exception for an error reply."""
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    hint = data.get("hint")
    code = error.get("code")  # a server may send anything, even a value that is not hashable
    known = ERRORS[code][0] if isinstance(code, int) and code in ERRORS else "failed"
    return ControlRefusedError(
        _shown(str(error.get("message", "refused"))),
        hint=_shown(hint) if isinstance(hint, str) else None,
        name=_shown(str(data.get("name", known))),
    )


def _shown(text: str) -> str:
    """Text of a server, shortened and without control characters: it is not trusted."""
    return printable(text[:_MAX_SHOWN])


def connect_error(path: str, error: OSError) -> ControlError:
    """The error for a failed ``connect``."""
    reasons = {
        errno.ENOENT: ("there is no socket", "check that the sandbox is running"),
        errno.ECONNREFUSED: (
            "no process is listening",
            "the sandbox has ended; 'ballonet prune' removes what it left",
        ),
        errno.EACCES: ("permission denied", "ask the sandbox's owner for access"),
        errno.EPERM: ("permission denied", "ask the sandbox's owner for access"),
        errno.ENOTSOCK: ("it is not a socket", "give the path of a control socket"),
    }
    cause, hint = reasons.get(error.errno or 0, (error.strerror or str(error), "check the path"))
    return ControlError(f"cannot connect to the control socket {path!r}: {cause}", hint=hint)


def check_path(path: str) -> None:
    """:raises ControlError: it is not a valid path for a socket."""
    length = len(path.encode("utf-8", "surrogateescape"))
    if not path or "\0" in path or length > MAX_SOCKET_PATH_BYTES:
        reason = (
            f"the path has {length} bytes; the maximum is {MAX_SOCKET_PATH_BYTES}"
            if length
            else "the path is empty"
        )
        raise ControlError(f"cannot connect to the control socket {path!r}: {reason}", hint="check the path")


def stalled(path: str, what: str, seconds: float) -> ControlError:
    """The error for a server that does not answer in time."""
    return ControlError(
        f"the server at {path} did not answer {what} within {seconds:g} s",
        hint="the sandbox's process may be stopped or stuck; see its log",
    )


def ended(path: str, what: str) -> ControlError:
    """The error for a server that closes the connection instead of answering."""
    return ControlError(
        f"the server at {path} closed the connection without answering {what}",
        hint="the sandbox has ended, or its version does not support this request",
    )
