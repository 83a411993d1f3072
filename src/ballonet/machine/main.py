"""The hidden command ``ballonet sandbox``: becomes one sandbox's process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

from ballonet.errors import BallonetError, ConfigError
from ballonet.machine.args import parse_flags
from ballonet.machine.owner import OwnerLine
from ballonet.machine.supervisor import Supervisor
from ballonet.vmm.config import VmConfig

#: The descriptor of the line to the owner, inherited; without it the sandbox belongs to nobody.
OWNER_FLAG = "--owner-fd"


def main(argv: Sequence[str]) -> int:
    """Run the sandbox that ``argv`` describes to its end; 0 if it came up and ended, 2 for bad flags, else 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    words = list(argv)
    try:
        owner_fd = _take_owner_fd(words)
        config = parse_flags(words)
    except BallonetError as error:
        print(f"ballonet: error: {error}", file=sys.stderr)
        return 2
    return asyncio.run(_run(config, owner_fd))


async def _run(config: VmConfig, owner_fd: int | None) -> int:
    return await Supervisor(config, OwnerLine(owner_fd)).run()


def _take_owner_fd(words: list[str]) -> int | None:
    if OWNER_FLAG not in words:
        return None
    at = words.index(OWNER_FLAG)
    try:
        fd = int(words[at + 1])
    except (IndexError, ValueError) as error:
        raise ConfigError(f"ballonet sandbox: {OWNER_FLAG} needs a descriptor's number") from error
    del words[at : at + 2]
    return fd
