"""Errors of the channel to a guest's agent, shared by the clients with and without asyncio."""

from __future__ import annotations

from ballonet.base.errors import GuestChannelError
from ballonet.guest.frames import Frame


def broken(error: OSError) -> GuestChannelError:
    return GuestChannelError(f"the channel to the guest broke: {error}")


def closed_by_guest() -> GuestChannelError:
    return GuestChannelError("the guest closed the channel: it was shut down, or its engine exited")


def not_reading(unsent: int) -> GuestChannelError:
    return GuestChannelError(f"the guest does not read: {unsent} bytes are unsent")


def no_connection(path: str, error: OSError) -> GuestChannelError:
    return GuestChannelError(f"cannot connect to the guest's agent at {path}: {error.strerror}")


def not_ready_first(frame: Frame) -> GuestChannelError:
    return GuestChannelError(f"the guest's first frame is {frame.kind.name}, not READY")


def unknown_stream(frame: Frame) -> GuestChannelError:
    return GuestChannelError(f"{frame.kind.name} frame on stream {frame.stream}, which does not exist")


def without_request(frame: Frame) -> GuestChannelError:
    return GuestChannelError(f"{frame.kind.name} frame without a request")
