"""Loads asyncio and what uses it without the modules that only few programs need, for commands that start a sandbox and
for the sandbox's process.

TLS is a seventh of the processor time of loading asyncio, which works without it, as in a Python that was built without
OpenSSL. ``inspect`` and ``tokenize`` are about as much. They are loaded when something of them is used, as in a
traceback. A program that uses the SDK is not touched.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_modules: dict[str, Any] = sys.modules


def load_asyncio() -> None:
    """Load asyncio, unless it or TLS is loaded already. ``import ssl`` works again afterwards."""
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    if "inspect" not in sys.modules:
        _modules["inspect"] = deferred = _Deferred("inspect")
        deferred.__dict__["iscoroutinefunction"] = _iscoroutinefunction
    if "tokenize" not in sys.modules:
        _modules["tokenize"] = _Deferred("tokenize")
    _modules["ssl"] = None  # as documented for the import system: the import then fails
    try:
        import asyncio  # noqa: F401
    finally:
        del _modules["ssl"]


@contextlib.contextmanager
def without_tls() -> Iterator[None]:
    """For importing a module that names TLS in its annotations only."""
    if "ssl" in sys.modules:
        yield
        return
    _modules["ssl"] = stand_in = ModuleType("ssl")
    stand_in.__dict__["SSLContext"] = type("SSLContext", (), {})
    try:
        yield
    finally:
        del _modules["ssl"]


class _Deferred(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for some of them
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if _modules.get(self.__name__) is self:
            del _modules[self.__name__]
        loaded = importlib.import_module(self.__name__)
        self.__dict__.update(loaded.__dict__)
        return getattr(loaded, name)


def _iscoroutinefunction(function: Any) -> bool:
    """:func:`inspect.iscoroutinefunction` for functions and methods, which asyncio needs for each signal handler."""
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & 0x80)  # inspect.CO_COROUTINE
