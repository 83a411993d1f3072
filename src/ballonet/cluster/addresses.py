"""Addresses of a cluster's head, and the token that it requires. This module does not load Ray."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ballonet.base.errors import ConfigError, HostError

#: How long a connection to the head may take (seconds).
CONNECT_S = 3.0


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
            return str(connection.getsockname()[0])
    except OSError as error:
        raise HostError(
            f"no cluster answers at {address}: {error.strerror or error}",
            hint="'ballonet cluster up' starts one; check the address",
        ) from error


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
