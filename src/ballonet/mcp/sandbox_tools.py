"""Tools that make, show, copy and remove sandboxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from mcp_types import ContentBlock
from msgspec import Meta, Struct

from ballonet.base.errors import NotRunningError
from ballonet.mcp.session import AgentSession
from ballonet.mcp.tools import ToolDefinition, as_json
from ballonet.sdk.sandbox import Sandbox

_Name = Annotated[str, Meta(max_length=100)]
SandboxName = Annotated[
    _Name | None, Meta(description="Name of the sandbox. May be left out if there is only one.")
]
NewName = Annotated[
    _Name | None,
    Meta(description="Name for it: letters, digits, '.', '_' and '-'. By default a random one."),
]


class CreateSandbox(Struct, forbid_unknown_fields=True):
    """Create a sandbox and start it, or get the one of this session that has this name already (its settings then stay
    as they are). It has no network unless 'internet' or 'ports' is given. It ends with this session, and also after the
    times in the result."""

    name: NewName = None
    image: Annotated[
        Annotated[str, Meta(max_length=500)] | None,
        Meta(description="Image with the programs. Leave it out for the default."),
    ] = None
    memory_mib: Annotated[
        Annotated[int, Meta(ge=64, le=1 << 22)] | None,
        Meta(description="Memory in MiB. Leave it out for the default."),
    ] = None
    ports: Annotated[
        list[Annotated[int, Meta(ge=1, le=65535)]],
        Meta(
            description="TCP ports in the sandbox on which servers will listen. Only these can be reached from "
            "outside, and they cannot be added later.",
            max_length=16,
        ),
    ] = []
    internet: Annotated[
        bool, Meta(description="Give it access to the internet, if the operator permits that.")
    ] = False


async def _create(session: AgentSession, given: CreateSandbox) -> Sequence[ContentBlock]:
    await session.forget_ended()
    box = None if given.name is None else session.own(given.name)
    if box is None and given.name in session.policy.existing:
        box = await session.find(given.name)
    created = box is None
    if box is None:
        box = await session.create(
            given.name,
            image=given.image,
            memory_mib=given.memory_mib,
            internet=given.internet,
            ports=given.ports,
        )
    return [as_json({"created": created, **describe(session, box)})]


def describe(session: AgentSession, box: Sandbox) -> dict[str, Any]:
    """A sandbox in words that hold as long as it runs."""
    config, policy = box.config, session.policy
    found: dict[str, Any] = {
        "sandbox": box.name,
        "image": box.record().image or "built-in system with a shell",
        "memory_limit_mib": config.memory_mib,
        "processors": config.cpus,
        "network": "none" if config.net is None else str(config.net),
        "servers": {str(port.guest): addresses(session, box, port.guest) for port in box.ports},
    }
    if session.own(box.name) is not None:
        found["ends"] = (
            f"with this session, after {policy.ttl_s} s, or when idle for {policy.idle_timeout_s} s"
        )
    return found


def addresses(session: AgentSession, box: Sandbox, port: int) -> dict[str, str]:
    """Where a published port can be reached."""
    host = next(each.host for each in box.ports if each.guest == port and each.protocol == "tcp")
    found = {"address": f"127.0.0.1:{host}", "url": f"http://127.0.0.1:{host}/"}
    if session.proxied:
        found["path_on_this_server"] = f"/v1/sandboxes/{box.name}/ports/{port}/"
    return found


class SandboxStatus(Struct, forbid_unknown_fields=True):
    """Show the sandboxes that this session can use, with the addresses of their servers and their memory now: what the
    guest uses, what its balloon leaves to it, and what the host holds for it (MiB)."""

    sandbox: Annotated[_Name | None, Meta(description="Name of one sandbox. By default all.")] = None


async def _status(session: AgentSession, given: SandboxStatus) -> Sequence[ContentBlock]:
    await session.forget_ended()
    names = session.names if given.sandbox is None else [given.sandbox]
    return [as_json({"sandboxes": [await _shown(session, await session.find(name)) for name in names]})]


async def _shown(session: AgentSession, box: Sandbox) -> dict[str, Any]:
    found = {**describe(session, box), "state": str(box.record().state)}
    try:
        balloon, stats = await box.balloon.get(), await box.metrics()
    except NotRunningError as error:
        return {**found, "memory": None, "why_no_memory": error.message}
    guest, host = stats.guest, stats.host
    known = guest.total_mib is not None and guest.available_mib is not None
    found["memory"] = {
        "guest_used_mib": (guest.total_mib or 0) - (guest.available_mib or 0) if known else None,
        "guest_available_mib": guest.available_mib,
        "guest_visible_mib": balloon.actual_mib,
        "balloon_target_mib": balloon.target_mib,
        "limit_mib": balloon.ceiling_mib,
        "host_held_mib": host.resident_mib,
        "host_held_guest_ram_mib": host.guest_ram_mib,
        "processes_killed_for_memory": stats.oom_kills,
    }
    return found


class ForkSandbox(Struct, forbid_unknown_fields=True):
    """Copy a running sandbox: memory, processes, files and code sessions go on in the copy, apart from the original.
    Commands that are running, and network connections, end in the copy. Use it to try something and keep a way back."""

    sandbox: SandboxName = None
    name: NewName = None


async def _fork(session: AgentSession, given: ForkSandbox) -> Sequence[ContentBlock]:
    copy = await session.fork(await session.find(given.sandbox), given.name)
    return [as_json({"created": True, **describe(session, copy)})]


class RemoveSandbox(Struct, forbid_unknown_fields=True):
    """End a sandbox of this session at once, and remove it with all its files."""

    sandbox: Annotated[_Name, Meta(description="Name of the sandbox.")]


async def _remove(session: AgentSession, given: RemoveSandbox) -> Sequence[ContentBlock]:
    await session.remove(given.sandbox)
    return [as_json({"removed": given.sandbox})]


TOOLS = [
    ToolDefinition("create_sandbox", "Create a sandbox", CreateSandbox, _create),
    ToolDefinition(
        "sandbox_status", "Show sandboxes and their memory", SandboxStatus, _status, read_only=True
    ),
    ToolDefinition("fork_sandbox", "Copy a running sandbox", ForkSandbox, _fork),
    ToolDefinition("remove_sandbox", "Remove a sandbox", RemoveSandbox, _remove, destructive=True),
]
