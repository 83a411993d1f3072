"""Where this host gets packages from: the servers that its apt, pip and npm are configured to use.

Each tool is asked for its own configuration, defaults included, so that no server is named here.
"""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

from ballonet.base.errors import HostError
from ballonet.base.process import find_program, run

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_PORTS = {"http": 80, "https": 443}
#: Prints pip's default index and where that keeps its files, then the configuration of this user.
_PIP = (
    "from pip._internal.models.index import PyPI; from pip import main; "
    "print(PyPI.simple_url, 'https://' + PyPI.file_storage_domain, flush=True); "
    "raise SystemExit(main(['config', 'list']))"
)


def package_sources() -> tuple[str, ...]:
    """The servers, as ``HOST:PORT/tcp``. A tool that is not installed adds none.

    :raises HostError: there is none.
    """
    urls = [url for ask in (_apt, _pip, _npm) for url in _asked(ask)]
    servers = tuple(dict.fromkeys(server for url in urls for server in _server(url)))
    if not servers:
        raise HostError(
            "no source of packages was found: neither apt-get, pip nor npm of this host names one",
            hint="name the servers instead, for example --net-allow deb.example.org:80",
        )
    return servers


def _asked(ask: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(ask())
    except (HostError, ValueError, SyntaxError) as error:
        log.debug("a source of packages is left out: %s", error)
        return []


def _apt() -> Iterator[str]:
    program = find_program("apt-get", hint="")
    # Also the sources that were never updated.
    words = ["indextargets", "--no-release-info", "--format", "$(REPO_URI)"]
    yield from run([program, *words], timeout_s=_TIMEOUT_S).split()


def _pip() -> Iterator[str]:
    """pip of this program's Python, or of the host's."""
    try:
        output = run([sys.executable, "-c", _PIP], timeout_s=_TIMEOUT_S)
    except HostError:
        output = run([find_program("python3", hint=""), "-c", _PIP], timeout_s=_TIMEOUT_S)
    yield from pip_urls(output)


def pip_urls(output: str) -> Iterator[str]:
    """The URLs in the output of the program above. Pure.

    :raises ValueError, SyntaxError: it has another form.
    """
    defaults, *lines = output.splitlines()
    found: dict[str, list[str]] = {"index-url": [], "extra-index-url": [], "find-links": []}
    for line in lines:
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in found:
            found[name] += str(ast.literal_eval(value)).split()
    found["index-url"] = found["index-url"] or defaults.split()
    for urls in found.values():
        yield from urls


def _npm() -> Iterator[str]:
    program = find_program("npm", hint="")
    settings = json.loads(run([program, "config", "list", "--json"], timeout_s=_TIMEOUT_S))
    if not isinstance(settings, dict):
        raise ValueError("npm's configuration is not an object")
    for name, value in settings.items():
        if name == "registry" or name.endswith(":registry"):
            yield str(value)


def _server(url: str) -> Iterator[str]:
    """The server of a URL, if a guest can reach one by its name or its IPv4 address: not a file, nor this host."""
    try:
        parts = urlsplit(url.removeprefix("mirror+"))
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return
    host = (parts.hostname or "").rstrip(".")
    if port is not None and "." in host and not host.startswith("127."):
        yield f"{host}:{port}/tcp"
