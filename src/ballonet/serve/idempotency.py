"""Idempotency keys: a request that creates a sandbox, repeated with its key, does not create another one.

A file for each key says which name the request was given before anything was created, so that a repetition finds what
was created even if the server was killed meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import weakref
from pathlib import Path

from ballonet.base.dataclass import asdict, dataclass
from ballonet.base.paths import private_dir, replace_file
from ballonet.serve.problems import refused

#: How long a key is known (seconds).
KEPT_S = 24 * 3600.0
_PRUNE_EVERY_S = 3600.0
_MAX_KEY = 255


@dataclass(frozen=True)
class Entry:
    """What is known of a request with a key."""

    #: Identifies the content of the request.
    fingerprint: str
    #: The name of the sandbox.
    name: str
    #: When the request was first seen (unix seconds).
    at: float
    done: bool = False


class Keys:
    """The keys of one server directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = private_dir(directory)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._pruned_at = 0.0

    def lock(self, id: str) -> asyncio.Lock:
        """A lock for the requests with this key: one of them at a time."""
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock

    def find(self, id: str, fingerprint: str) -> Entry | None:
        """:raises RequestRefusedError: the key was used for another request."""
        try:
            entry = Entry(**json.loads((self._directory / id).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        if entry.at < time.time() - KEPT_S:
            return None
        if entry.fingerprint != fingerprint:
            raise refused(
                "key-reused",
                "the idempotency key was used for a request with another body",
                hint="use a new key for each sandbox",
            )
        return entry

    def write(self, id: str, entry: Entry) -> None:
        """:raises HostError: it cannot be written."""
        now = time.time()
        if now - self._pruned_at > _PRUNE_EVERY_S:
            self._pruned_at = now
            for path in self._directory.iterdir():
                if path.stat().st_mtime < now - KEPT_S:
                    path.unlink(missing_ok=True)
        replace_file(self._directory / id, json.dumps(asdict(entry)).encode())

    def forget(self, id: str) -> None:
        (self._directory / id).unlink(missing_ok=True)


def key_id(key: str, who: str) -> str:
    """The name of a key's file. Keys of different tokens are different.

    :raises RequestRefusedError: the key has an invalid form.
    """
    if not 1 <= len(key) <= _MAX_KEY or not key.isascii() or not key.isprintable():
        raise refused(
            "invalid-request", f"the Idempotency-Key must have 1 to {_MAX_KEY} printable ASCII characters"
        )
    return hashlib.sha256(f"{who}\0{key}".encode()).hexdigest()
