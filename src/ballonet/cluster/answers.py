"""Errors as they travel between processes: a class's code, its message and its hint. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from ballonet.base import errors
from ballonet.base.errors import BallonetError


class Answer(NamedTuple):
    """What a host or the directory answers: a value, or an error."""

    value: Any = None
    code: str | None = None
    message: str = ""
    hint: str | None = None


def failed(error: BallonetError) -> Answer:
    """The answer that an error is."""
    return Answer(None, error.code, error.message, error.hint)


def value_of(answer: Answer, host: str | None = None) -> Any:
    """The value of an answer.

    :param host: the host that answered, for the message.
    :raises BallonetError: the error that it is, with the class that has its code.
    """
    if answer.code is None:
        return answer.value
    where = "" if host is None else f"host {host}: "
    raise _class_of(answer.code)(where + answer.message, hint=answer.hint)


def _class_of(code: str) -> type[BallonetError]:
    for found in vars(errors).values():
        if isinstance(found, type) and issubclass(found, BallonetError) and found.code == code:
            try:
                found("", hint=None)
            except TypeError:  # it needs more than a message
                continue
            return found
    return BallonetError
