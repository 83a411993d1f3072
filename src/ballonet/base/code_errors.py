"""The errors of code sessions, which are part of :mod:`ballonet.errors`."""

from __future__ import annotations

from ballonet.base.errors import GuestError


class CodeError(GuestError):
    """A code session could not run code. What the code itself raises is no error of the call, but part of its result.

    :param stdout: the output until then, if the call collects it; likewise ``stderr``.
    """

    code = "code"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.stdout = ""
        self.stderr = ""


class CodeSessionEndedError(CodeError):
    """The process of a code session has ended, or the session no longer exists; its variables are lost."""

    code = "code-session-ended"


class CodeSessionBusyError(CodeError):
    """The session runs other code, or another program uses it; nothing was run."""

    code = "code-session-busy"


class CodeTimeoutError(CodeError):
    """The code ran longer than its ``timeout``, and was interrupted.

    :param timeout: the limit in seconds.
    :param restarted: it did not react to the interrupt, so that the session was restarted: its variables are lost.
    """

    code = "code-timeout"

    def __init__(
        self, message: str, *, timeout: float | None = None, restarted: bool = False, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.timeout = timeout
        self.restarted = restarted
