"""Serves one session over standard input and output, until the client closes the input."""

from __future__ import annotations

import logging

from mcp.server.stdio import stdio_server

from ballonet.mcp.policy import Policy
from ballonet.mcp.server import build_server


async def serve_stdio(policy: Policy) -> None:
    """Serve until the input ends; then the session's sandboxes are removed."""
    logging.getLogger("mcp").setLevel(logging.ERROR)
    server = build_server(policy)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
