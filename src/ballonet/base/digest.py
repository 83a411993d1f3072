"""SHA-256 of short texts, without OpenSSL: loading that takes ten times as long. For files: hashlib."""

from __future__ import annotations

import functools
import importlib
from typing import Any


def sha256_hex(data: bytes) -> str:
    """As ``hashlib.sha256(data).hexdigest()``."""
    digest: str = _sha256()(data).hexdigest()
    return digest


@functools.cache
def _sha256() -> Any:
    for name in ("_sha2", "_sha256", "hashlib"):  # Python's own: since 3.12, before; else OpenSSL's
        try:
            return importlib.import_module(name).sha256
        except (ImportError, AttributeError):
            continue
    raise AssertionError("hashlib always has it")
