"""The control socket: its protocol (pure), its server and its client.

The names below are loaded on first use: the server does not need the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ballonet.control.client import Client, SyncClient, send_plain

__all__ = ["Client", "SyncClient", "send_plain"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from ballonet.control import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
