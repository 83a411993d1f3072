"""Changes the rules of a running sandbox's network."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from pathlib import Path

from ballonet.host.identity import ProcessId
from ballonet.machine.network_change import SIGNAL, NetworkChange
from ballonet.settings.config import SandboxConfig

#: How long the sandbox's process may take (seconds), and how often its answer is looked for.
_ANSWER_S, _LOOK_S = 30.0, 0.02


async def change_network(process: ProcessId, directory: Path, config: SandboxConfig) -> str | None:
    """Put the rules of ``config`` in force; returns what went wrong.

    :param directory: the sandbox's state directory.
    :raises HostError: the request cannot be written.
    """
    change = NetworkChange(secrets.token_hex(8), config.net_allow, config.net_deny)
    change.write(directory)
    pidfd = process.open()
    if pidfd is None:
        return "the sandbox has ended"
    try:
        signal.pidfd_send_signal(pidfd, SIGNAL)
        async with asyncio.timeout(_ANSWER_S):
            while (answer := change.answered(directory)) is None:
                await asyncio.sleep(_LOOK_S)
                if not process.alive():
                    return "the sandbox has ended"
        return answer or None
    except ProcessLookupError:
        return "the sandbox has ended"
    except TimeoutError:
        return f"the sandbox's process does not answer within {_ANSWER_S:g} s"
    finally:
        os.close(pidfd)
