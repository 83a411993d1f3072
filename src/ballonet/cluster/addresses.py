"""Addresses of a cluster's head, and the token that it requires. This module does not load Ray."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ballonet.base.errors import ConfigError, HostError

#: How long a connection to the head may take (seconds).
CONNECT_S = 3.0
#: How long a head may take to say what it is (seconds). Ray itself would try again for as long as it takes.
ANSWER_S = 15.0
#: How a client of HTTP/2, which Ray speaks, begins, and the type of the frame with which the server does (RFC 9113,
#: sections 3.4 and 6.5): a preface, and settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4
_HEADER_BYTES = 9


def parse_address(address: str) -> tuple[str, int]:
    """
    :raises ConfigError: it is not HOST:PORT.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{address!r} is not an address"[:200], hint="an address is HOST:PORT, such as 10.0.0.1:6379"
        )
    return host, int(port)


def connects_from(address: str) -> str:
    """The address of this host that it uses to reach the head.

    :raises BallonetError: it is not an address, or nothing answers there.
    """
    host, port = parse_address(address)
    try:
        with socket.create_connection((host, port), CONNECT_S) as connection:
            connection.settimeout(ANSWER_S)
            connection.sendall(_PREFACE)
            _check_answer(address, connection)
            return str(connection.getsockname()[0])
    except TimeoutError as error:
        raise HostError(
            f"no cluster answers at {address}: connection timed out",
            hint="check the address and the firewall, and whether the head is overloaded or stopped",
        ) from error
    except OSError as error:
        raise HostError(
            f"no cluster answers at {address}: {error.strerror or error}",
            hint="'ballonet cluster up' starts one; check the address",
        ) from error


def _check_answer(address: str, connection: socket.socket) -> None:
    """:raises HostError: it is not a head of a cluster that answers."""
    answer = b""
    while len(answer) < _HEADER_BYTES:
        try:
            piece = connection.recv(_HEADER_BYTES - len(answer))
        except TimeoutError:
            raise HostError(
                f"{address} accepts connections, but has not answered within {ANSWER_S:g} s",
                hint="check the address; if it is right, the head is overloaded or stopped",
            ) from None
        if not piece:
            break
        answer += piece
    if len(answer) < _HEADER_BYTES or answer[3] != _SETTINGS:
        raise HostError(
            f"what answers at {address} is not the head of a cluster",
            hint="the address is the one that 'ballonet cluster up' has shown",
        )


def use_token(token: Path) -> None:
    """Have Ray authenticate with this token, in this process and its children. Ray reads it when it is imported.

    :raises ConfigError: there is no such file.
    """
    if not token.is_file():
        raise ConfigError(
            f"there is no token {token}",
            hint="copy it from the host where 'ballonet cluster up' runs, and give it with --token FILE",
        )
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
