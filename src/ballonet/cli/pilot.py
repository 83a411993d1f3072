"""``ballonet pilot``: share the host's memory among all sandboxes; and ask what it did, and why."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import textwrap
import time
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.memory import parse_size
from ballonet.base.suggest import hint_for
from ballonet.cli.output import print_facts, print_json, print_json_line, print_table, show
from ballonet.pilot import lock, state
from ballonet.pilot.model import DEFAULT_OVERCOMMIT, HostView, SandboxView, promisable_mib

#: Variables that decide which sandboxes are meant: a unit must have those that were set for the one who prints it.
_WHERE = ("BALLONET_RUN_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and why; move nothing")
    parser.add_argument("--ticks", metavar="N", type=int, help="end after N looks (default: never)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    explain = actions.add_parser("explain", help="tell the last decisions about a sandbox, with every input")
    explain.add_argument("name", metavar="NAME", help="a sandbox's name")
    explain.add_argument("-n", "--last", metavar="N", type=int, default=10, help="how many (default: 10)")
    explain.add_argument("--json", action="store_true", help="print JSON, one object a line")
    status = actions.add_parser("status", help="show who drives the sandboxes, and what was last seen")
    status.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser("pause", help="have it move nothing until 'resume'; pressure relief goes on")
    actions.add_parser("resume", help="let it go on")
    unit = actions.add_parser("unit", help="print a systemd user unit that runs it")
    # What was given before the word 'unit' stays as it is.
    _add_settings(unit, default=argparse.SUPPRESS)
    parser.epilog = (
        "Without an ACTION it runs in the foreground until interrupted. "
        "Only one drives a user's sandboxes at a time."
    )


def _add_settings(parser: argparse.ArgumentParser, **default: Any) -> None:
    parser.add_argument(
        "--policy", metavar="NAME", help="the rule (default: ballonet; '--policy list' lists them)", **default
    )
    parser.add_argument(
        "--budget", metavar="SIZE", help="what all sandboxes together may hold (default: the host)", **default
    )
    parser.add_argument(
        "--reserve", metavar="SIZE", help="what is never promised to them (default: a twentieth)", **default
    )
    parser.add_argument(
        "--overcommit",
        metavar="TIMES",
        type=float,
        help=f"how much is promised for what is there, while much is available (default: {DEFAULT_OVERCOMMIT})",
        **default,
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="look after the sandboxes whose names match, such as 'ci-*'; may be repeated",
        **default,
    )


def run(options: argparse.Namespace) -> int:
    if options.policy == "list":
        return _list_policies()
    return _ACTIONS[options.action](options)


def _run(options: argparse.Namespace) -> int:
    from ballonet.pilot.loop import DEFAULT_POLICY, Settings
    from ballonet.pilot.policies.catalog import make_policy

    settings = Settings(
        only=tuple(options.only or ()),
        budget_mib=None if options.budget is None else parse_size(options.budget, "--budget"),
        reserve_mib=None if options.reserve is None else parse_size(options.reserve, "--reserve"),
        overcommit=DEFAULT_OVERCOMMIT if options.overcommit is None else options.overcommit,
        dry_run=options.dry_run,
    )
    if not 1 <= settings.overcommit <= 100:
        raise ConfigError(f"--overcommit {settings.overcommit:g} must be from 1 to 100")
    if settings.budget_mib is not None and (settings.reserve_mib or 0) >= settings.budget_mib:
        raise ConfigError(
            f"--reserve {settings.reserve_mib} MiB leaves nothing of --budget {settings.budget_mib} MiB"
        )
    if options.ticks is not None and options.ticks < 1:
        raise ConfigError(f"--ticks {options.ticks} must be at least 1")
    policy = make_policy(options.policy or DEFAULT_POLICY)
    show_tick = _print_tick_json if options.json else _print_tick
    if settings.dry_run:
        return asyncio.run(_fly(policy, settings, options.ticks, show_tick))
    with lock.PilotLock.acquire(policy.name, settings.only):
        return asyncio.run(_fly(policy, settings, options.ticks, show_tick))


async def _fly(policy: Any, settings: Any, ticks: int | None, show_tick: Any) -> int:
    from ballonet.pilot.loop import Pilot

    pilot = Pilot(policy, settings, on_tick=lambda tick: show_tick(tick, settings.dry_run))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, pilot.stop)
    await pilot.run(ticks)
    return 0


def _print_tick(tick: Any, dry_run: bool) -> None:
    at = time.strftime("%H:%M:%S", time.localtime(tick.at))
    views = {view.name: view for view in tick.sandboxes}
    for verdict in tick.verdicts:
        moved = tick.moved.get(verdict.sandbox)
        if moved is None and not dry_run and not verdict.trim_mib:
            continue
        old = views[verdict.sandbox].target_mib
        error = tick.errors.get(verdict.sandbox)
        if moved is None:
            done = f"stays at {old} MiB"
        else:
            done = f"{old} → {moved} MiB" if moved != old else f"asked again for {moved} MiB"
        said = f"not done: {error}" if error else verdict.reason
        # Many reasons begin with what is done.
        print(f"{at}  {verdict.sandbox}  {done}  {show(said.removeprefix(f'{done}: '))}", flush=True)
    if dry_run:
        for note in tick.notes:
            print(f"{at}  host  {note}", flush=True)


def _print_tick_json(tick: Any, dry_run: bool) -> None:
    print_json_line(
        {
            "at": tick.at,
            "paused": tick.paused,
            "dry_run": dry_run,
            "host": tick.host._asdict(),
            "sandboxes": [view._asdict() for view in tick.sandboxes],
            "verdicts": [{**verdict._asdict(), "inputs": dict(verdict.inputs)} for verdict in tick.verdicts],
            "moved": dict(tick.moved),
            "trimmed": dict(tick.trimmed),
            "errors": dict(tick.errors),
            "notes": list(tick.notes),
        }
    )


def _explain(options: argparse.Namespace) -> int:
    from ballonet.pilot.journal import read_decisions

    if options.last < 1:
        raise ConfigError(f"--last {options.last} must be at least 1")
    entries = read_decisions(lock.pilot_dir(), options.name, options.last)
    if not entries:
        from ballonet.lifecycle import sandboxes as lifecycle
        from ballonet.lifecycle.registry import Registry

        with Registry.open() as registry:
            known = [record.name for record in lifecycle.list_sandboxes(registry)]
        otherwise = "an autopilot writes them down while it runs: ballonet pilot"
        raise ConfigError(
            f"no decision about a sandbox named {options.name!r} is on record"[:200],
            hint=otherwise if options.name in known else hint_for(options.name, known, otherwise),
        )
    for entry in entries:
        if options.json:
            print_json_line(entry)
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"]))
        target = entry["target_mib"]
        done = (
            "left alone"
            if target is None
            else f"stays at {target} MiB"
            if target == entry["old_mib"]
            else f"{entry['old_mib']} → {target} MiB"
        )
        print(f"{at}  {done}  ({entry['policy']})")
        print(f"    {show(entry['reason'])}")
        for title, key in (("error", "error"), ("problem", "problem")):
            if entry.get(key):
                print(f"    {title}: {show(entry[key])}")
        facts = ", ".join(f"{name} {_number(value)}" for name, value in entry["inputs"].items())
        print(textwrap.fill(facts, 110, initial_indent="    inputs: ", subsequent_indent=" " * 12))
    return 0


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else show(value)


def _status(options: argparse.Namespace) -> int:
    owner, status, paused = lock.find_owner(), state.read_status(), state.paused_since()
    if options.json:
        return print_json(
            {
                "running": owner is not None,
                "pid": None if owner is None else owner.pid,
                "paused_since": paused,
                "last": status,
            }
        )
    if owner is None:
        print("no autopilot runs; nothing shrinks by itself, and pressure relief is each sandbox's own")
        if paused is not None:
            print("it is paused: 'ballonet pilot resume' before the next one is to do something")
        return 0
    facts: dict[str, object] = {
        "owner": f"{owner.user}, pid {owner.pid}",
        "policy": owner.policy,
        "looks after": ", ".join(owner.only) or "all sandboxes",
        "paused": "no" if paused is None else "yes",
    }
    if status is not None:
        host = HostView(**status["host"])
        views = [SandboxView(**view) for view in status["sandboxes"]]
        promisable = promisable_mib(host, views)
        facts |= {
            "last look": f"{max(0, round(time.time() - status['at']))} s ago",
            "memory": f"{host.total_mib} MiB, {show(host.available_mib)} available, {host.reserve_mib} kept back",
            "promised": f"{sum(view.target_mib for view in views)} of {show(promisable)} MiB",
            "notes": "; ".join(status["notes"]) or None,
        }
    print_facts(facts)
    if status is not None and status["sandboxes"]:
        print()
        print_table(
            ("NAME", "CEILING", "TARGET", "ACTUAL", "GUEST", "ENGINE", "AVAILABLE", "WEIGHT", "PROBLEM"),
            [
                (
                    view.name,
                    view.ceiling_mib,
                    view.target_mib,
                    view.actual_mib,
                    view.guest_ram_mib,
                    None
                    if view.resident_mib is None or view.guest_ram_mib is None
                    else view.resident_mib - view.guest_ram_mib,
                    view.guest_available_mib,
                    view.weight,
                    view.problem,
                )
                for view in views
            ],
        )
    return 0


def _pause(options: argparse.Namespace) -> int:
    state.pause()
    print("paused: targets stay as they are, pressure relief goes on; 'ballonet pilot resume' ends it")
    return 0


def _resume(options: argparse.Namespace) -> int:
    print("resumed" if state.resume() else "it was not paused")
    return 0


def _unit(options: argparse.Namespace) -> int:
    from ballonet.pilot.systemd_unit import UNIT_NAME, render_unit

    command = [sys.executable, "-P", "-m", "ballonet", "pilot"]
    for flag in ("policy", "budget", "reserve", "overcommit"):
        value = getattr(options, flag)
        if value is not None:
            command += [f"--{flag}", str(value)]
    for pattern in options.only or ():
        command += ["--only", pattern]
    print(f"# Save as ~/.config/systemd/user/{UNIT_NAME}, then: systemctl --user enable --now {UNIT_NAME}")
    print(render_unit(command, [(name, os.environ[name]) for name in _WHERE if os.environ.get(name)]), end="")
    return 0


def _list_policies() -> int:
    from ballonet.pilot.policies.catalog import ABOUT

    print_table(("POLICY", "RULE", "GOOD FOR"), [(name, *about) for name, about in ABOUT.items()])
    return 0


_ACTIONS = {
    None: _run,
    "explain": _explain,
    "status": _status,
    "pause": _pause,
    "resume": _resume,
    "unit": _unit,
}
