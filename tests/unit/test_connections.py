"""The TCP connections of a process."""

from __future__ import annotations

import os
import socket

from ballonet.host.connections import count_connections


def test_established_connections_are_counted_and_listening_sockets_are_not() -> None:
    before = count_connections(os.getpid())
    assert before is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert count_connections(os.getpid()) == before
        with socket.create_connection(server.getsockname()):
            near, _ = server.accept()
            with near:
                assert count_connections(os.getpid()) == before + 2
    assert count_connections(2**22 + 1) is None
