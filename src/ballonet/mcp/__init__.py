"""The MCP server: tools with which an agent makes and uses sandboxes (docs/mcp.md)."""
