"""How long a command may run: read as a person or a program gives it, and kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ballonet.base.arguments import check_seconds
from ballonet.base.errors import CommandTimeoutError, ConfigError

if TYPE_CHECKING:
    from ballonet.guest.guest_process import GuestProcess

#: How long the guest may take to say that what was killed has ended (seconds). Then it is not waited for any more.
GRACE_S = 5.0

_PARTS = re.compile(
    r"(?:(?P<h>\d{1,6})h)?(?:(?P<m>\d{1,8})m)?(?:(?P<s>\d{1,9}(?:\.\d{1,6})?)s)?|(?P<bare>\d{1,9}(?:\.\d{1,6})?)",
    re.ASCII,
)
_SECONDS = {"h": 3600, "m": 60, "s": 1, "bare": 1}


@dataclass(frozen=True)
class Timeout:
    """A limit in seconds, and how it was written."""

    seconds: float
    text: str

    @classmethod
    def of(cls, value: float | None) -> Self | None:
        """The limit that a program gives; ``None`` is none.

        :raises ConfigError: it is no positive number of seconds.
        """
        if value is None:
            return None
        return cls(check_seconds("timeout", value), f"{value} s")

    @classmethod
    def parse(cls, text: str, option: str = "--timeout") -> Self:
        """Read ``90``, ``1.5``, ``90s``, ``1m30s`` or ``2h``.

        :raises ConfigError: it is none of these, or nothing.
        """
        match = _PARTS.fullmatch(text)
        found = {} if match is None else {unit: part for unit, part in match.groupdict().items() if part}
        seconds = sum(float(part) * _SECONDS[unit] for unit, part in found.items())
        if not seconds > 0:
            raise ConfigError(
                f"{option} {text[:40]!r} is not a length of time above 0",
                hint="write seconds, or 90s, 1m30s, 2h",
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
    """Start a command that is killed, with all it has started, when ``timeout`` is over: see
    :meth:`~ballonet.guest.guest_process.GuestProcess.expire`.

    :param spent_s: how much of the timeout has passed already.
    :raises CommandTimeoutError: it was over before the guest said that the command runs.
    """
    if timeout is None:
        return await starting
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(max(timeout.seconds - spent_s, 0)):
            process = await starting
    except TimeoutError:
        raise timeout.error() from None
    left = timeout.seconds - spent_s - (asyncio.get_running_loop().time() - began)
    process.expire(max(left, 0), timeout.error, grace_s=GRACE_S)
    return process
