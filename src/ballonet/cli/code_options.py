"""Which code runs, and in which session: options of ``code``, here and on a cluster."""

from __future__ import annotations

import argparse


def add_code_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sandbox")
    parser.add_argument(
        "file", metavar="FILE", help="file with the code, on this machine; - is standard input"
    )
    parser.add_argument(
        "--lang",
        metavar="LANGUAGE",
        default="python",
        help="python, node, sh or bash, which the image must have (default: python)",
    )
    parser.add_argument("--session", metavar="SESSION", help="name of a session that keeps its variables")
    parser.add_argument("--close", action="store_true", help="end the session afterwards")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        help="interrupt the code after this many seconds (or 1m30s, 2h); restart the session if it does not react",
    )
    parser.add_argument(
        "-w", "--workdir", metavar="DIR", help="working directory of a session that is started"
    )
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set an environment variable for a session that is started",
    )
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="user of the session")
