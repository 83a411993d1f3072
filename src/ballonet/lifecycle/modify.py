"""Changing a sandbox that exists: first a plan that says when each change takes effect, then the changes.

A change is ``live`` (made at once), ``next start`` (it matters at boot only, or the sandbox does not run), or
``requires restart`` (the running sandbox keeps the old value). The plan is pure; :func:`apply_plan` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import BallonetError, ConfigError, NotRunningError, SettingError, quoted
from ballonet.base.memory import to_mib
from ballonet.base.paths import state_dir_of
from ballonet.base.suggest import hint_for
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import MachineNote
from ballonet.settings.config import NEED_NETWORK, SandboxConfig
from ballonet.settings.definitions import CONFIGURED, SETTINGS, ModifySettings, settings_in
from ballonet.settings.flags import LIFETIME_FIELDS, NETWORK_RULES, RESOURCE_FIELDS, render_flags
from ballonet.settings.labels import check_labels, show_labels
from ballonet.settings.names import PARAMETERS
from ballonet.settings.setting import LIVE, NEXT_START, REQUIRES_RESTART, Setting
from ballonet.settings.values import field_value
from ballonet.vmm.attach import Net

#: What can be changed: fields of the configuration, in the order in which a plan lists their changes; then the rest.
_FIELDS = sorted(
    (setting for setting in settings_in(ModifySettings) if setting.name in CONFIGURED),
    key=lambda setting: (setting.kind == "list", setting.kind != "size"),
)
NAMES = tuple(dict.fromkeys(setting.name for setting in (*_FIELDS, *settings_in(ModifySettings))))
TARGET = "memory_target"
_NETWORK = frozenset(setting.name for setting in _FIELDS if setting.field in NETWORK_RULES)
_RESOURCES = frozenset(setting.name for setting in _FIELDS if setting.field in RESOURCE_FIELDS)
_LIFETIME = frozenset(setting.name for setting in _FIELDS if setting.field in LIFETIME_FIELDS)

#: How long a plan waits for the guest to follow a target (seconds).
_SETTLE_S = 30.0


@dataclass(frozen=True)
class Change:
    """The change of one setting. ``state`` is ``planned``, ``saved`` (it waits for a start) or ``done``; for a target
    it is the balloon's state, such as ``applied`` or ``guest-refused``, or ``superseded`` by a later target."""

    setting: str
    old: Any
    new: Any
    when: str
    state: str = "planned"
    detail: str | None = None


@dataclass(frozen=True)
class Plan:
    """A modification: its changes, and the new values of the registry's row."""

    record: Record
    changes: tuple[Change, ...]
    row: Mapping[str, Any]
    target_mib: int | None = None
    control_socket: str | None = None
    #: The sandbox's process, if it runs with rules that change.
    network: ProcessId | None = None
    #: The socket on which the sandbox's process takes new limits, if it runs.
    agent_socket: Path | None = None
    #: Those of its lifetime.
    lifetime: Mapping[str, Any] | None = None


def plan_changes(record: Record, note: MachineNote | None, settings: Mapping[str, Any]) -> Plan:
    """The plan for ``settings``, which are checked together. Pure.

    :param note: of the sandbox's process, if it runs.
    :param settings: those of :class:`~ballonet.settings.definitions.ModifySettings`, without ``None``.
    :raises ConfigError: a name is unknown, or a value impossible.
    :raises NotRunningError: a target for a sandbox that does not run, or has no balloon.
    """
    if unknown := sorted(set(map(str, settings)).difference(NAMES)):
        otherwise = f"choose among {', '.join(NAMES)}"
        raise ConfigError(f"cannot modify {', '.join(unknown)}", hint=hint_for(unknown[0], NAMES, otherwise))
    if not settings:
        raise ConfigError("no change was requested", hint=f"choose among {', '.join(NAMES)}")
    old = lifecycle.config_of(record)
    running = None if note is None else lifecycle.config_of(record, note.flags)
    changed = [setting for setting in _FIELDS if setting.name in settings]
    try:
        new = _changed(
            old, {setting.field: field_value(setting, settings[setting.name]) for setting in changed}
        )
    except SettingError as error:
        raise error.named(PARAMETERS) from None
    changes = [
        Change(
            setting.name,
            _shown(getattr(old, setting.field)),
            _shown(getattr(new, setting.field)),
            _takes_effect(setting, running, new),
        )
        for setting in changed
    ]
    row: dict[str, Any] = {"flags": tuple(render_flags(new))} if changed else {}
    if "weight" in settings:
        row["weight"] = check_weight(settings["weight"])
        changes.append(Change("weight", record.weight, row["weight"], LIVE))
    if "reserve" in settings:
        row["reserve_mib"] = to_mib(settings["reserve"], "reserve")
        if row["reserve_mib"] > new.memory_mib:
            raise SettingError(
                f"{{}} {row['reserve_mib']} MiB must not exceed {{}} {new.memory_mib} MiB",
                "reserve",
                "memory_mib",
            )
        changes.append(Change("reserve", record.reserve_mib, row["reserve_mib"], LIVE))
    if "labels" in settings:
        row["labels"] = check_labels(settings["labels"])
        changes.append(Change("labels", show_labels(record.labels), show_labels(row["labels"]), LIVE))
    target = None
    if TARGET in settings:
        target = to_mib(settings[TARGET], TARGET)
        if note is None or note.control_socket is None:
            raise NotRunningError(
                f"sandbox {record.name!r} does not run, or has no balloon, so it has no target",
                hint="--balloon-initial sets the memory at boot",
            )
        changes.append(Change(TARGET, None, target, LIVE))
    network = any(change.setting in _NETWORK and change.when == LIVE for change in changes)
    lifetime = None
    if any(setting.field in LIFETIME_FIELDS for setting in changed):
        lifetime = {name: getattr(new, name) for name in LIFETIME_FIELDS}
    return Plan(
        record,
        tuple(changes),
        row,
        target,
        control_socket=None if note is None else note.control_socket,
        agent_socket=None if note is None else note.agent_socket,
        lifetime=lifetime,
        network=note.process if note is not None and network else None,
    )


