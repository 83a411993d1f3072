"""Loads asyncio without TLS, for commands that start a sandbox: nothing in them uses it.

The module ssl is a seventh of the processor time of loading asyncio, which works without it, as in a Python that was
built without OpenSSL. A program that uses the SDK is not touched.
"""

from __future__ import annotations

import sys
from typing import Any


def load_asyncio() -> None:
    """Load asyncio, unless it or TLS is loaded already. ``import ssl`` works again afterwards."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["ssl"] = None  # as documented for the import system: the import then fails
    try:
        import asyncio  # noqa: F401
    finally:
        del modules["ssl"]
