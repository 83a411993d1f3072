"""Errors as they travel between processes: a class's code, its message and its hint. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import ballonet.base.code_errors  # noqa: F401  # its classes are found by their codes
from ballonet.base.errors import BallonetError, GuestCommandError, error_class

#: What some errors have besides their message.
_MORE = ("timeout", "restarted", "errno", "missing")


class Answer(NamedTuple):
    """What a host or the directory answers: a value, or an error."""

    value: Any = None
    code: str | None = None
    message: str = ""
    hint: str | None = None


def failed(error: BallonetError) -> Answer:
    """The answer that an error is."""
    more = {name: getattr(error, name) for name in _MORE if hasattr(error, name)}
    return Answer(more or None, error.code, error.message, error.hint)


def value_of(answer: Answer, host: str | None = None) -> Any:
    """The value of an answer.

    :param host: the host that answered, for the message.
    :raises BallonetError: the error that it is, with the class that has its code.
    """
    if answer.code is None:
        return answer.value
    where = "" if host is None else f"host {host}: "
    error: BallonetError
    if answer.code == GuestCommandError.code:
        error = GuestCommandError(where + answer.message, errno=0, hint=answer.hint)
    else:
        error = error_class(answer.code)(where + answer.message, hint=answer.hint)
    for name, value in answer.value.items() if isinstance(answer.value, dict) else ():
        setattr(error, name, value)
    raise error
