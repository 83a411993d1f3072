"""``ballonet serve``: serves the HTTP API."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError
from ballonet.cli.mcp_options import add_policy, check_unused

if TYPE_CHECKING:
    from ballonet.serve.app import Endpoints
    from ballonet.serve.extension import Extension

_MAX_EXECS = 64

_EPILOG = """\
By default, only this user can connect, at a Unix socket in the run directory.
With --listen, requests need a token: see 'ballonet token create --help'.
Sandboxes do not depend on the server; it may be stopped at any time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_options(parser)
    parser.add_argument(
        "--max-execs",
        metavar="N",
        type=int,
        default=_MAX_EXECS,
        help="commands that run at once in one sandbox for clients (default: 64)",
    )
    served = parser.add_argument_group("Model Context Protocol, at /mcp (see 'ballonet mcp --help')")
    served.add_argument(
        "--mcp", action="store_true", help="serve it to agents, for requests with a token of the scope use"
    )
    served.add_argument(
        "--mcp-max-sessions",
        metavar="N",
        type=int,
        default=16,
        help="sessions of agents at once (default: 16)",
    )
    add_policy(served, "mcp-")
    parser.add_argument("--openapi", action="store_true", help="print the OpenAPI document, and exit")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """How to serve, whatever is served."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", metavar="PATH", type=Path, help="path of the Unix socket")
    where.add_argument("--no-socket", action="store_true", help="listen on no Unix socket")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS:PORT",
        action="append",
        default=[],
        help="also listen on this address, for requests with a token; port 0 selects a free port (may be repeated)",
    )
    parser.add_argument(
        "--tls-cert", metavar="FILE", type=Path, help="certificate for --listen, with its chain, as PEM"
    )
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="key of the certificate, as PEM")
    parser.add_argument(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="name under which clients reach this server; addresses and localhost need none (may be repeated)",
    )
    parser.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages of this origin, such as https://example.org, use the API (may be repeated)",
    )
    parser.add_argument(
        "--max-requests",
        metavar="N",
        type=int,
        default=1024,
        help="requests that are served at once (default: 1024)",
    )
    parser.add_argument("--max-upload", metavar="SIZE", default="64G", help="largest upload (default: 64G)")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    from ballonet.serve.operations import OPENAPI_FILE

    if options.openapi:
        print(OPENAPI_FILE.read_text(encoding="utf-8"), end="")
        return 0
    if not options.mcp:
        check_unused(options, "mcp-", "--mcp")
    if options.max_execs < 1:
        raise ConfigError(f"--max-execs {options.max_execs} must be at least 1")
    return run_server(options, [_mcp(options)] if options.mcp else [], max_execs=options.max_execs)


def run_server(
    options: argparse.Namespace,
    extensions: Sequence[Extension] = (),
    endpoints: Endpoints | None = None,
    *,
    max_execs: int = _MAX_EXECS,
) -> int:
    """Serve until a signal.

    :param endpoints: the API; by default that of this host.
    :param max_execs: how many commands of clients run at once in a sandbox of this host.
    """
    import asyncio
    import logging

    from ballonet.base.memory import mib_to_bytes, parse_size
    from ballonet.cli.metrics import parse_address
    from ballonet.serve.app import HERE
    from ballonet.serve.server import Settings, default_socket, serve
    from ballonet.serve.services import Limits

    if options.max_requests < 1:
        raise ConfigError(f"--max-requests {options.max_requests} must be at least 1")
    unix = options.socket.absolute() if options.socket is not None else None
    if unix is None and not options.no_socket:
        unix = default_socket()
    settings = Settings(
        unix=unix,
        addresses=tuple(parse_address(text) for text in options.listen),
        certificate=options.tls_cert,
        key=options.tls_key,
        host_names=tuple(options.host_name),
        origins=tuple(options.allow_origin),
        limits=Limits(
            options.max_requests,
            max_execs,
            mib_to_bytes(parse_size(options.max_upload, "--max-upload")),
        ),
    )
    # What happens to requests is logged by the server itself.
    logging.getLogger("uvicorn.error").setLevel(
        logging.DEBUG if logging.getLogger("ballonet").isEnabledFor(logging.DEBUG) else logging.CRITICAL
    )

    def ready(address: str) -> None:
        print(f"listening on {address}", flush=True)

    asyncio.run(serve(settings, ready, extensions, endpoints or HERE))
    return 0


def _mcp(options: argparse.Namespace) -> Extension:
    from ballonet.cli.mcp_options import policy_of
    from ballonet.mcp.http import McpEndpoint

    if options.mcp_max_sessions < 1:
        raise ConfigError(f"--mcp-max-sessions {options.mcp_max_sessions} must be at least 1")
    return McpEndpoint(policy_of(options, "mcp-"), options.mcp_max_sessions)
