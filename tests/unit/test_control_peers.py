"""Who may ask: decided from the kernel's word, never from what a client says."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.control.peers import Access, AccessPolicy, Peer, peer_of
from ballonet.control.socketfile import bind_control_socket
from tests.unit.fake_backend import FakeBackend, serving

NOBODY = 65534
STRANGERS_GROUP = 54321

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

#: Becomes the given user with the given groups, sends its input to the socket, prints the whole answer.
ASK_AS = """
import os, socket, sys
path, uid, gids = sys.argv[1], int(sys.argv[2]), [int(gid) for gid in sys.argv[3].split(",")]
os.setgroups(gids[1:]); os.setresgid(*gids[:1] * 3); os.setresuid(uid, uid, uid)
client = socket.socket(socket.AF_UNIX)
client.settimeout(60)
data = sys.stdin.buffer.read()
try:
    client.connect(path)
except OSError as error:
    sys.exit(error.strerror)
try:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
except ConnectionError:
    pass  # refused before it spoke
try:
    while piece := client.recv(4096):
        sys.stdout.buffer.write(piece)
        if b"balloon.watch" in data:
            break  # a watch has no end
except ConnectionResetError:
    pass
"""


async def ask_as(path: Path, uid: int, gids: str, data: bytes) -> bytes:
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ASK_AS, path, str(uid), gids),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(client.communicate(data), 60)
    return out or err


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can reach into."""
    base = Path(f"/tmp/ballonet-peers-{os.getpid()}")
    base.mkdir()
    base.chmod(0o711)
    yield base
    base.rmdir()  # fails if anything was left behind


def peer(uid: int = 2000, *gids: int) -> Peer:
    return Peer(1, uid, frozenset(gids or (2000,)))


def test_owner_and_root_may_do_everything_and_others_nothing() -> None:
    policy = AccessPolicy(owner_uid=1000)
    assert policy.access(peer(1000)) is Access.FULL
    assert policy.access(peer(0)) is Access.FULL
    assert policy.access(peer(2000)) is Access.NONE
    assert policy.access(peer(2000, 0, 1000)) is Access.NONE
    assert policy.socket_mode() == 0o600


def test_users_and_groups_are_let_in_by_name() -> None:
    policy = AccessPolicy(
        1000,
        frozenset({2000}),
        frozenset({50}),
        read_only_users=frozenset({3000}),
        read_only_groups=frozenset({60}),
    )
    assert policy.access(peer(2000)) is Access.FULL
    assert policy.access(peer(4000, 7, 50)) is Access.FULL
    assert policy.access(peer(3000)) is Access.READ
    assert policy.access(peer(4000, 60, 7)) is Access.READ
    assert policy.access(peer(3000, 50)) is Access.FULL
    assert policy.access(peer(4000)) is Access.NONE
    assert policy.socket_mode() == 0o666


@given(uid=st.integers(1, 2**32 - 2), gids=st.frozensets(st.integers(0, 2**32 - 2), min_size=1))
def test_policy_that_names_nobody_lets_in_nobody(uid: int, gids: frozenset[int]) -> None:
    expected = Access.FULL if uid == 1000 else Access.NONE
    assert AccessPolicy(owner_uid=1000).access(Peer(1, uid, gids)) is expected


def test_credentials_are_those_of_the_process_that_connected() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert peer_of(left) == Peer(os.getpid(), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


@needs_root
@pytest.mark.parametrize("groups", [1, 255, 300])
def test_supplementary_groups_are_seen_unless_there_are_too_many(tmp_path: Path, groups: int) -> None:
    control_socket = bind_control_socket(tmp_path / "s")
    script = (
        f"import os,socket; os.setgroups(range(10000, {10000 + groups})); s=socket.socket(socket.AF_UNIX)\n"
    )
    script += f"s.connect({str(tmp_path / 's')!r}); s.recv(1)"
    client = subprocess.Popen([sys.executable, "-c", script])
    control_socket.socket.settimeout(60)
    connection, _ = control_socket.socket.accept()
    with connection:
        seen = peer_of(connection)
    assert client.wait(timeout=60) == 0
    control_socket.close()
    assert seen.pid == client.pid
    assert seen.gids == (frozenset({0, *range(10000, 10000 + groups)}) if groups <= 256 else frozenset({0}))


@needs_root
async def test_default_mode_keeps_strangers_from_connecting(open_dir: Path) -> None:
    async with serving(open_dir / "s"):
        assert await ask_as(open_dir / "s", NOBODY, str(NOBODY), b"300\n") == b"Permission denied\n"


@needs_root
@pytest.mark.parametrize("data", [b"300\n", b'{"jsonrpc":"2.0","id":1,"method":"balloon.get"}\n', b""])
async def test_refused_peer_gets_one_line_and_is_logged(
    open_dir: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    backend = FakeBackend()
    with caplog.at_level(logging.WARNING):
        async with serving(open_dir / "s", backend, policy=AccessPolicy(owner_uid=0), mode=0o666):
            reply = await ask_as(open_dir / "s", NOBODY, str(NOBODY), data)
            assert reply.startswith(b"ERR not permitted: uid 65534 (pid ")
            assert reply.count(b"\n") == 1
    (record,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert "uid 65534" in record and reply.split(b"pid ")[1].split(b")")[0].decode() in record
    assert backend.targets == []


@needs_root
async def test_allowed_user_may_set(open_dir: Path) -> None:
    policy = AccessPolicy(owner_uid=0, allow_users=frozenset({NOBODY}))
    async with serving(open_dir / "s", backend := FakeBackend(), policy=policy, mode=policy.socket_mode()):
        assert await ask_as(open_dir / "s", NOBODY, str(NOBODY), b"300\n") == b"OK 185344\n"
    assert backend.targets == [300]


@needs_root
async def test_member_of_an_allowed_group_may_set(open_dir: Path) -> None:
    policy = AccessPolicy(owner_uid=0, allow_groups=frozenset({STRANGERS_GROUP}))
    async with serving(open_dir / "s", backend := FakeBackend(), policy=policy, mode=policy.socket_mode()):
        path = open_dir / "s"
        assert await ask_as(path, NOBODY, f"{NOBODY},7,{STRANGERS_GROUP}", b"300\n") == b"OK 185344\n"
        assert (await ask_as(path, NOBODY, f"{NOBODY},7", b"400\n")).startswith(b"ERR not permitted")
    assert backend.targets == [300]


@needs_root
async def test_observer_may_get_but_not_change(open_dir: Path) -> None:
    policy = AccessPolicy(owner_uid=0, read_only_users=frozenset({NOBODY}))
    async with serving(open_dir / "s", backend := FakeBackend(), policy=policy, mode=policy.socket_mode()):
        path = open_dir / "s"
        message = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}\n'
        for method in ("balloon.get", "version", "stats", "balloon.watch"):
            reply = await ask_as(path, NOBODY, str(NOBODY), (message % (method, "{}")).encode())
            assert b'"result"' in reply, method
        changes = {
            "balloon.set": '{"target_mib":300}',
            "balloon.limit": '{"limit_mib":300}',
            "guest.trim": "{}",
        }
        for method, params in changes.items():
            reply = await ask_as(path, NOBODY, str(NOBODY), (message % (method, params)).encode())
            assert b'"not-permitted"' in reply, method
        plain = await ask_as(path, NOBODY, str(NOBODY), b"300\n")
        assert plain.startswith(b"ERR not permitted: uid 65534")
    assert backend.targets == [] and backend.trims == [] and backend.feed.snapshot.limit_mib is None
