"""The control protocol: parses a line into a request or a refusal, and encodes replies. Pure.

Two protocols share the socket. The first byte that is not blank selects one: ``{`` or ``[`` begins JSON-RPC 2.0
(https://www.jsonrpc.org/specification), one message a line; anything else is the plain protocol, one decimal target in
MiB. ``docs/control-protocol.md`` is the reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NoReturn

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ControlError
from ballonet.base.memory import MAX_MIB, mib_to_pages
from ballonet.base.target import Clamp
from ballonet.control.backend import (
    BalloonSnapshot,
    Capabilities,
    Mib,
    Outcome,
    SetResult,
    State,
    Stats,
    TrimRequest,
    TrimResult,
)
from ballonet.control.wire import Range, decode, show

#: Incremented when a change would break a client that follows the documentation.
PROTOCOL_VERSION: Final = 1

#: Longest line in bytes, without its newline, in both protocols and both directions.
LINE_LIMIT: Final = 64 * 1024

#: Longer integers are refused while they are parsed: no value of this protocol needs them.
_MAX_DIGITS: Final = 32
_MAX_ID_CHARS: Final = 256

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
OUT_OF_RANGE: Final = -32001
NO_BALLOON: Final = -32002
NOT_PERMITTED: Final = -32003
BUSY: Final = -32004
TIMED_OUT: Final = -32005
FAILED: Final = -32006
LINE_TOO_LONG: Final = -32007

#: Every error code, its name (also in the error's ``data.name``) and its meaning.
ERRORS: Final[dict[int, tuple[str, str]]] = {
    PARSE_ERROR: ("parse-error", "the line is not JSON in UTF-8, or repeats a name in an object"),
    INVALID_REQUEST: ("invalid-request", "JSON, but not a JSON-RPC 2.0 request; batches too"),
    METHOD_NOT_FOUND: ("method-not-found", "there is no such method"),
    INVALID_PARAMS: ("invalid-params", "a parameter is unknown, missing, of the wrong type or out of bounds"),
    INTERNAL_ERROR: ("internal-error", "a defect of the server; its log has the details"),
    OUT_OF_RANGE: (
        "out-of-range",
        "strict was set and the target would have been clamped; nothing changed",
    ),
    NO_BALLOON: ("no-balloon", "this sandbox has no balloon"),
    NOT_PERMITTED: ("not-permitted", "this user may read, but not change"),
    BUSY: ("busy", "the same is being done already for another client; try again"),
    TIMED_OUT: ("timed-out", "the sandbox did not answer in time, or the client did not speak in time"),
    FAILED: ("failed", "the sandbox could not do it; data.code names the kind of error"),
    LINE_TOO_LONG: ("line-too-long", f"a line of more than {LINE_LIMIT} bytes; the connection is closed"),
}


@dataclass(frozen=True)
class NoParams:
    """The method takes no parameters; ``params`` is absent or ``{}``."""


@dataclass(frozen=True)
class SetParams:
    """Parameters of ``balloon.set``."""

    target_mib: Annotated[Mib, "guest-visible memory"]
    strict: Annotated[bool, "refuse a target that would be clamped, instead of clamping it"] = False
    wait: Annotated[bool, "answer when the state settles, not immediately"] = False
    timeout_s: Annotated[float, Range(0, 3600), "timeout of wait"] = 30
    force: Annotated[bool, "do not stop a shrink at the guard, which protects the guest"] = False


@dataclass(frozen=True)
class LimitParams:
    """Parameters of ``balloon.limit``."""

    limit_mib: Annotated[
        Annotated[int, Range(0, MAX_MIB)] | None,
        "the highest value of targets and pressure relief; null: the ceiling",
    ]


@dataclass(frozen=True)
class StatsParams:
    """Parameters of ``stats``."""

    max_age_s: Annotated[
        Annotated[float, Range(0, 86400)],
        "use a report of the guest that is not older than this; 0: ask the guest now",
    ] = 0


@dataclass(frozen=True)
class VersionResult:
    """Result of ``version``."""

    protocol: Annotated[int, "version of this protocol"]
    program: Annotated[str, "version of the server's program"]
    capabilities: Capabilities


@dataclass(frozen=True)
class SetReply:
    """Result of ``balloon.set``."""

    requested_mib: Annotated[int, "the target as requested"]
    target_mib: Annotated[int, "the target after clamping: the effective one"]
    clamped: Annotated[Clamp | None, "the bound that changed it; null: none"]
    actual_mib: Annotated[int | None, "what the guest has now"]
    state: Annotated[State, "the current state; of a later target if outcome is superseded"]
    outcome: Annotated[
        Literal[Outcome, "accepted"],
        "accepted: without waiting; settled; timeout: still converging; superseded: replaced by a later request",
    ]
    detail: Annotated[str | None, "the reason for the state, for a person"] = None


@dataclass(frozen=True)
class Method:
    """One method: the dataclasses of its parameters and its result, and whether observers may call it."""

    name: str
    params: type
    result: type
    observers: bool
    doc: str


METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        Method("version", NoParams, VersionResult, True, "protocol and program versions, capabilities"),
        Method("balloon.get", NoParams, BalloonSnapshot, True, "the current state of the balloon"),
        Method("balloon.set", SetParams, SetReply, False, "set a target"),
        Method(
            "balloon.watch",
            NoParams,
            BalloonSnapshot,
            True,
            "the current state, then balloon.changed for each change",
        ),
        Method("balloon.limit", LimitParams, BalloonSnapshot, False, "limit targets and pressure relief"),
        Method("stats", StatsParams, Stats, True, "the guest's and the host's memory statistics"),
        Method("guest.trim", TrimRequest, TrimResult, False, "reclaim memory now"),
    )
}

#: The notification that the server sends to watchers; its params are a snapshot.
CHANGED: Final = "balloon.changed"

RequestId = str | int | None


@dataclass(frozen=True)
class Request:
    """A well-formed request. ``wants_reply`` is false for a notification: it is carried out and not answered."""

    id: RequestId
    wants_reply: bool
    method: Method
    params: Any


@dataclass(frozen=True)
class Refusal:
    """An error reply."""

    code: int
    message: str
    id: RequestId = None
    wants_reply: bool = True
    hint: str | None = None
    error_code: str | None = None
    """``code`` of the ``BallonetError`` behind a ``failed``."""


# --- plain -----------------------------------------------------------------------------------------------------

_BLANK: Final = b" \t\r\n\v\f"
_PLAIN: Final = re.compile(rb"[0-9]+")


def is_json(beginning: bytes | bytearray) -> bool:
    """Whether a connection that begins with these bytes uses JSON-RPC."""
    return beginning.lstrip(_BLANK)[:1] in (b"{", b"[")


def parse_plain(line: bytes) -> int | str:
    """The target in MiB of a plain request, or one line that says why it is invalid.

    Blanks around the number are ignored. Numbers above the largest size of any setting count as that size: they mean
    "the ceiling".
    """
    text = line.strip(_BLANK)
    if not text:
        return "nothing was sent: send one target in MiB, such as 512"
    if _PLAIN.fullmatch(text):
        digits = text.lstrip(b"0") or b"0"
        return MAX_MIB if len(digits) > 9 else min(int(digits), MAX_MIB)
    return f"{show(text.decode('latin-1'))} is not a target: send a whole number of MiB from 0, such as 512"


def plain_ok(ceiling_mib: int, target_mib: int) -> bytes:
    """The reply to a plain target: the size of the balloon after clamping, in 4 KiB pages."""
    return b"OK %d\n" % mib_to_pages(ceiling_mib - target_mib)


def plain_error(reason: str) -> bytes:
    """``ERR`` and the reason, as one line of ASCII."""
    line = " ".join(reason.split())
    return b"ERR " + line.encode("ascii", "replace")[:1000] + b"\n"


# --- JSON-RPC --------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ControlError(f"the name {show(repeated)} occurs twice in one object")
    return members


def _short_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ControlError(f"an integer of {len(text)} digits is too long")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ControlError(f"{text} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_short_integer, parse_constant=_no_constant)
_encoder = json.JSONEncoder(separators=(",", ":"), default=vars, allow_nan=False)


def parse_json(line: bytes) -> Any:
    """The JSON value of one line.

    :raises ControlError: it is not UTF-8 or not JSON (``NaN`` is not), repeats a name, has too long an integer, or is
        nested too deeply.
    """
    try:
        return _decoder.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ControlError(f"not UTF-8: byte {error.start}: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise ControlError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError:
        raise ControlError("nested too deeply") from None


def parse_request(line: bytes) -> Request | Refusal:
    """Parse one JSON-RPC message. The result is a request or a refusal, whatever the bytes."""
    try:
        message = parse_json(line)
    except ControlError as error:
        return Refusal(PARSE_ERROR, error.message)
    if isinstance(message, list):
        return Refusal(INVALID_REQUEST, "batches are not supported", hint="send one message a line")
    if not isinstance(message, dict):
        return Refusal(INVALID_REQUEST, f"a request is an object, not {show(message)}")
    request_id = message.get("id")
    bad_id = _id_problem(request_id)
    if bad_id is not None:
        return Refusal(INVALID_REQUEST, bad_id)
    # An error in a message without an id is answered (id null) unless it is certainly a notification.
    if message.get("jsonrpc") != "2.0":
        return Refusal(INVALID_REQUEST, 'the member "jsonrpc" must be "2.0"', request_id)
    unknown = message.keys() - {"jsonrpc", "id", "method", "params"}
    if unknown:
        return Refusal(INVALID_REQUEST, f"unknown member {show(min(unknown))}", request_id)
    name = message.get("method")
    if not isinstance(name, str):
        return Refusal(INVALID_REQUEST, 'the member "method" must be a string', request_id)
    wants_reply = "id" in message
    method = METHODS.get(name)
    if method is None:
        known = ", ".join(METHODS)
        return Refusal(
            METHOD_NOT_FOUND, f"no method {show(name)}", request_id, wants_reply, hint=f"methods: {known}"
        )
    params = message.get("params", {})
    if not isinstance(params, dict):
        reason = f'"params" must be an object with named members, not {show(params)}'
        return Refusal(INVALID_PARAMS, reason, request_id, wants_reply)
    try:
        return Request(request_id, wants_reply, method, decode(method.params, params))
    except ControlError as error:
        return Refusal(INVALID_PARAMS, f"{name}: {error.message}", request_id, wants_reply)


def _id_problem(request_id: object) -> str | None:
    if request_id is None or (isinstance(request_id, int) and not isinstance(request_id, bool)):
        return None
    if not isinstance(request_id, str):
        return f"an id is a string, a whole number or null, not {show(request_id)}"
    if len(request_id) > _MAX_ID_CHARS:
        return f"an id of {len(request_id)} characters is too long: at most {_MAX_ID_CHARS}"
    if any("\ud800" <= char <= "\udfff" for char in request_id):
        return "an id must not hold half of a surrogate pair"
    return None


def encode(message: object) -> bytes:
    """A message as one line of ASCII JSON; dataclasses become objects."""
    return _encoder.encode(message).encode("ascii") + b"\n"


def result_line(request_id: RequestId, result: object) -> bytes:
    """The reply that carries ``result``, a dataclass."""
    return encode({"jsonrpc": "2.0", "id": request_id, "result": result})


def error_line(refusal: Refusal) -> bytes:
    """The reply that carries an error."""
    data = {"name": ERRORS[refusal.code][0]}
    if refusal.hint:
        data["hint"] = refusal.hint
    if refusal.error_code:
        data["code"] = refusal.error_code
    error = {"code": refusal.code, "message": refusal.message, "data": data}
    return encode({"jsonrpc": "2.0", "id": refusal.id, "error": error})


def changed_line(snapshot: BalloonSnapshot) -> bytes:
    """The notification of a change, for watchers."""
    return encode({"jsonrpc": "2.0", "method": CHANGED, "params": snapshot})


def set_reply(
    result: SetResult, snapshot: BalloonSnapshot, outcome: Outcome | Literal["accepted"]
) -> SetReply:
    """The reply to ``balloon.set``, from the result of the request and the current state."""
    return SetReply(
        requested_mib=result.requested_mib,
        target_mib=result.target_mib,
        clamped=result.clamped,
        actual_mib=snapshot.actual_mib,
        state=snapshot.state,
        outcome=outcome,
        detail=snapshot.detail,
    )
