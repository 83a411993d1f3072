"""``ballonet pilot``: runs the autopilot, and shows its status and decisions."""

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
from ballonet.cli.output import print_facts, print_json, print_json_line, print_table, show, terminal_width
from ballonet.pilot import lock, state
from ballonet.pilot.model import DEFAULT_OVERCOMMIT, HostView, SandboxView, promisable_mib
from ballonet.pilot.price import describe_price

#: How many sandboxes the first line names.
_SHOWN_NAMES = 5
#: Environment variables that determine which sandboxes are managed; a systemd unit gets those that are set here.
_WHERE = ("BALLONET_RUN_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_settings(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="show decisions and their reasons, change nothing"
    )
    parser.add_argument("--ticks", metavar="N", type=int, help="stop after N iterations (default: never)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    explain = action("explain", "show the last decisions about a sandbox, with their inputs")
    explain.add_argument("name", metavar="NAME", help="name of the sandbox")
    explain.add_argument(
        "-n", "--last", metavar="N", type=int, default=10, help="number of decisions (default: 10)"
    )
    explain.add_argument("--json", action="store_true", help="print JSON, one object per line")
    status = action("status", "show whether an autopilot runs, its settings and the memory of its sandboxes")
    status.add_argument("--json", action="store_true", help="print JSON")
    action("pause", "stop changing targets until 'resume'; pressure relief continues")
    action("resume", "continue after 'pause'")
    unit = action("unit", "print a systemd user unit that runs the autopilot")
    # SUPPRESS keeps the values that were given before the word 'unit'.
    _add_settings(unit, default=argparse.SUPPRESS)
    parser.epilog = (
        "Without ACTION, the autopilot runs in the foreground until interrupted. "
        "Each user can run only one autopilot at a time."
    )


def _add_settings(parser: argparse.ArgumentParser, **default: Any) -> None:
    parser.add_argument(
        "--policy",
        metavar="NAME",
        help="the memory policy (default: ballonet; '--policy list' shows all)",
        **default,
    )
    parser.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory that all sandboxes may use together (default: the host's memory)",
        **default,
    )
    parser.add_argument(
        "--reserve",
        metavar="SIZE",
        help="memory that is never given to sandboxes (default: 1/20 of the budget, at least 64M)",
        **default,
    )
    parser.add_argument(
        "--overcommit",
        metavar="TIMES",
        type=float,
        help="limit for the sum of all targets, as a multiple of the memory available to sandboxes; applies while "
        f"the host has enough available memory (default: {DEFAULT_OVERCOMMIT})",
        **default,
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="manage only sandboxes whose names match, such as 'ci-*' (may be repeated)",
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
            f"--reserve {settings.reserve_mib} MiB must be less than --budget {settings.budget_mib} MiB"
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

    started = False

    def on_tick(tick: Any) -> None:
        nonlocal started
        if not started and show_tick is _print_tick:
            print(_opening(policy.name, settings, tick), flush=True)
        started = True
        show_tick(tick, settings.dry_run)

    pilot = Pilot(policy, settings, on_tick=on_tick)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, pilot.stop)
    await pilot.run(ticks)
    return 0


def _opening(policy: str, settings: Any, tick: Any) -> str:
    """The first line: what it manages, and within which limits."""
    host, names = tick.host, [view.name for view in tick.sandboxes]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    managed = f"{len(names)} {'sandbox' if len(names) == 1 else 'sandboxes'}" + (
        f" ({shown})" if names else ""
    )
    only = f" whose names match {', '.join(settings.only)}" if settings.only else ""
    from ballonet.host.memory import read_host_memory

    if settings.budget_mib is not None:
        limit = "a budget"
    else:
        limit = "the whole host" if read_host_memory().limited_by is None else "the limit of its cgroup"
    return (
        f"policy {policy} manages {managed}{only}, with {limit} of {host.total_mib} MiB, {host.reserve_mib} of them "
        f"reserved, overcommit {host.overcommit:g}; {_available(host)}{'; dry run' if settings.dry_run else ''}"
    )


def _available(host: HostView) -> str:
    price = host.price
    if price is None:
        return "the host does not report its available memory"
    return f"{host.available_mib} MiB available, {describe_price(price)}"


def _print_tick(tick: Any, dry_run: bool) -> None:
    at = time.strftime("%H:%M:%S", time.localtime(tick.at))
    views = {view.name: view for view in tick.sandboxes}
    for verdict in tick.verdicts:
        moved = tick.moved.get(verdict.sandbox)
        if moved is None and not dry_run and not verdict.trim_mib and not verdict.pause:
            continue
        old = views[verdict.sandbox].target_mib
        error = tick.errors.get(verdict.sandbox)
        if verdict.pause:
            done = "is paused"
        elif moved is None:
            done = f"stays at {old} MiB"
        else:
            done = f"{old} → {moved} MiB" if moved != old else f"requested {moved} MiB again"
        reason = f"failed: {error}" if error else verdict.reason
        # Many reasons repeat the change at their beginning.
        print(f"{at}  {verdict.sandbox}  {done}  {show(reason.removeprefix(f'{done}: '))}", flush=True)
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
            "price": tick.host.price,
            "sandboxes": [view._asdict() for view in tick.sandboxes],
            "verdicts": [{**verdict._asdict(), "inputs": dict(verdict.inputs)} for verdict in tick.verdicts],
            "moved": dict(tick.moved),
            "trimmed": dict(tick.trimmed),
            "pausing": list(tick.pausing),
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
        otherwise = "decisions are recorded while an autopilot runs: ballonet pilot"
        raise ConfigError(
            f"no decisions are recorded for a sandbox named {options.name!r}"[:200],
            hint=otherwise if options.name in known else hint_for(options.name, known, otherwise),
        )
    for entry in entries:
        if options.json:
            print_json_line(entry)
            continue
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"]))
        target = entry["target_mib"]
        done = (
            "is paused"
            if entry.get("pause")
            else "unchanged"
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
        width = min(110, terminal_width() or 110)
        print(textwrap.fill(facts, width, initial_indent="    inputs: ", subsequent_indent=" " * 12))
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
        print(
            "no autopilot is running: targets change only by command, and by each sandbox's pressure relief"
        )
        if paused is not None:
            print("the autopilot is paused: run 'ballonet pilot resume' before you start it")
        return 0
    facts: dict[str, object] = {
        "owner": f"{owner.user}, pid {owner.pid}",
        "policy": owner.policy,
        "manages": ", ".join(owner.only) or "all sandboxes",
        "paused": "no" if paused is None else "yes",
    }
    if status is not None:
        host = HostView(**status["host"])
        views = [SandboxView(**view) for view in status["sandboxes"]]
        promisable = promisable_mib(host, views)
        facts |= {
            "last update": f"{max(0, round(time.time() - status['at']))} s ago",
            "memory": f"{show(host.available_mib)} of {host.total_mib} MiB available, {host.reserve_mib} MiB reserved",
            "price": None if host.price is None else describe_price(host.price).removeprefix("price "),
            "targets": f"{sum(view.target_mib for view in views)} of at most {show(promisable)} MiB",
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
    print("paused: targets stay unchanged, pressure relief continues. To continue: ballonet pilot resume")
    return 0


def _resume(options: argparse.Namespace) -> int:
    print("resumed" if state.resume() else "the autopilot was not paused")
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
