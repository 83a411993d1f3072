"""``ballonet resume``: continues paused sandboxes."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.boot_notice import notice_if_slow
from ballonet.cli.command_options import add_admission_option
from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import start_sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    add_admission_option(parser)


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        def resume(name: str) -> None:
            record = lifecycle.find(registry, name)
            if not record.state.lives:
                asyncio.run(_resume(registry, name, admission=options.admission))
            print(name)  # already running is no error, as with 'start'

        return for_each(options.names, resume)


async def _resume(registry: Registry, name: str, *, admission: bool) -> None:
    from ballonet.pilot.admission_control import admission_control

    async with notice_if_slow(name):
        gate = admission_control(admission)
        (await start_sandbox(registry, name, detached=True, gate=gate, only_resume=True)).let_go()
