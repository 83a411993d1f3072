"""What the host knows about a process in the guest: its start, its end, and its unread output. Pure."""

from __future__ import annotations

import errno
from collections.abc import Callable

from ballonet.base.errors import GuestChannelError, GuestCommandError, GuestError
from ballonet.guest import messages
from ballonet.guest.frames import Frame, FrameType


class ProcessState:
    """The state of one process, from its frames."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.exit: messages.ExitStatus | None = None
        self.failure: messages.StartFailure | None = None
        self.lost: GuestChannelError | None = None
        #: Makes the error that every wait raises once the process was killed at its timeout.
        self.given_up: Callable[[], GuestError] | None = None
        self.buffers = {FrameType.STDOUT: bytearray(), FrameType.STDERR: bytearray()}

    @property
    def over(self) -> bool:
        """Whether no more frames will come."""
        return self.exit is not None or self.failure is not None or self.lost is not None

    def on_frame(self, frame: Frame) -> None:
        """Handle a frame (see :class:`~ballonet.guest.channel_stream.StreamOwner`)."""
        match frame.kind:
            case FrameType.STDOUT | FrameType.STDERR:
                self.buffers[frame.kind] += frame.payload
            case FrameType.STARTED:
                self.pid = messages.decode_number(frame)
            case FrameType.EXIT:
                self.exit = messages.decode_exit(frame)
            case FrameType.ERROR:
                self.failure = messages.decode_error(frame)

    def on_lost(self, error: GuestChannelError) -> None:
        """Record why no more frames will come."""
        self.lost = error

    def check_alive(self) -> None:
        """:raises GuestChannelError: the channel ended before the process did.
        :raises GuestError: the process was killed at its timeout.
        """
        if self.given_up is not None:
            raise self.given_up()
        if self.lost is not None:
            raise type(self.lost)(self.lost.message, hint=self.lost.hint)

    def check_started(self, name: str) -> None:
        """:raises GuestCommandError: the guest could not start it.
        :raises GuestError: as :meth:`check_alive`.
        """
        self.check_alive()
        if self.failure is not None:
            raise _start_error(name, self.failure)


def _start_error(name: str, failure: messages.StartFailure) -> GuestCommandError:
    step = messages.StartStep
    missing = failure.step is step.COMMAND and failure.errno == errno.ENOENT
    hint: str | None = None
    if failure.step is step.USER:
        hint = "user and group names must be in the guest's /etc/passwd and /etc/group; numeric IDs need not"
    elif failure.step is step.DIRECTORY:
        hint = "check that the directory exists in the guest and that the user of the command may enter it"
    elif failure.errno == errno.E2BIG:
        hint = messages.TOO_LONG_HINT
    elif missing:
        hint = "check that the command exists in the guest and is in its PATH"
    return GuestCommandError(
        f"{name[:200] or repr(name)} could not be started in the guest: {failure.text}",
        errno=failure.errno,
        hint=hint,
        missing=missing,
    )