def _changed(old: SandboxConfig, fields: dict[str, Any]) -> SandboxConfig:
    """``old`` with other values of some fields, and of those that depend on them."""
    if old.net is Net.NONE and any(fields.get(name) for name in NEED_NETWORK):
        fields.setdefault("net", Net.USER)
    if old.balloon_initial_mib == old.memory_mib and "memory_mib" in fields:
        fields.setdefault(
            "balloon_initial_mib", fields["memory_mib"]
        )  # it still boots with all of its memory
    new = replace(old, **fields)
    if old.disk_mib is not None and new.disk_mib is not None and new.disk_mib < old.disk_mib:
        raise SettingError(
            f"{{}} {new.disk_mib} MiB: the disk has {old.disk_mib} MiB and can only grow",
            "disk_mib",
            hint="create another sandbox for a smaller disk",
        )
    return new


def _takes_effect(setting: Setting, running: SandboxConfig | None, new: SandboxConfig) -> str:
    if running is None or setting.takes_effect == NEXT_START:
        return NEXT_START
    if setting.name in _NETWORK and not running.net is new.net is Net.USER:
        return REQUIRES_RESTART
    same = getattr(running, setting.field) == getattr(new, setting.field)
    return LIVE if same else setting.takes_effect


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among ``arguments`` that are not ``None``."""
    return {name: value for name, value in arguments.items() if value is not None}


async def apply_plan(registry: Registry, plan: Plan) -> Sequence[Change]:
    """Carry out a plan; each change with the state that it reached."""
    if plan.row:
        registry.update(plan.record.name, **plan.row)
    done = []
    failure = await _change_network(plan)
    for change in plan.changes:
        if change.setting == TARGET:
            done.append(await _move(plan, change))
        elif failure is not None and change.setting in _NETWORK and change.when == LIVE:
            done.append(replace(change, state="failed", detail=failure))
        elif change.when == LIVE and change.setting in _LIFETIME:
            done.append(await _limit(plan, change, "lifetime", plan.lifetime or {}))
        elif change.when == LIVE and change.setting in _RESOURCES:
            done.append(await _limit(plan, change, "limits", {SETTINGS[change.setting].field: change.new}))
        else:
            done.append(replace(change, state="done" if change.when == LIVE else "saved"))
    return done


def check_weight(weight: object) -> int:
    """:raises ConfigError: it is not a valid weight."""
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= 10_000:
        raise SettingError(f"{{}} {quoted(weight)} must be a whole number from 1 to 10000", "weight")
    return weight


def _shown(value: object) -> object:
    return ", ".join(map(str, value)) or None if isinstance(value, tuple) else value


async def _change_network(plan: Plan) -> str | None:
    """Put changed rules of the network in force; returns what went wrong."""
    if plan.network is None:
        return None
    from ballonet.lifecycle.network import ask_network
    from ballonet.machine.network_request import NewRules

    config = lifecycle.config_of(plan.record, plan.row["flags"])
    rules = NewRules(**{field: getattr(config, field) for field in NETWORK_RULES})
    try:
        return (await ask_network(plan.network, state_dir_of(plan.record.name), rules)).error
    except BallonetError as error:
        return error.message


async def _limit(plan: Plan, change: Change, request: str, limits: Mapping[str, Any]) -> Change:
    """Give the sandbox's process its new limits."""
    from ballonet.guest.agent_client import AgentClient

    if plan.agent_socket is None:
        return replace(change, state="saved")
    try:
        agent = await AgentClient.connect(plan.agent_socket)
        try:
            await agent.wait_ready(_SETTLE_S)
            await agent.manage(request, timeout_s=_SETTLE_S, **limits)
        finally:
            await agent.close()
    except BallonetError as error:
        return replace(change, state="failed", detail=error.message)
    return replace(change, state="done")


async def _move(plan: Plan, change: Change) -> Change:
    from ballonet.control.client import Client

    assert plan.control_socket is not None
    assert plan.target_mib is not None
    try:
        async with await Client.connect(plan.control_socket) as client:
            before = await client.get()
            reply = await client.set(plan.target_mib, wait=True, timeout_s=_SETTLE_S)
    except BallonetError as error:
        return replace(change, state="failed", detail=error.message)
    actual = "unknown" if reply.actual_mib is None else f"{reply.actual_mib} MiB"
    said = f"target {reply.target_mib} MiB, actual {actual}"
    if reply.clamped:
        moved = "raised" if reply.clamped == "floor" else "lowered"
        said += f"; requested {reply.requested_mib} MiB, {moved} to the {reply.clamped}"
    if reply.detail:
        said += f"; {reply.detail}"
    state = "superseded" if reply.outcome == "superseded" else reply.state
    return replace(change, old=before.target_mib, state=state, detail=said)
