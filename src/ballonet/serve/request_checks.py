"""Which requests a browser could have been tricked into: checks of the headers Host and Origin. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)


def host_of(header: str) -> str | None:
    """The host in a ``Host`` header, in lower case and without its port; ``None`` if it has another form."""
    found = _HOST.fullmatch(header)
    return None if found is None else found["host"].strip("[]").lower().rstrip(".")


def host_permitted(header: str, names: Collection[str]) -> bool:
    """Whether a request for this host can be meant for this server.

    A page whose name was rebound to this host's address (DNS rebinding) sends its own name. An address cannot be
    rebound.

    :param names: names of this server besides ``localhost``, in lower case.
    """
    host = host_of(header)
    if host is None:
        return False
    return host == "localhost" or host in names or is_address(host)


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address, and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def origin_permitted(origin: str, host_header: str, origins: Collection[str], *, scheme: str) -> bool:
    """Whether a page of ``origin`` may use this server: a page of the server itself, or of one in ``origins``."""
    return origin == f"{scheme}://{host_header}" or origin in origins
