"""``ballonet start`` and ``ballonet restart``: boot existing sandboxes."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.base.errors import ConfigError
from ballonet.cli.boot_notice import notice_if_slow
from ballonet.cli.command_options import add_admission_option, add_cold_option
from ballonet.cli.name_arguments import add_names, for_each
from ballonet.cli.progress import report_progress
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import start_sandbox
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, stop_sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    add_admission_option(parser)
    add_cold_option(parser)
    parser.add_argument(
        "-t",
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=STOP_TIMEOUT_S,
        # 'start' accepts the option, too, but has no use for it.
        help="seconds to wait for a graceful stop before killing; 0: kill at once, -1: wait forever (default: 10)"
        if parser.prog.endswith("restart")
        else argparse.SUPPRESS,
    )


def run(options: argparse.Namespace) -> int:
    from ballonet.guest.bundle import prepare_guest

    restart = options.command == "restart"
    with Registry.open() as registry:

        def start(name: str) -> None:
            record = lifecycle.find(registry, name)
            if not restart and record.state.lives:
                print(name)  # already running is no error, as in Docker
                return
            prepare_guest(report=report_progress)
            asyncio.run(
                _start(
                    registry,
                    name,
                    options.timeout if restart else None,
                    admission=options.admission,
                    cold=options.cold,
                )
            )
            print(name)

        return for_each(options.names, start)


async def _start(
    registry: Registry, name: str, stop_timeout_s: float | None, *, admission: bool, cold: bool
) -> None:
    from ballonet.pilot.admission_control import admission_control

    if stop_timeout_s is not None:
        record = await stop_sandbox(registry, name, timeout_s=stop_timeout_s)
        admission = False  # it gets back the memory that it had
        if record is None:
            raise ConfigError(
                f"sandbox {name!r} was created with --rm, so stopping it has removed it",
                hint="create it again with 'ballonet run -d --rm'",
            )
    async with notice_if_slow(name):
        gate = admission_control(admission)
        (await start_sandbox(registry, name, detached=True, gate=gate, cold=cold)).let_go()
    if "--wait-port" in registry.get(name).flags:
        from ballonet.lifecycle.health import wait_for_port

        await wait_for_port(registry, name)
