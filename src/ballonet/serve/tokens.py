"""Bearer tokens of the HTTP server: made, listed, removed and checked. Only a hash of each token is stored.

The file is ``serve/tokens.json`` in the data directory, with mode 0600. A running server notices every change of it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import asdict, dataclass
from ballonet.base.errors import ConfigError, HostError, os_hint
from ballonet.base.paths import data_dir, exclusive, private_dir, replace_file
from ballonet.base.suggest import hint_for

#: Tokens begin with this, so that scanners for leaked secrets can find them.
PREFIX = "blt"
_FORM = re.compile(rf"{PREFIX}_([0-9a-f]{{8}})_[0-9a-f]{{64}}")
_MAX_NOTE = 100


class Scope(StrEnum):
    """What a token permits; each includes the ones before it."""

    #: See sandboxes, their memory, images, volumes and events; nothing inside a guest.
    READ = "read"
    #: Create, use and remove sandboxes, snapshots and files in guests.
    USE = "use"
    #: Also give a sandbox directories and ports of the host, and manage images and volumes.
    ADMIN = "admin"

    def includes(self, needed: Scope) -> bool:
        """Whether this scope permits what ``needed`` permits."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Token:
    """A token as it is stored. Times are unix seconds."""

    id: str
    scope: str
    hash: str
    created_at: float
    #: ``None``: it does not expire.
    expires_at: float | None = None
    note: str = ""

    def valid_at(self, now: float) -> bool:
        return self.expires_at is None or now < self.expires_at


class TokenFile:
    """The tokens of this user."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: dict[str, Token] = {}

    @classmethod
    def open(cls) -> TokenFile:
        """:raises HostError: its directory cannot be created."""
        return cls(private_dir(data_dir() / "serve") / "tokens.json")

    def create(self, scope: Scope, *, expires_s: int | None, note: str = "") -> tuple[Token, str]:
        """Make a token; returns it and its text, which is not stored and cannot be shown again.

        :raises ConfigError: the note is too long, or has control characters.
        """
        if len(note) > _MAX_NOTE or not note.isprintable():
            raise ConfigError(f"the note {note[:80]!r} is not one line of at most {_MAX_NOTE} characters")
        now = time.time()
        with self._changing() as tokens:
            id = secrets.token_hex(4)
            while id in tokens:
                id = secrets.token_hex(4)
            text = f"{PREFIX}_{id}_{secrets.token_hex(32)}"
            token = Token(
                id, scope.value, _hash(text), now, None if expires_s is None else now + expires_s, note
            )
            tokens[id] = token
        return token, text

    def list(self) -> list[Token]:
        """All tokens, the oldest first; also those that have expired.

        :raises HostError: the file cannot be read.
        """
        return sorted(self._read().values(), key=lambda token: token.created_at)

    def remove(self, id: str) -> None:
        """Remove a token: the server refuses it from now on.

        :raises ConfigError: there is no token with that ID.
        """
        with self._changing() as tokens:
            if id not in tokens:
                raise ConfigError(
                    f"there is no token with the ID {id!r}",
                    hint=hint_for(id, tokens, "'ballonet token ls' lists all tokens"),
                )
            del tokens[id]

    def usable(self, now: float) -> bool:
        """Whether any token can be used at the time ``now``."""
        return any(token.valid_at(now) for token in self.list())

    def check(self, text: str, now: float) -> tuple[Token | None, str]:
        """The token with that text; or ``None``, and why it is refused."""
        form = _FORM.fullmatch(text)
        token = None if form is None else self._read().get(form[1])
        if token is None or not hmac.compare_digest(token.hash, _hash(text)):
            return None, "the token is not valid"
        if not token.valid_at(now):
            return None, f"the token {token.id} has expired"
        return token, ""

    def _read(self) -> dict[str, Token]:
        """The tokens by ID. The file is read only if it has changed."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_mtime_ns, status.st_ino, status.st_size)
                if seen != self._seen:
                    self._tokens = {
                        entry["id"]: Token(**entry) for entry in json.loads(file.read())["tokens"]
                    }
                    self._seen = seen
        except FileNotFoundError:
            self._tokens, self._seen = {}, None
        except (ValueError, TypeError, KeyError) as error:
            raise HostError(
                f"{self.path} is damaged: {error}", hint="remove it, and create the tokens again"
            ) from error
        except OSError as error:
            raise HostError(
                f"{self.path} cannot be read: {error.strerror}", hint=os_hint(error, self.path)
            ) from error
        return self._tokens

    def _changing(self) -> _Changing:
        return _Changing(self)


class _Changing:
    """``with``: the tokens, which are written at the end of the block, while other programs wait."""

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        self._lock = exclusive(file.path.with_name("tokens.lock"))
        self._tokens: dict[str, Token] = {}

    def __enter__(self) -> dict[str, Token]:
        self._lock.__enter__()
        try:
            self._tokens = dict(self._file._read())
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self._tokens

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is None:
                entries = [asdict(token) for token in self._tokens.values()]
                replace_file(self._file.path, json.dumps({"tokens": entries}, indent=1).encode())
        finally:
            self._lock.__exit__(None, None, None)


def _hash(text: str) -> str:
    # The text has 256 random bits: a slow hash would add nothing.
    return hashlib.sha256(text.encode()).hexdigest()
