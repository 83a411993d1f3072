"""Errors as problem documents (RFC 9457), with the library's stable error codes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ballonet.base.errors import BallonetError, ConfigError, SettingError
from ballonet.settings.names import PARAMETERS

MEDIA_TYPE = "application/problem+json"


class RequestRefusedError(BallonetError):
    """The server refused the request; nothing was done.

    :param problem: the code in the problem document.
    :param headers: of the response, in addition to the usual ones.
    """

    code = "request-refused"

    def __init__(
        self,
        status: int,
        problem: str,
        message: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.problem = problem
        self.headers = dict(headers or {})


class Problem(msgspec.Struct, omit_defaults=True):
    """Why a request failed (RFC 9457)."""

    #: A URN that identifies the kind of problem.
    type: str
    #: The kind of problem, in words.
    title: str
    #: The status of the response.
    status: int
    #: What happened, with the values.
    detail: str
    #: The stable code of the error.
    code: str
    #: What to do about it.
    hint: str | None = None


#: The status of each error code of the library; the others of a :class:`ConfigError` are 400, the rest 500.
STATUSES = {
    "name-in-use": 409,
    "unknown-sandbox": 404,
    "not-running": 409,
    "closed": 409,
    "still-running": 409,
    "unknown-volume": 404,
    "volume-in-use": 409,
    "unknown-image": 404,
    "image-in-use": 409,
    "unknown-snapshot": 404,
    "snapshot-in-use": 409,
    "balloon": 422,
    "resume": 409,
    "guest": 422,
    "guest-command": 422,
    "guest-file": 422,
    "guest-paused": 409,
    "command-timeout": 504,
    "control-refused": 422,
    "bind": 409,
    "busy": 409,
    "no-room": 503,
    "image": 422,
    "image-fetch": 502,
    "snapshot": 422,
}
#: The problems of the server itself: status and title.
OWN = {
    "invalid-request": (400, "The request is invalid"),
    "unauthorized": (401, "A valid token is required"),
    "forbidden": (403, "The token does not permit this"),
    "origin-refused": (403, "The request comes from a page of another site"),
    "not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "The method is not supported here"),
    "unknown-exec": (404, "There is no such command"),
    "unknown-port": (404, "The port is not published"),
    "key-reused": (409, "The idempotency key was used for another request"),
    "key-spent": (409, "What was created with this idempotency key no longer exists"),
    "output-lost": (410, "The output is no longer available"),
    "too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body has an unsupported type"),
    "range": (416, "The range cannot be satisfied"),
    "host-refused": (421, "The request is for another host"),
    "too-many-execs": (429, "The sandbox runs too many commands"),
    "internal": (500, "Internal error"),
    "bad-gateway": (502, "The program in the sandbox, or its host, did not answer"),
    "host-silent": (502, "The host cannot be reached"),
    "stopping": (503, "The server stops"),
    "too-many-requests": (503, "The server handles too many requests"),
}


def refused(problem: str, message: str, *, hint: str | None = None, **headers: str) -> RequestRefusedError:
    """The error with one of the server's own codes.

    :param headers: of the response; ``_`` in a name stands for ``-``.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestRefusedError(OWN[problem][0], problem, message, hint=hint, headers=named)


def status_of(error: BallonetError) -> int:
    """The status of the response for ``error``."""
    if isinstance(error, RequestRefusedError):
        return error.status
    return STATUSES.get(error.code, 400 if isinstance(error, ConfigError) else 500)


def problem_of(error: BallonetError) -> Problem:
    """The document for ``error``."""
    if isinstance(error, SettingError):
        error = error.named(PARAMETERS)
    if isinstance(error, RequestRefusedError):
        code, title = error.problem, OWN[error.problem][1]
    else:
        code = error.code
        words = (type(error).__doc__ or "").split("\n\n")[0].split()
        title = " ".join(words).partition(". ")[0].rstrip(".")
    return Problem(
        type=f"urn:ballonet:error:{code}",
        title=title,
        status=status_of(error),
        detail=error.message,
        code=code,
        hint=error.hint,
    )
