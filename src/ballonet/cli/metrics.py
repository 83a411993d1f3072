"""``ballonet metrics``: exports memory metrics for Prometheus, over HTTP, to a file, or to standard output."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError, HostError

RULES, DASHBOARD = "prometheus/ballonet.rules.yml", "grafana/ballonet.json"

if TYPE_CHECKING:
    from ballonet.metrics.exposition import Exporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--listen", metavar="ADDRESS:PORT", help="serve the metrics at /metrics, until interrupted"
    )
    how.add_argument(
        "--textfile",
        metavar="FILE.prom",
        type=Path,
        help="write the metrics to a file, for node_exporter's textfile collector",
    )
    how.add_argument(
        "--rules",
        action="store_true",
        help="print a Prometheus rule file with alerts",
    )
    how.add_argument("--dashboard", action="store_true", help="print a Grafana dashboard for import")
    # argparse cannot wrap the group of exclusive options.
    parser.usage = (
        "%(prog)s [-h] [--listen ADDRESS:PORT | --textfile FILE.prom |\n"
        "                         --rules | --dashboard]"
    )
    parser.epilog = (
        "Without options, the metrics are printed once. An unknown figure has no sample; "
        "ballonet_sandbox_unknown_info gives the reason."
    )


def run(options: argparse.Namespace) -> int:
    for wanted, file in ((options.rules, RULES), (options.dashboard, DASHBOARD)):
        if wanted:
            print(_contributed(file), end="")
            return 0
    from ballonet.base.paths import replace_file
    from ballonet.lifecycle.samples import collect
    from ballonet.metrics.exposition import Exporter

    exporter = Exporter()
    if options.listen is not None:
        return _serve(exporter, *parse_address(options.listen))
    text = exporter.render(functools.partial(collect, guest_age_s=0, stored=True, networks=True))
    if options.textfile is not None:
        replace_file(options.textfile, text, mode=0o644)
    else:
        print(text.decode(), end="")
    return 0


def _contributed(file: str) -> str:
    """The text of a file in ``contrib/``, which is in the installed package or, in a checkout, beside ``src/``."""
    import ballonet

    package = Path(ballonet.__file__).parent
    places = (package / "contrib" / file, package.parents[1] / "contrib" / file)
    for path in places:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise HostError(
        f"{places[0]} is missing", hint="reinstall the package: pip install --force-reinstall ballonet"
    )


def parse_address(text: str) -> tuple[str, int]:
    """Parse ``127.0.0.1:9400`` or ``[::1]:9400``.

    :raises ConfigError: ``text`` is not an address and a port.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen {text!r} is not ADDRESS:PORT", hint="for example: 127.0.0.1:9400")
    return host.strip("[]"), int(port)


def _serve(exporter: Exporter, host: str, port: int) -> int:
    from prometheus_client import start_http_server

    from ballonet.lifecycle.samples import collect

    try:
        server, thread = start_http_server(
            port, host, exporter.registry(functools.partial(collect, stored=True, networks=True))
        )
    except OSError as error:
        raise HostError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    print(f"serving http://{host}:{server.server_port}/metrics", flush=True)
    thread.join()
    return 0
