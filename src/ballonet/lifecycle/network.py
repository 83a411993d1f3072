"""Asks a running sandbox about its network, and changes the network's rules."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from pathlib import Path

from ballonet.base.errors import SandboxError
from ballonet.host.identity import ProcessId
from ballonet.machine.network_request import SIGNAL, Answer, NetworkRequest, NewRules

#: How long the sandbox's process may take (seconds), and how often its answer is looked for.
_ANSWER_S, _LOOK_S = 30.0, 0.02


async def ask_network(process: ProcessId, directory: Path, rules: NewRules | None = None) -> Answer:
    """The counters of the network, after ``rules`` are in force if given.

    :param directory: the sandbox's state directory.
    :raises HostError: the request cannot be written.
    :raises SandboxError: the sandbox's process does not answer.
    """
    request = NetworkRequest(secrets.token_hex(8), rules)
    request.write(directory)
    ended = SandboxError("the sandbox has ended")
    pidfd = process.open()
    if pidfd is None:
        raise ended
    try:
        signal.pidfd_send_signal(pidfd, SIGNAL)
        async with asyncio.timeout(_ANSWER_S):
            while (answer := request.answered(directory)) is None:
                await asyncio.sleep(_LOOK_S)
                if not process.alive():
                    raise ended
        return answer
    except ProcessLookupError:
        raise ended from None
    except TimeoutError:
        raise SandboxError(f"the sandbox's process does not answer within {_ANSWER_S:g} s") from None
    finally:
        os.close(pidfd)
