"""Tokens of the HTTP server: stored as hashes, checked, expired, removed."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError, HostError
from ballonet.serve.tokens import Scope, TokenFile


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.json")


def test_a_token_is_stored_as_a_hash(file: TokenFile) -> None:
    token, text = file.create(Scope.USE, expires_s=60, note="laptop")
    assert text not in file.path.read_text() and text.rpartition("_")[2] not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file.check(text, time.time()) == (token, "")
    assert TokenFile(file.path).check(text, time.time())[0] == token


@pytest.mark.parametrize("change", ["", "x", "é", "\0", "blt_", " "])
def test_other_texts_are_refused(file: TokenFile, change: str) -> None:
    _, text = file.create(Scope.ADMIN, expires_s=None)
    wrong = change if len(change) != 1 else text[:-1] + change
    assert file.check(wrong, time.time()) == (None, "the token is not valid")


def test_a_token_of_another_id_is_refused(file: TokenFile) -> None:
    (first, text), (second, _) = (file.create(Scope.USE, expires_s=None) for _ in range(2))
    assert file.check(text.replace(first.id, second.id), time.time())[0] is None


def test_a_token_expires(file: TokenFile) -> None:
    token, text = file.create(Scope.READ, expires_s=60)
    assert token.expires_at is not None
    assert file.check(text, token.expires_at - 1)[0] == token
    refused, why = file.check(text, token.expires_at)
    assert refused is None and "expired" in why
    assert file.usable(token.expires_at - 1) and not file.usable(token.expires_at)


def test_a_removed_token_is_refused_at_once_by_whoever_has_read_the_file(file: TokenFile) -> None:
    token, text = file.create(Scope.USE, expires_s=None)
    other, _ = file.create(Scope.USE, expires_s=None)
    running = TokenFile(file.path)
    assert running.check(text, time.time())[0] == token
    file.remove(token.id)
    assert running.check(text, time.time())[0] is None
    assert [each.id for each in running.list()] == [other.id]
    with pytest.raises(ConfigError, match="no token"):
        file.remove(token.id)


def test_a_damaged_file_is_told_and_lets_nobody_in(file: TokenFile) -> None:
    _, text = file.create(Scope.USE, expires_s=None)
    for content in ("{", "[]", '{"tokens": [{"id": 1}]}', json.dumps({"tokens": None})):
        file.path.write_text(content)
        with pytest.raises(HostError, match="damaged"):
            file.check(text, time.time())


@pytest.mark.parametrize("note", ["a" * 101, "two\nlines", "\x1b[31m"])
def test_a_note_is_one_short_line(file: TokenFile, note: str) -> None:
    with pytest.raises(ConfigError):
        file.create(Scope.READ, expires_s=None, note=note)


def test_a_scope_includes_the_smaller_ones() -> None:
    assert [[scope.includes(needed) for needed in Scope] for scope in Scope] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
