"""What a server can serve besides the API, behind the same checks."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from starlette.types import Receive, Scope, Send


class Extension(Protocol):
    """An ASGI application for one path. ``scope["state"]["access"]`` says who sends a request."""

    @property
    def path(self) -> str: ...

    def running(self, stopping: asyncio.Event) -> AbstractAsyncContextManager[None]:
        """What is open as long as the server serves.

        :param stopping: set when the server stops: requests end.
        """
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...
