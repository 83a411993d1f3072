"""Why a sandbox ends."""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """Why the sandbox ends."""

    STOP = "stop"
    #: Stop without asking the guest.
    FORCE = "force"
    OWNER_GONE = "owner-gone"
    GUEST = "guest"
    COMMAND = "command"
    VOLUME = "volume"
