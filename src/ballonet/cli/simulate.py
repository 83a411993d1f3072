"""``ballonet simulate``: compares memory policies on simulated guests, with each other and with an oracle."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError, os_hint
from ballonet.base.memory import parse_size
from ballonet.base.suggest import hint_for
from ballonet.pilot.model import DEFAULT_OVERCOMMIT

if TYPE_CHECKING:
    from ballonet.pilot.simulator.compare import Arm
    from ballonet.pilot.simulator.simulation import Scenario
    from ballonet.pilot.simulator.spec import GuestSpec

HEADINGS = (
    "POLICY", "GIB·MIN", "OF STATIC", "OF ORACLE", "PEAK MIB", "OF STATIC", "SLOWER", "BELOW", "KILLS", "DEFLATED",
    "HOST OOM", "MOVES", "BROKE",
)  # fmt: skip


_EPILOG = """\
columns:
  GIB·MIN    host memory used, in GiB times minutes
  PEAK MIB   largest amount of host memory used
  OF STATIC  the figure before it, relative to the policy 'static'
  OF ORACLE  GIB·MIN, relative to the policy 'oracle', which knows the future
  SLOWER     working time lost, compared with 'static'
  BELOW      guest-seconds with less memory than the work needed
  KILLS      processes killed in guests for lack of memory
  DEFLATED   MiB that balloons released to prevent such kills
  HOST OOM   how often the host ran out of memory
  MOVES      changes of targets
  BROKE      violations of the autopilot's safety rules"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--scenario", metavar="NAME", default="mixed", help="scenario to run (default: mixed)")
    what.add_argument(
        "--trace", metavar="FILE.csv", type=Path, help="replay this trace (see docs/simulator.md)"
    )
    what.add_argument("--history", metavar="NAME", nargs="+", help="replay the histories of these sandboxes")
    what.add_argument("--list", action="store_true", help="list scenarios and policies")
    parser.add_argument(
        "--policy",
        metavar="NAME",
        action="append",
        help="policy to run, or 'all' (default: all; may be repeated)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=1, help="random seed of the scenario (default: 1)"
    )
    parser.add_argument(
        "--hosts",
        metavar="N",
        type=int,
        default=1,
        help="number of hosts to simulate, with consecutive seeds; means are shown (default: 1)",
    )
    parser.add_argument(
        "--overcommit",
        metavar="TIMES",
        type=float,
        default=DEFAULT_OVERCOMMIT,
        help="limit for the sum of all targets, as a multiple of the memory available to sandboxes; applies while "
        f"the host has enough available memory (default: {DEFAULT_OVERCOMMIT})",
    )
    parser.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory of the host (default: set by the scenario; for traces, 0.6 of the sum of all ceilings)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="plot the first host's memory to FILE (png, svg or pdf)"
    )
    # argparse cannot wrap the group of exclusive options.
    parser.usage = (
        "%(prog)s [-h] [--scenario NAME | --trace FILE.csv |\n"
        "                          --history NAME [NAME ...] | --list] [options]"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    from ballonet.cli.output import print_json, print_table
    from ballonet.pilot.policies.catalog import ABOUT, POLICIES
    from ballonet.pilot.simulator.compare import compare
    from ballonet.pilot.simulator.scenarios import SCENARIOS

    if options.list:
        rows = [[name, "scenario", make(1).about] for name, make in SCENARIOS.items()]
        rows += [[name, "policy", ABOUT[name].rule] for name in POLICIES]
        print_table(["NAME", "KIND", "ABOUT"], rows)
        return 0
    policies = _policies(options.policy, list(POLICIES))
    if not 1 <= options.hosts <= 1000:
        raise ConfigError(f"--hosts {options.hosts} is outside 1 to 1000")
    if options.plot is not None:
        from ballonet.metrics.plotting import check_can_draw

        check_can_draw(options.plot, "--plot")
    scenarios = _scenarios(options)
    runs = [
        compare(scenario, policies, sample_s=scenario.duration_s / 800 if options.plot and not at else None)
        for at, scenario in enumerate(scenarios)
    ]
    if options.plot is not None:
        from ballonet.cli.simulate_plot import plot_arms

        plot_arms(scenarios[0], runs[0], options.plot)
    seeds = list(range(options.seed, options.seed + len(scenarios)))
    if options.json:
        return print_json(
            [
                {"seed": seed, "host_mib": scenario.host_mib, "arms": [arm.as_dict() for arm in arms]}
                for seed, scenario, arms in zip(seeds, scenarios, runs, strict=True)
            ]
        )
    scenario = scenarios[0]
    seed = (
        f"seed {seeds[0]}"
        if len(seeds) == 1
        else f"means of {len(seeds)} hosts, seeds {seeds[0]} to {seeds[-1]}"
    )
    print(
        f"{scenario.name}, {seed}: {scenario.about}; {len(scenario.guests)} sandboxes, "
        f"{sum(guest.ceiling_mib for guest in scenario.guests)} MiB of ceilings on {scenario.host_mib} MiB, "
        f"{scenario.duration_s:.0f} s"
    )
    print_table(HEADINGS, [_row(same) for same in zip(*runs, strict=True)])
    return 0


def _row(arms: Sequence[Arm]) -> list[object]:
    """One policy on all hosts: means, but sums for events that should never happen."""
    outs = [arm.outcome for arm in arms]

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(arms)

    return [
        outs[0].policy,
        f"{mean(out.footprint_gib_min for out in outs):.1f}",
        f"{mean(arm.footprint_of_static for arm in arms):.2f}",
        f"{mean(arm.footprint_of_oracle for arm in arms):.2f}",
        f"{mean(out.peak_mib for out in outs):.0f}",
        f"{mean(arm.peak_of_static for arm in arms):.2f}",
        f"{mean(arm.slowdown for arm in arms):.2%}",
        f"{mean(out.below_s for out in outs):.1f} s",
        sum(out.guest_oom_kills for out in outs),
        f"{mean(out.oom_deflated_mib for out in outs):.0f}",
        sum(out.host_oom for out in outs),
        f"{mean(out.targets_moved for out in outs):.0f}",
        sum(len(out.violations) for out in outs),
    ]


def _policies(requested: list[str] | None, known: list[str]) -> list[str]:
    if requested is None or "all" in requested:
        return known
    from ballonet.pilot.policies.catalog import unknown_policy

    for name in requested:
        if name not in known and name != "oracle":
            raise unknown_policy(name, ["all", "oracle", *known])
    return requested


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    from ballonet.pilot.simulator.scenarios import SCENARIOS, of_guests

    budget = None if options.budget is None else parse_size(options.budget, "--budget")
    if options.trace is not None or options.history is not None:
        if options.hosts != 1:
            raise ConfigError("--hosts requires --scenario: a trace describes one host")
        guests = _read(options.trace) if options.trace is not None else _histories(options.history)
        name = str(options.trace) if options.trace is not None else "history"
        scenarios = [of_guests(name, "recorded work", guests)]
    else:
        make = SCENARIOS.get(options.scenario)
        if make is None:
            otherwise = f"choose one of {', '.join(SCENARIOS)}"
            raise ConfigError(
                f"unknown scenario {options.scenario!r}",
                hint=hint_for(options.scenario, SCENARIOS, otherwise),
            )
        scenarios = [make(options.seed + at) for at in range(options.hosts)]
    if not 1 <= options.overcommit <= 100:
        raise ConfigError(f"--overcommit {options.overcommit:g} must be from 1 to 100")
    scenarios = [dataclasses.replace(scenario, overcommit=options.overcommit) for scenario in scenarios]
    if budget is not None:
        if budget < 64:
            raise ConfigError(f"--budget {budget} MiB is below 64 MiB")
        scenarios = [
            dataclasses.replace(scenario, host_mib=budget, reserve_mib=budget // 20) for scenario in scenarios
        ]
    return scenarios


def _read(path: Path) -> list[GuestSpec]:
    from ballonet.pilot.simulator.recorded import read_trace

    try:
        with path.open(encoding="utf-8", newline="") as file:
            return read_trace(file, str(path))
    except OSError as error:
        raise ConfigError(f"--trace {path}: {error.strerror}", hint=os_hint(error, path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--trace {path}: the file is not UTF-8 text") from error


def _histories(names: list[str]) -> list[GuestSpec]:
    from ballonet.lifecycle.samples import history_path
    from ballonet.metrics.history import read_history
    from ballonet.pilot.simulator.recorded import from_histories

    return from_histories({name: read_history(history_path(name)) for name in dict.fromkeys(names)})
