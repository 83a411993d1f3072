"""``ballonet version``: shows the versions of ballonet, its interfaces and the host's software."""

from __future__ import annotations

import argparse
import platform

from ballonet.base.errors import BallonetError
from ballonet.cli.output import print_facts, print_json
from ballonet.version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    from ballonet.base.paths import cache_dir
    from ballonet.control.protocol import PROTOCOL_VERSION
    from ballonet.lifecycle.schema import VERSION
    from ballonet.vmm.default_engine import DefaultEngine

    try:
        engine = DefaultEngine.find(cache_dir()).version_text
    except BallonetError as error:
        engine = f"none ({error.message})"
    facts = {
        "ballonet": __version__,
        "control protocol": PROTOCOL_VERSION,
        "registry": VERSION,
        "engine": f"{DefaultEngine.name} {engine}",
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    if options.json:
        return print_json({name.replace(" ", "_"): value for name, value in facts.items()})
    print_facts(facts)
    return 0
