"""The MCP server itself, from the official SDK, with the tools. It serves one session for each connection."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)

from ballonet.mcp import code_tools, command_tools, file_tools, sandbox_tools
from ballonet.mcp.policy import Policy
from ballonet.mcp.session import AgentSession
from ballonet.mcp.tools import call_tool
from ballonet.version import __version__

TOOLS = {
    tool.name: tool
    for tool in (
        *sandbox_tools.TOOLS,
        *command_tools.TOOLS,
        *code_tools.TOOLS,
        *file_tools.TOOLS,
    )
}

_INSTRUCTIONS = """\
Runs commands and code in sandboxes: small Linux virtual machines, isolated from this computer and from each other.
Call create_sandbox first. A sandbox keeps its files and processes between calls, and is removed, with everything in it,
when this session ends. Commands run as root, unless the image says otherwise. Long output comes in parts: continue with
read_output."""


def build_server(policy: Policy, *, proxied: bool = False) -> Server[AgentSession]:
    """A server for connections that each have a session of their own, which ends with the connection.

    :param proxied: see :class:`AgentSession`.
    """
    listed = ListToolsResult(tools=[tool.describe() for tool in TOOLS.values()])

    @contextlib.asynccontextmanager
    async def session(_: Server[Any]) -> AsyncIterator[AgentSession]:
        opened = AgentSession(policy, proxied=proxied)
        try:
            yield opened
        finally:
            with anyio.CancelScope(shield=True):  # also if the session is ended by a cancellation
                await opened.close()

    async def list_tools(_: Any, __: PaginatedRequestParams | None) -> ListToolsResult:
        return listed

    async def call(context: Any, given: CallToolRequestParams) -> CallToolResult:
        if given.name not in TOOLS:
            raise MCPError(INVALID_PARAMS, f"there is no tool named {given.name[:80]!r}")
        return await call_tool(TOOLS[given.name], context.lifespan_context, given.arguments)

    return Server(
        "ballonet",
        version=__version__,
        title="ballonet sandboxes",
        instructions=_INSTRUCTIONS,
        lifespan=session,
        on_list_tools=list_tools,
        on_call_tool=call,
    )
