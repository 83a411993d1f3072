"""Checks which user a command runs as: ``USER[:GROUP]``, names or numbers. Pure.

Only the syntax is checked here, before anything starts. The guest's agent looks names up in the guest's files when the
command starts (``guest/agent/user.c``), so that users added in a running guest are known, as in Docker.
"""

from __future__ import annotations

from ballonet.base.errors import ConfigError

#: The largest user or group number, as in Docker.
MAX_ID = 2**31 - 1
#: Maximum length of a name (bytes): Linux's LOGIN_NAME_MAX.
MAX_NAME_BYTES = 256

_HINT = "for example: app, 1000, app:staff or 1000:1000"


def check_user(spec: str | None) -> None:
    """Check the syntax of ``spec``: ``USER``, ``USER:GROUP`` or ``:GROUP``; empty means root.

    ``GROUP`` may be several groups separated by commas: the first is the primary group, the others are supplementary.

    :raises ConfigError: the syntax is invalid, or a number is out of range.
    """
    if spec is None or spec == "":
        return
    if not isinstance(spec, str):
        raise ConfigError(f"user must be a string, not {type(spec).__name__} ({spec!r})", hint=_HINT)
    user, colon, groups = spec.partition(":")
    if ":" in groups or (colon and not user and not groups) or "," in user:
        raise ConfigError(f"user {_shown(spec)} is not USER[:GROUP]", hint=_HINT)
    for what, name in (("user", user), *(("group", group) for group in groups.split(",") if groups)):
        _check_name(what, name, spec)


def _check_name(what: str, name: str, spec: str) -> None:
    if name == "" and what == "user":
        return
    if not name or name[0] in "-+" or not name.isprintable() or name != name.strip():
        raise ConfigError(
            f"user {_shown(spec)} is not USER[:GROUP]: invalid {what} {_shown(name)}", hint=_HINT
        )
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ConfigError(f"{what} {_shown(name)} is longer than {MAX_NAME_BYTES} bytes")
    if name.isascii() and name.isdecimal() and (len(name) > 20 or int(name) > MAX_ID):
        raise ConfigError(f"{what} {_shown(name)} is above the maximum, {MAX_ID}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 64 else f"{text[:60]!r}… ({len(text)} characters)"
