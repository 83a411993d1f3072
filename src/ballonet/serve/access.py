"""Who sends a request, and what they may do."""

from __future__ import annotations

from typing import NamedTuple

from ballonet.serve.problems import refused
from ballonet.serve.tokens import Scope

#: A browser cannot set headers of a WebSocket: its token is one of the offered subprotocols, with this in front.
TOKEN_PROTOCOL = "ballonet.token."  # noqa: S105  # not a token
#: Which scope a request over the user's own Unix socket has, if it is not ``admin``: who passes requests on says so.
SCOPE_HEADER = b"ballonet-scope"


class Access(NamedTuple):
    """Who sends a request, and what they may do."""

    #: ID of the token; ``local`` for the user's own Unix socket.
    id: str
    #: ``None``: no token was given.
    scope: Scope | None
    #: Why there is no scope.
    why: str = ""

    def may(self, needed: Scope) -> bool:
        """Whether an operation that needs this scope is permitted."""
        return self.scope is not None and self.scope.includes(needed)

    def check(self, needed: Scope | None) -> None:
        """:raises RequestRefusedError: the operation needs a token, or one with a larger scope."""
        if needed is None:
            return
        if self.scope is None:
            raise refused(
                "unauthorized",
                self.why,
                hint="send a token: 'Authorization: Bearer TOKEN'; 'ballonet token create' makes one",
                WWW_Authenticate='Bearer realm="ballonet"',
            )
        if not self.scope.includes(needed):
            raise refused(
                "forbidden",
                f"this needs a token with the scope {needed}; token {self.id} has {self.scope}",
                WWW_Authenticate=f'Bearer realm="ballonet", error="insufficient_scope", scope="{needed}"',
            )
