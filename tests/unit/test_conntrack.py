"""Counting the open connections of a guest, from the kernel's messages (linux/netfilter/nfnetlink_conntrack.h)."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys

import pytest

from ballonet.base.errors import HostError
from ballonet.host.conntrack import count_connections, read_answer

NESTED = 0x8000


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def connection(state: int | None) -> bytes:
    """One entry, of another protocol if ``state`` is ``None``."""
    body = struct.pack(">BBH", socket.AF_INET, 0, 0) + attribute(1 | NESTED, b"tuple")
    if state is not None:
        tcp = attribute(1, bytes([state])) + attribute(2, b"\0")
        body += attribute(4 | NESTED, attribute(1 | NESTED, tcp))
    return message(0x100, body + attribute(8, b"\0\0\0\1"))


DONE = message(3, bytes(4))


def test_established_connections_are_counted_and_no_others() -> None:
    entries = [connection(state) for state in (None, 1, 3, 3, 4, 7)]
    assert read_answer(b"".join(entries)) == (2, False)
    assert read_answer(connection(3) + DONE) == (1, True)
    assert read_answer(DONE) == (0, True)
    assert read_answer(b"") == (0, False)


def test_all_parts_of_an_answer_are_read() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        for part in (connection(3) * 3, connection(None) + connection(3), DONE):
            far.send(part)
        assert count_connections(near) == 4


def test_an_error_of_the_kernel_is_told() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        far.send(message(2, struct.pack("=i", -22) + bytes(16)))
        with pytest.raises(HostError, match=os.strerror(22)) as failed:
            count_connections(near)
    assert "nf_conntrack_netlink" in str(failed.value.hint)


_FILTER = """
table inet test {
 chain input {
  type filter hook input priority 0;
  ct state new accept
 }
}
"""
_COUNTS = """
import socket
from ballonet.host.conntrack import count_connections, open_table
table = open_table()
server = socket.create_server(("127.0.0.1", 5), backlog=300)
print(count_connections(table))
clients = [socket.create_connection(("127.0.0.1", 5)) for _ in range(300)]
print(count_connections(table))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a network namespace without a user namespace")
def test_the_connections_of_a_network_namespace_are_counted() -> None:
    script = 'ip link set lo up && nft -f - && exec "$0" -P -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable, _COUNTS],
        input=_FILTER,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["0", "300"], done
