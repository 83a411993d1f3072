"""Asks running sandboxes about their networks, and changes a network's rules."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ballonet.base.errors import BallonetError, SandboxError
from ballonet.base.paths import exclusive_if_free, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record
from ballonet.machine.network_request import SIGNAL, Answer, NetworkRequest, NewRules
from ballonet.metrics.model import NetworkSample
from ballonet.vmm.attach import Net

#: How long the sandbox's process may take (seconds), and how often its answer is looked for.
_ANSWER_S, _LOOK_S = 30.0, 0.02
_LOCK = "network.lock"


async def ask_network(
    process: ProcessId, directory: Path, rules: NewRules | None = None, *, deadline_s: float = _ANSWER_S
) -> Answer:
    """The counters of the network, after ``rules`` are in force if given.

    :param directory: the sandbox's state directory.
    :raises HostError: the request cannot be written.
    :raises SandboxError: the sandbox's process does not answer.
    """
    ended = SandboxError("the sandbox has ended")
    request = NetworkRequest(secrets.token_hex(8), rules)
    pidfd = process.open()
    if pidfd is None:
        raise ended
    try:
        async with asyncio.timeout(deadline_s), _turn(directory / _LOCK):
            request.write(directory)
            signal.pidfd_send_signal(pidfd, SIGNAL)
            while (answer := request.answered(directory)) is None:
                await asyncio.sleep(_LOOK_S)
                if not process.alive():
                    raise ended
        return answer
    except ProcessLookupError:
        raise ended from None
    except TimeoutError:
        raise SandboxError(f"the sandbox's process does not answer within {deadline_s:g} s") from None
    finally:
        os.close(pidfd)


@asynccontextmanager
async def _turn(lock: Path) -> AsyncIterator[None]:
    """Wait for others to get their answers: there is one place for a request."""
    with ExitStack() as held:
        while True:
            if held.enter_context(exclusive_if_free(lock)):
                break
            await asyncio.sleep(_LOOK_S)
        yield


def read_networks(records: Sequence[Record], deadline_s: float) -> list[NetworkSample]:
    """What the networks of these sandboxes have counted, asked concurrently. Those that do not answer are left out."""
    running = []
    for record in records:
        note = living(record) if record.state.lives else None
        if note is not None and note.ready and _has_rules(record, note.flags):
            running.append((record.name, note.process))
    return asyncio.run(_ask_all(running, deadline_s)) if running else []


def _has_rules(record: Record, flags: tuple[str, ...]) -> bool:
    try:
        return lifecycle.config_of(record, flags).net is Net.USER
    except BallonetError:
        return False


async def _ask_all(running: Sequence[tuple[str, ProcessId]], deadline_s: float) -> list[NetworkSample]:
    async def ask(name: str, process: ProcessId) -> NetworkSample | None:
        try:
            answer = await ask_network(process, state_dir_of(name), deadline_s=deadline_s)
            return None if answer.error is not None else network_sample(name, answer.counters)
        except (BallonetError, KeyError, TypeError):  # KeyError: a sandbox of another version
            return None

    found = await asyncio.gather(*(ask(name, process) for name, process in running))
    return [sample for sample in found if sample is not None]


def network_sample(name: str, counters: Mapping[str, Any]) -> NetworkSample:
    """The sample that these counters make up (:func:`~ballonet.machine.net_counters.read_counters`)."""
    by_rule: dict[str, dict[str, int]] = {"allow": {}, "deny": {}}
    for rule in counters["rules"]:
        by_rule[rule["action"]][rule["rule"]] = rule["connections"]
    others = counters["allowed"] - sum(by_rule["allow"].values())
    reasons = {word: count for word, count in counters["reasons"].items() if word != "denied"}
    return NetworkSample(
        name,
        sent_bytes=counters["sent_bytes"],
        received_bytes=counters["received_bytes"],
        allowed=by_rule["allow"] | {"": others},
        refused=by_rule["deny"] | reasons,
        names_asked=counters["names_asked"],
        names_refused=counters["names_refused"],
    )
