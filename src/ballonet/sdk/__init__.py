"""The Python SDK: sandboxes, their balloons and commands; with asyncio and without."""
