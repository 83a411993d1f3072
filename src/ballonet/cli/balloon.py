"""``ballonet balloon``: show and change the memory of a running sandbox, by its name or control socket."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ballonet.base.dataclass import asdict
from ballonet.base.errors import ConfigError
from ballonet.base.memory import parse_size
from ballonet.base.paths import sandbox_dir_path
from ballonet.cli.balloon_stats import describe_stats
from ballonet.cli.output import print_facts, print_json, print_json_line, show_seconds
from ballonet.control.backend import BalloonSnapshot, TrimRequest
from ballonet.control.protocol import SetReply
from ballonet.control.sync_client import SyncClient
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import CONTROL_SOCKET

#: The target was set but not reached (``set --wait``).
EXIT_NOT_APPLIED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.add_argument(
            "sandbox", metavar="NAME|SOCKET", help="name of a sandbox, or path of a control socket"
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    action("get", "show the target, the memory that the guest has, and the memory that it uses on the host")
    set_ = action("set", "set the target: the amount of memory that the guest should have")
    set_.add_argument("target", metavar="SIZE", help="guest-visible memory, such as 512, 512M or 1.5G")
    set_.add_argument(
        "--wait", action="store_true", help="wait until the target is reached or cannot be reached"
    )
    set_.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=30.0, help="limit for --wait (default: 30)"
    )
    set_.add_argument(
        "--strict", action="store_true", help="fail if the target is out of range, instead of clamping it"
    )
    set_.add_argument(
        "--force", action="store_true", help="shrink even if the guest then runs short of memory"
    )
    action("watch", "print a line for every change, until interrupted")
    action("stats", "show memory statistics of the guest and of the host")
    limit = action("limit", "set an upper limit for targets and for pressure relief")
    limit.add_argument("limit", metavar="LIMIT", help="a size, or 'none' for no limit other than the ceiling")
    trim = action("trim", "reclaim memory that the guest does not need")
    trim.add_argument(
        "--caches",
        metavar="PERCENT",
        type=int,
        default=100,
        help="share of the clean page cache to drop (default: 100)",
    )
    trim.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=30.0, help="time limit (default: 30)"
    )
    parser.epilog = (
        f"Exit status: 0 on success, 2 for usage errors, {EXIT_NOT_APPLIED} if 'set --wait' did not reach its "
        "target, 125 for other failures."
    )


def run(options: argparse.Namespace) -> int:
    path = find_control_socket(options.sandbox)
    if options.action == "watch":
        import asyncio  # the other actions do not need it

        try:
            return asyncio.run(_watch(path, options.json))
        except KeyboardInterrupt:
            return 0
    with SyncClient(path) as client:
        return _ACTIONS[options.action](client, options)


def find_control_socket(sandbox: str) -> Path:
    """The control socket of ``sandbox``, which is the path of a control socket or a sandbox's name.

    :raises ConfigError: there is no such sandbox, or it has no balloon.
    """
    if "/" in sandbox or sandbox.endswith(".sock"):
        return Path(sandbox)
    with Registry.open() as registry:
        by_hand = sandbox_dir_path(sandbox) / CONTROL_SOCKET
        if registry.find(sandbox) is None and by_hand.is_socket():
            return by_hand  # started with the hidden command 'ballonet sandbox', so not in the registry
        _, note = lifecycle.find_running(registry, sandbox)
    if note.control_socket is None:
        raise ConfigError(
            f"sandbox {sandbox!r} was started without a balloon (--no-balloon)",
            hint="create a new sandbox without --no-balloon",
        )
    return Path(note.control_socket)


def _get(client: SyncClient, options: argparse.Namespace) -> int:
    balloon = client.get()
    if options.json:
        return print_json(asdict(balloon))
    age = show_seconds(max(0.0, time.time() - balloon.since))
    print_facts(
        {
            "ceiling": _mib(balloon.ceiling_mib),
            "limit": _mib(balloon.limit_mib) if balloon.limit_mib is not None else "none",
            "initial": _mib(balloon.initial_mib),
            "floor": _mib(balloon.floor_mib),
            "requested": _mib(balloon.requested_mib),
            "target": _mib(balloon.target_mib),
            "actual": _mib(balloon.actual_mib),
            "state": f"{balloon.state}, for {age}" + (f": {balloon.detail}" if balloon.detail else ""),
            "driver": balloon.driver,
            "on the host": _on_host(balloon),
        }
    )
    return 0


def _set(client: SyncClient, options: argparse.Namespace) -> int:
    target_mib = parse_size(options.target, "SIZE")
    reply = client.set(
        target_mib, strict=options.strict, wait=options.wait, timeout_s=options.timeout, force=options.force
    )
    if options.json:
        print_json(asdict(reply))
    else:
        reason = f": {reply.detail}" if reply.detail else ""
        # If superseded, the state is that of the later target.
        state = "replaced by a later target" if reply.outcome == "superseded" else f"{reply.state}{reason}"
        print(f"target {_mib(reply.target_mib)}{_clamped(reply)}, actual {_mib(reply.actual_mib)}, {state}")
    reached = reply.state == "applied" and reply.outcome != "superseded"
    return EXIT_NOT_APPLIED if options.wait and not reached else 0


def _clamped(reply: SetReply) -> str:
    """Why the target differs from the requested one; empty if it does not."""
    if reply.clamped is None:
        return ""
    moved = "raised" if reply.target_mib > reply.requested_mib else "lowered"
    return f" (requested {_mib(reply.requested_mib)}, {moved} to the {reply.clamped})"


def _stats(client: SyncClient, options: argparse.Namespace) -> int:
    stats = client.stats()
    if options.json:
        return print_json(asdict(stats))
    for title, facts in describe_stats(stats).items():
        print(f"{title}:")
        print_facts({f"  {name}": value for name, value in facts.items()})
    return 0


def _limit(client: SyncClient, options: argparse.Namespace) -> int:
    limit = None if options.limit == "none" else parse_size(options.limit, "LIMIT")
    balloon = client.limit(limit)
    if options.json:
        return print_json(asdict(balloon))
    print(
        f"limit {_mib(limit) if limit is not None else 'none'}, target {_mib(balloon.target_mib)}, {balloon.state}"
    )
    return 0


def _trim(client: SyncClient, options: argparse.Namespace) -> int:
    result = client.trim(TrimRequest(caches_percent=options.caches, timeout_s=options.timeout))
    if options.json:
        return print_json(asdict(result))
    reason = f" ({result.detail})" if result.detail else ""
    print(
        f"returned {_mib(result.returned_mib)} to the host: resident memory {_mib(result.resident_before_mib)}"
        f" → {_mib(result.resident_after_mib)}{reason}"
    )
    return 0


_ACTIONS = {"get": _get, "set": _set, "stats": _stats, "limit": _limit, "trim": _trim}


async def _watch(path: Path, as_json: bool) -> int:
    from ballonet.control.client import Client

    async with await Client.connect(path) as client:
        async for balloon in client.watch():
            if as_json:
                print_json_line(asdict(balloon))
            else:
                print(_watch_line(balloon), flush=True)
    return 0


def _watch_line(balloon: BalloonSnapshot) -> str:
    at = time.strftime("%H:%M:%S")
    reason = f"  {balloon.detail}" if balloon.detail else ""
    return (
        f"{at}  target {_mib(balloon.target_mib)}  actual {_mib(balloon.actual_mib)}  "
        f"guest RAM on the host {_mib(balloon.guest_ram_mib)}  engine {_mib(balloon.engine_mib)}  "
        f"{balloon.state}{reason}"
    )


def _on_host(balloon: BalloonSnapshot) -> str:
    return f"guest RAM {_mib(balloon.guest_ram_mib)}, engine {_mib(balloon.engine_mib)}"


def _mib(value: int | None) -> str:
    return "unknown" if value is None else f"{value} MiB"
