"""Creates sandboxes for requests; once for each idempotency key."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, UnknownSandboxError
from ballonet.base.memory import to_mib
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import prepare
from ballonet.lifecycle.modify import check_weight
from ballonet.lifecycle.record import Defaults, State
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.command_settings import command_settings
from ballonet.sdk.creation import Balloon, check_start, command_of, configuration, with_defaults
from ballonet.sdk.random_name import random_name
from ballonet.sdk.sandbox import Sandbox
from ballonet.serve.access import Access
from ballonet.serve.host_access import host_settings
from ballonet.serve.idempotency import Entry, key_id
from ballonet.serve.operations import Call, encode
from ballonet.serve.problems import refused
from ballonet.serve.requests import given
from ballonet.serve.services import find_record
from ballonet.serve.tokens import Scope

#: How often a start that a killed server has begun is looked at (seconds).
_LOOK_S = 0.05


def check_host_access(access: Access, settings: Mapping[str, Any]) -> None:
    """:raises RequestRefusedError: a setting gives a sandbox something of the host, and the token does not."""
    if access.scope is Scope.ADMIN:
        return
    if found := host_settings(settings):
        raise refused(
            "forbidden",
            f"{', '.join(found)}: files, ports and names of the host need a token with the scope admin",
            hint="use named volumes, images of a registry and ports on 127.0.0.1",
        )


class Maker(Protocol):
    """Creates sandboxes."""

    async def create(self, call: Call, name: str, body: Mapping[str, Any]) -> None: ...

    async def was_created(self, call: Call, entry: Entry, *, start: bool) -> bool:
        """Whether an earlier request with the key has created its sandbox.

        :param start: it is to run.
        """
        ...


async def create_sandbox(call: Call, maker: Maker) -> tuple[str, bool]:
    """Carry out a request to create a sandbox; returns its name, and whether an earlier request had created it."""
    body = given(call.body)
    if not isinstance(body["balloon"], bool):
        body["balloon"] = given(body["balloon"])
    check_host_access(call.access, body)
    name = body.pop("name", None) or random_name()
    key = call.request.headers.get("idempotency-key")
    if key is None:
        await maker.create(call, name, body)
        return name, False
    keys = call.services.keys
    id = key_id(key, call.access.id)
    fingerprint = hashlib.sha256(encode([given(call.body).get("name"), body])).hexdigest()
    async with keys.lock(id):
        entry = keys.find(id, fingerprint)
        if entry is None:
            entry = Entry(fingerprint, name, time.time())
            keys.write(id, entry)
        elif await maker.was_created(call, entry, start=body["start"]):
            keys.write(id, replace(entry, done=True))
            return entry.name, True
        try:
            await maker.create(call, entry.name, body)
        except BaseException:
            keys.forget(id)
            raise
        keys.write(id, replace(entry, done=True))
        return entry.name, False


def created_headers(name: str, replayed: bool) -> dict[str, str]:
    """The headers of the response to :func:`create_sandbox`."""
    found = {"Location": f"/v1/sandboxes/{name}"}
    return {**found, "Idempotency-Replayed": "true"} if replayed else found


class HostMaker:
    """:class:`Maker` on this host."""

    async def create(self, call: Call, name: str, body: Mapping[str, Any]) -> None:
        arguments = dict(body)
        start = arguments.pop("start")
        balloon = arguments["balloon"]
        if not isinstance(balloon, bool):
            arguments["balloon"] = Balloon(**balloon)
        if start:
            box = await Sandbox.create(name, detached=True, **arguments)
            await box.close()  # the sandbox goes on
            return
        await asyncio.to_thread(_register, name, **arguments)

    async def was_created(self, call: Call, entry: Entry, *, start: bool) -> bool:
        """If the server was killed before the sandbox had started, this waits for its start, or starts it now."""
        try:
            record = await call.services.blocking(find_record, entry.name)
            while not entry.done and start and record.state is State.STARTING:
                await asyncio.sleep(_LOOK_S)  # the registry has no notifications
                record = await call.services.blocking(find_record, entry.name)
        except UnknownSandboxError:
            if not entry.done:
                return False
            raise key_spent(entry) from None
        if record.created_at < entry.at:
            return False  # another one, which had the name before: creating it fails
        if not entry.done and start and not record.state.lives and record.state is not State.PAUSED:
            await Sandbox.start(entry.name)
        return True


def key_spent(entry: Entry) -> BallonetError:
    """The error for a key whose sandbox is no more."""
    return refused(
        "key-spent",
        f"sandbox {entry.name!r} was created with this idempotency key, and was removed since",
        hint="use a new key for each sandbox",
    )


def _register(
    name: str,
    *,
    balloon: Balloon | bool,
    cold: bool,
    admission: bool,
    command: list[str] | None = None,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    **settings: Any,
) -> None:
    """Register a sandbox without starting it, as ``ballonet create`` does."""
    settings = dict(with_defaults(settings))  # type: ignore[arg-type]
    pull, rootfs = settings["pull"], settings["rootfs"]
    check_start(pull=pull, rootfs=rootfs, detached=True, admission=admission, cold=cold)
    defaults = Defaults(*command_settings(env, cwd, user))
    weight, reserve_mib = check_weight(settings["weight"]), to_mib(settings["reserve"], "reserve")
    config = configuration(name, settings, balloon=balloon)  # type: ignore[arg-type]
    prepared = prepare(config, pull=pull, rootfs=None if rootfs is None else Path(rootfs))
    with Registry.open() as registry:
        lifecycle.create(
            registry,
            prepared.config,
            image=prepared.image,
            command=command_of(prepared, command, defaults),
            defaults=defaults,
            weight=weight,
            reserve_mib=reserve_mib,
        )
