"""``ballonet cluster simulate``: compares ways of placing sandboxes on many simulated hosts."""

from __future__ import annotations

import argparse

from ballonet.base.errors import ConfigError
from ballonet.base.memory import parse_size
from ballonet.base.missing_modules import require_module
from ballonet.cli.output import print_json, print_table

HEADINGS = (
    "PLACEMENT", "PER HOST", "OF CEILING", "OF ORACLE", "USED", "PRICE", "SLOWER", "OF STATIC", "HOST OOM", "REFUSED",
    "BROKE",
)  # fmt: skip

_EPILOG = """\
columns:
  PER HOST    sandboxes that ran on a host, on average
  OF CEILING  that number, relative to placement by ceiling
  OF ORACLE   that number, relative to the oracle, which knows the future
  USED        share of the hosts' memory that sandboxes held
  PRICE       price of memory, on average over hosts and time
  SLOWER      working time lost, compared with hosts with enough memory
  OF STATIC   working time lost, compared with guests that give nothing back
  HOST OOM    how often a host ran out of memory
  REFUSED     starts that a host itself refused
  BROKE       host-seconds in which more was guaranteed than the host has"""


def add_arguments(simulate: argparse.ArgumentParser) -> None:
    simulate.formatter_class = argparse.RawDescriptionHelpFormatter
    simulate.epilog = _EPILOG
    add = simulate.add_argument
    add("--hosts", metavar="N", type=int, default=100, help="number of hosts (default: 100)")
    add(
        "--memory",
        metavar="SIZE",
        action="append",
        help="memory of a host (default: 64G); if repeated, hosts have these sizes in turn",
    )
    add(
        "--sandboxes",
        metavar="N",
        type=int,
        help="sandboxes that are wanted at the same time (default: 100 for each host)",
    )
    add(
        "--most",
        metavar="PERCENT",
        type=float,
        help="find how many of them can run with a slowdown of at most PERCENT and no host out of memory",
    )
    add(
        "--floor",
        metavar="SIZE",
        help="memory guaranteed to each sandbox (default: a quarter of its ceiling, as for 'run')",
    )
    add(
        "--together",
        metavar="PERCENT",
        type=float,
        default=0.0,
        help="share of the sandboxes that do the same at the same moment (default: 0)",
    )
    add(
        "--placement",
        metavar="NAME",
        action="append",
        help="placement to run: ballonet, 'round robin' or 'best fit' (default: all; may be repeated)",
    )
    add("--seed", metavar="N", type=int, default=1, help="random seed (default: 1)")
    add("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    wanted = 100 * options.hosts if options.sandboxes is None else options.sandboxes
    for what, value, low, high in (
        ("--hosts", options.hosts, 1, 10_000),
        ("--sandboxes", wanted, 1, 1_000_000),
        ("--most", 1.0 if options.most is None else options.most, 0.01, 100),
        ("--together", options.together, 0, 100),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{what} {value:g} must be from {low:g} to {high:,g}".replace(",", ""))
    sizes = [parse_size(size, "--memory") for size in options.memory or ["64G"]]
    if min(sizes) < 1024:
        raise ConfigError(f"--memory {min(sizes)} MiB is below 1024 MiB")
    floor = None if options.floor is None else parse_size(options.floor, "--floor")
    require_module("numpy", "many hosts cannot be simulated")
    from ballonet.cluster.bounds import DEFAULT_BOUNDS
    from ballonet.cluster.simulator.compare import check_placements, compare
    from ballonet.cluster.simulator.curves import CEILING_MIB, agents, compute
    from ballonet.cluster.simulator.simulation import PLACERS, Plan
    from ballonet.cluster.simulator.world import make_hosts

    names = options.placement or list(PLACERS)
    check_placements(names)
    if floor is not None and not 0 < floor <= CEILING_MIB:
        raise ConfigError(f"--floor {floor} MiB must be from 1 to the ceiling, {CEILING_MIB} MiB")
    hosts = make_hosts(options.hosts, sizes)
    curves = compute(agents(options.seed, floor_mib=floor), DEFAULT_BOUNDS.overcommit)
    plan = Plan(hosts, curves, wanted, options.seed, DEFAULT_BOUNDS, together=options.together / 100)
    arms = compare(plan, names, None if options.most is None else options.most / 100)
    if options.json:
        return print_json({"seed": options.seed, "arms": [arm.as_dict() for arm in arms]})
    memory = int(hosts.memory.sum())
    print(
        f"{hosts.count} hosts with {memory} MiB, {wanted} agents wanted with ceilings of {CEILING_MIB} MiB and "
        f"{int(curves.least[0])} MiB guaranteed, {plan.duration_s} s, seed {options.seed}"
    )
    rows = []
    for arm in arms:
        out = arm.outcome
        rows.append(
            [
                out.placement,
                f"{out.per_host:.1f}",
                f"{arm.of_ceiling:.2f}",
                f"{arm.of_oracle:.2f}",
                f"{out.used_share:.0%}",
                f"{out.price:.2f}",
                f"{out.slowdown:.2%}",
                f"{out.slowdown_of_static:.2%}",
                out.host_oom,
                out.refused,
                f"{out.broken} s",
            ]
        )
    print_table(HEADINGS, rows)
    return 0
