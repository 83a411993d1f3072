"""The page at ``/``: static files, which need no token. All that they show comes from the API, with the user's token.

``page/vendor/`` has the libraries of the page; the build puts them there (``build_tools/page_files.py``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from ballonet.serve.operations import response_to
from ballonet.serve.problems import refused
from ballonet.serve.services import Services

DIRECTORY = Path(__file__).with_name("page")
#: Libraries that the page loads, relative to :data:`DIRECTORY`.
LIBRARIES = ("uplot.js", "uplot.css", "xterm.js", "xterm.css", "addon-fit.js")
_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: Scripts come from this server alone. xterm.js adds style elements, which need 'unsafe-inline'.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_MISSING = """\
This installation of ballonet has no page: files of its libraries are missing.
The HTTP API works; see /openapi.json.

Install a wheel, or build the files in a copy of the repository: python hatch_build.py
Missing: {names}
"""


class PageFile(NamedTuple):
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str


async def send_page(services: Services, scope: Connection, receive: Receive, send: Send) -> None:
    """Serve a file of the page; without a path parameter, the page itself."""
    request = Request(scope)
    name = str(request.path_params.get("file", _INDEX))
    if name == _INDEX and (missing := await services.blocking(missing_libraries)):
        text = _MISSING.format(names=", ".join(missing))
        await Response(text, 503, media_type="text/plain; charset=utf-8")(scope, receive, send)
        return
    found = await services.blocking(read_file, name)
    if found is None:
        await response_to(refused("not-found", f"the page has no file {name[:100]!r}"))(scope, receive, send)
        return
    # no-cache: a browser keeps it, and asks each time whether it is current.
    headers = {"ETag": found.etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if request.headers.get("if-none-match") == found.etag:
        response = Response(status_code=304, headers=headers)
    else:
        headers["Content-Type"] = found.media_type
        content = b"" if scope["method"] == "HEAD" else found.content
        response = Response(content, headers=headers)
    await response(scope, receive, send)


def missing_libraries() -> list[str]:
    """The libraries that are not there."""
    return [name for name in LIBRARIES if not (DIRECTORY / "vendor" / name).is_file()]


def read_file(name: str) -> PageFile | None:
    """A file of the page by its path below :data:`DIRECTORY`; ``None``: there is none."""
    directory, _, base = name.rpartition("/")
    media_type = _TYPES.get(Path(base).suffix)
    if directory not in ("", "vendor") or media_type is None or base.startswith("."):
        return None
    try:
        content = (DIRECTORY / directory / base).read_bytes()
    except (OSError, ValueError):  # ValueError: a null byte
        return None
    return PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
