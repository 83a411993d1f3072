"""Timeouts of commands: read from the command line or from a program, and enforced."""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self

from ballonet.base.arguments import check_seconds
from ballonet.base.dataclass import dataclass
from ballonet.base.errors import CommandTimeoutError, ConfigError

if TYPE_CHECKING:
    from ballonet.guest.guest_process import GuestProcess

#: How long to wait for the guest to report the end of a killed command (seconds).
GRACE_S = 5.0

_PARTS = re.compile(
    r"(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?|(?P<bare>\d+(?:\.\d+)?)",
    re.ASCII,
)
_SECONDS = {"h": 3600, "m": 60, "s": 1, "bare": 1}
#: The longest timeout that can be written (seconds): 30 years.
_MAX_SECONDS = 10**9


@dataclass(frozen=True)
class Timeout:
    """A timeout in seconds, and its text as the user wrote it."""

    seconds: float
    text: str

    @classmethod
    def of(cls, value: float | None) -> Self | None:
        """The timeout that a program passes; ``None`` for no timeout.

        :raises ConfigError: it is not a positive number of seconds.
        """
        if value is None:
            return None
        return cls(check_seconds("timeout", value), f"{value} s")

    @classmethod
    def parse(cls, text: str, option: str = "--timeout") -> Self:
        """Read ``90``, ``1.5``, ``90s``, ``1m30s`` or ``2h``.

        :raises ConfigError: it has another form, or is 0.
        """
        match = _PARTS.fullmatch(text)
        found = {} if match is None else {unit: part for unit, part in match.groupdict().items() if part}
        seconds = sum(float(part) * _SECONDS[unit] for unit, part in found.items())
        if not seconds > 0:
            raise ConfigError(
                f"{option} {text[:40]!r} is not a length of time above 0",
                hint="write seconds, or 90s, 1m30s, 2h",
            )
        if seconds > _MAX_SECONDS:
            raise ConfigError(
                f"{option} {text[:40]!r} is too long",
                hint=f"the maximum is {_MAX_SECONDS} seconds; omit {option} for no limit",
            )
        return cls(seconds, f"{text} s" if "bare" in found else text)

    def error(self) -> CommandTimeoutError:
        return CommandTimeoutError(
            f"the command did not end within its timeout of {self.text} and was killed", timeout=self.seconds
        )

    def unread_error(self) -> CommandTimeoutError:
        """The error for a command that ended in time, but whose output nobody took."""
        return CommandTimeoutError(
            f"the output of the command was not read within its timeout of {self.text}", timeout=self.seconds
        )


async def start_within(
    timeout: Timeout | None, starting: Coroutine[Any, Any, GuestProcess], *, spent_s: float = 0.0
) -> GuestProcess:
    """Start a command that is killed when ``timeout`` expires, with everything that it started: see
    :meth:`~ballonet.guest.guest_process.GuestProcess.expire`.

    :param spent_s: how many seconds of the timeout have already passed.
    :raises CommandTimeoutError: the timeout expired before the command had started.
    """
    if timeout is None:
        return await starting
    import asyncio

    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(max(timeout.seconds - spent_s, 0)):
            process = await starting
    except TimeoutError:
        raise timeout.error() from None
    left = timeout.seconds - spent_s - (asyncio.get_running_loop().time() - began)
    process.expire(max(left, 0), timeout.error, grace_s=GRACE_S)
    return process
