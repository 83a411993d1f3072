"""The hidden command ``ballonet sandbox``, which is a sandbox's process."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from ballonet.base.errors import BallonetError
from ballonet.base.garbage import collect_as_usual
from ballonet.machine.owner_channel import OwnerChannel
from ballonet.machine.run_options import RunOptions, take_run_options
from ballonet.machine.supervisor import Supervisor
from ballonet.settings.flags import parse_flags
from ballonet.vmm.config import VmConfig


def main(argv: Sequence[str]) -> int:
    """Run the sandbox that ``argv`` describes until it ends; 0 if it started and ended, 2 for invalid flags, else 1."""
    collect_as_usual()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options, flags = take_run_options(argv)
        config = parse_flags(flags)
    except BallonetError as error:
        print(f"ballonet: error: {error}", file=sys.stderr)
        return 2
    # Python's own handler raises KeyboardInterrupt; replacing it later would load much, for a message nobody sees.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return asyncio.run(_run(config, options, flags))


async def _run(config: VmConfig, options: RunOptions, flags: list[str]) -> int:
    return await Supervisor(config, OwnerChannel(options.owner_fd), options, flags).run()
