"""The agent of a host with a real sandbox, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ballonet.cluster.host_agent import HostAgent
from ballonet.cluster.host_labels import own_labels
from ballonet.cluster.host_notes import boot_time_s, fenced_names
from ballonet.cluster.host_report import HostConfig, HostReport
from ballonet.cluster.lease import LEASE_S
from ballonet.cluster.ledger import Order
from ballonet.cluster.request_of import request_of
from ballonet.guest.bundle import GuestBundle

pytestmark = pytest.mark.extended


async def test_a_host_creates_runs_reports_and_refuses(
    guest: GuestBundle, run_directory: Path, tmp_path: Path
) -> None:
    settings = {"memory": "256M"}
    request = request_of("placed", settings, expected="100M", group="g", affinity="near")
    order = Order(request, settings)
    agent = HostAgent(HostConfig("here", budget_mib=700, reserve_mib=64, labels={"disk": "ssd"}))
    started = await agent.start()
    assert started.value == "here", started
    try:
        empty: HostReport = (await agent.report()).value
        assert (empty.offer.promised_mib, empty.offer.sandboxes) == (0, 0)
        assert (empty.offer.budget_mib, empty.offer.reserve_mib) == (700, 64)
        created = await agent.create(order, boot_time_s())
        assert created.value == "placed", created
        assert (await agent.create(order)).code == "name-in-use"
        done = await agent.stream("exec", "me", "placed", ["sh", "-c", "cat; exit 3"], {}, b"words")
        assert done.value == (3, None, b"words", b"")
        assert (await agent.stream("exec", "me", "placed", ["/no/such"], {}, None)).code == "guest-command"
        assert (await agent.stream("exec", "me", "other", ["true"], {}, None)).code == "unknown-sandbox"
        late = await agent.create(Order(request._replace(name="late"), settings), boot_time_s() - LEASE_S)
        assert late.code == "host-lost", "it may have been created elsewhere meanwhile"
        full = HostAgent(HostConfig("here"))
        assert (await full.start()).code == "pilot-busy", "one autopilot at a time"
        large = request_of("large", {"memory": "700M", "reserve": "600M"})
        await _next_tick(agent)
        refused = await agent.create(Order(large, {"memory": "700M", "reserve": "600M"}))
        assert refused.code == "no-room", refused
        assert "it needs 700 MiB" in refused.message
        report: HostReport = (await agent.report()).value
        assert report.sandboxes == {"placed": "running"}
        assert report.offer.groups == {"g": 1}
        assert report.offer.labels == {"disk": "ssd", **own_labels()}
        assert report.offer.promised_mib >= request.least_mib
        assert report.offer.ceilings_mib > 256
        assert 0 < report.offer.expected_mib < 500
        again = HostAgent(HostConfig("here"))
        assert again.notes.orders["placed"] == order, "a new agent knows what was asked"
        assert agent.close_host("it is being drained").code is None
        assert (await agent.create(Order(large, {}))).message == "it is being drained"
        assert await until_fenced(agent) == {"placed"}, "without a lease, the fence ends it"
        assert (await agent.stream("exec", "me", "placed", ["true"], {}, None)).code == "not-running"
    finally:
        agent.close_host(None)
        removed = await agent.remove("placed", True)
        agent.leave()
        await agent.close()
    assert removed.code is None
    assert (await agent.report()).value.sandboxes == {}


async def _next_tick(agent: HostAgent) -> None:
    """Wait until the autopilot has seen the sandbox."""
    for _ in range(2):
        agent._ticked.clear()
        await agent._ticked.wait()


async def until_fenced(agent: HostAgent) -> frozenset[str]:
    """Nobody grants leases here: wait until the fence has acted."""
    async with asyncio.timeout(LEASE_S + 60):
        while not (fenced := fenced_names()):
            await asyncio.sleep(0.2)
    report: HostReport = (await agent.report()).value
    assert report.fenced == fenced
    return fenced
