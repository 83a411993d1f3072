"""Which part of a sandbox's output is shown, and how: options of ``logs``, here and on a cluster."""

from __future__ import annotations

import argparse


def add_log_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sandbox")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="follow the output until the sandbox stops"
    )
    parser.add_argument(
        "-n",
        "--tail",
        metavar="LINES",
        default="all",
        help="number of lines to show from the end (default: all)",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="show output since then: 10m or 1h30m (ago), a time such as 2026-01-31T12:00:00Z, or Unix seconds",
    )
    parser.add_argument("--until", metavar="TIME", help="show output until then")
    parser.add_argument("-t", "--timestamps", action="store_true", help="show timestamps")
