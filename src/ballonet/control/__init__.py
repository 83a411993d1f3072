"""The control socket: its protocol (pure), its server and its client.

The names below are loaded on first use: the server does not need the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ballonet.control.client import Client
    from ballonet.control.client_blocking import send_plain
    from ballonet.control.sync_client import SyncClient

__all__ = ["Client", "SyncClient", "send_plain"]

_PLACES = {
    "Client": "ballonet.control.client",
    "SyncClient": "ballonet.control.sync_client",
    "send_plain": "ballonet.control.client_blocking",
}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        from importlib import import_module

        found: object = getattr(import_module(_PLACES[name]), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
