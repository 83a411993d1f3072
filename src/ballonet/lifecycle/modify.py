"""Changing a sandbox that exists: first a plan that says for each change when it takes effect, then the doing.

A change is ``live`` (done at once), ``next start`` (it matters at boot only, or the sandbox does not run), or
``requires restart`` (the running sandbox goes on with the old value). The plan is pure; :func:`apply_plan` does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError, NotRunningError, SettingError, quoted
from ballonet.base.memory import MAX_MIB, to_mib
from ballonet.base.suggest import hint_for
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import MachineNote
from ballonet.settings.flags import render_flags
from ballonet.settings.items import read_items
from ballonet.settings.names import PARAMETERS
from ballonet.vmm.attach import Net

LIVE = "live"
NEXT_START = "next start"
REQUIRES_RESTART = "requires restart"

#: Sizes of the configuration, by the names that :func:`plan_changes` takes.
_SIZES = {
    "memory": "memory_mib",
    "balloon_initial": "balloon_initial_mib",
    "balloon_min": "balloon_min_mib",
    "guard": "guard_mib",
    "disk": "disk_mib",
}
_OTHERS = {
    "cpus": "cpus",
    "deflate_on_oom": "deflate_on_oom",
    "free_page_reporting": "free_page_reporting",
    "pressure_relief": "pressure_relief",
    "hard_cap": "hard_cap",
    "net": "net",
}
#: Lists, each given whole.
_LISTS = {"volumes": "volumes", "tmpfs": "tmpfs", "ports": "ports"}
#: Those that a running sandbox has done with.
_BOOT_ONLY = frozenset({"balloon_initial"})
_PILOT = ("weight", "reserve")
TARGET = "memory_target"
NAMES = (*_SIZES, *_OTHERS, *_LISTS, *_PILOT, TARGET)

#: How long a live target may take until its state is told as it is (seconds).
_SETTLE_S = 30.0


@dataclass(frozen=True)
class Change:
    """One setting's change. ``state`` is how far it came: ``planned``; ``saved`` where it waits for a start; ``done``;
    for a target the balloon's own word, such as ``applied`` or ``guest-refused``, or ``superseded`` by a later one."""

    setting: str
    old: Any
    new: Any
    when: str
    state: str = "planned"
    detail: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a modification comes to: its changes, and the desired state of the row."""

    record: Record
    changes: tuple[Change, ...]
    row: Mapping[str, Any]
    target_mib: int | None = None
    control_socket: str | None = None


def plan_changes(record: Record, note: MachineNote | None, settings: Mapping[str, Any]) -> Plan:
    """The plan for ``settings``, checked together. Pure.

    :param note: of the sandbox's process, if it runs.
    :param settings: ``memory``, ``balloon_initial``, ``balloon_min``, ``guard``, ``reserve`` and ``memory_target`` are
        sizes, so is ``disk``; ``cpus`` and ``weight`` are numbers, ``deflate_on_oom``, ``free_page_reporting``,
        ``pressure_relief`` and ``hard_cap`` booleans. ``net`` and the lists ``volumes``, ``tmpfs`` and ``ports`` are
        as :meth:`ballonet.sandbox.Sandbox.create` has them. ``memory_target`` moves the balloon of a running sandbox.
    :raises ConfigError: a name is unknown, or a value impossible.
    :raises NotRunningError: a target for a sandbox that does not run, or has no balloon.
    """
    if unknown := sorted(set(map(str, settings)).difference(NAMES)):
        otherwise = f"choose among {', '.join(NAMES)}"
        raise ConfigError(f"cannot modify {', '.join(unknown)}", hint=hint_for(unknown[0], NAMES, otherwise))
    if not settings:
        raise ConfigError("no change was asked for", hint=f"choose among {', '.join(NAMES)}")
    old = lifecycle.config_of(record)
    running = None if note is None else lifecycle.config_of(record, note.flags)
    fields: dict[str, Any] = {
        _SIZES[name]: to_mib(value, name) for name, value in settings.items() if name in _SIZES
    }
    fields |= {_OTHERS[name]: value for name, value in settings.items() if name in _OTHERS}
    fields |= {_LISTS[name]: read_items(name, value) for name, value in settings.items() if name in _LISTS}
    if fields.get("ports") and old.net is Net.NONE:
        fields.setdefault("net", Net.USER)
    if fields.get("disk_mib", MAX_MIB) < (old.disk_mib or 0):
        raise SettingError(
            f"{{}} {fields['disk_mib']} MiB: the disk has {old.disk_mib} MiB and can only grow",
            "disk_mib",
            hint="make a new sandbox for a smaller disk",
        )
    if old.balloon_initial_mib == old.memory_mib and "memory_mib" in fields:
        fields.setdefault(
            "balloon_initial_mib", fields["memory_mib"]
        )  # it boots with all it may have, as before
    try:
        new = replace(old, **fields)
    except SettingError as error:
        raise error.named(PARAMETERS) from None
    changes = []
    for name, field in (_SIZES | _OTHERS | _LISTS).items():
        if name not in settings:
            continue
        when = NEXT_START
        if running is not None and name not in _BOOT_ONLY:
            same = getattr(running, field) == getattr(new, field)
            when = LIVE if same else REQUIRES_RESTART
        changes.append(Change(name, _shown(getattr(old, field)), _shown(getattr(new, field)), when))
    row: dict[str, Any] = {"flags": tuple(render_flags(new))} if fields else {}
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
    target = None
    if TARGET in settings:
        target = to_mib(settings[TARGET], TARGET)
        if note is None or note.control_socket is None:
            raise NotRunningError(
                f"sandbox {record.name!r} does not run, or has no balloon: there is no target to move",
                hint="memory at boot is --balloon-initial",
            )
        changes.append(Change(TARGET, None, target, LIVE))
    return Plan(record, tuple(changes), row, target, None if note is None else note.control_socket)


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The changes among a call's ``arguments``: those of our names that are not ``None``."""
    return {name: arguments[name] for name in NAMES if arguments.get(name) is not None}


async def apply_plan(registry: Registry, plan: Plan) -> Sequence[Change]:
    """Do it; each change with how far it came."""
    if plan.row:
        registry.update(plan.record.name, **plan.row)
    done = []
    for change in plan.changes:
        if change.setting == TARGET:
            done.append(await _move(plan, change))
        else:
            done.append(replace(change, state="done" if change.when == LIVE else "saved"))
    return done


def check_weight(weight: object) -> int:
    """:raises ConfigError: it is no weight."""
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= 10_000:
        raise SettingError(f"{{}} {quoted(weight)} must be a whole number from 1 to 10000", "weight")
    return weight


def _shown(value: object) -> object:
    return ", ".join(map(str, value)) or None if isinstance(value, tuple) else value


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
        said += f"; {reply.requested_mib} was asked, the {reply.clamped} is in the way"
    if reply.detail:
        said += f"; {reply.detail}"
    state = "superseded" if reply.outcome == "superseded" else reply.state
    return replace(change, old=before.target_mib, state=state, detail=said)
