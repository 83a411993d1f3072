"""How quick the simulator is: sandbox-ticks a second with every decision checked, by policy and size of fleet."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from ballonet.pilot.model import Policy
from ballonet.pilot.policies.catalog import make_policy
from ballonet.pilot.simulator.scenarios import SCENARIOS
from ballonet.pilot.simulator.simulation import Scenario, simulate
from bench.result import state


def thousands_a_second(scenario: Scenario, policy: Policy) -> float:
    """A sandbox-tick is a step of one guest by 0.1 s; the policy is asked once a simulated second, or as it wants."""
    started = time.perf_counter()
    outcome = simulate(scenario, policy, reporting=policy.name != "static")
    return outcome.sandbox_ticks / (time.perf_counter() - started) / 1000


def fleet(copies: int) -> Scenario:
    """The mixed scenario so many times over on one host."""
    mixed = SCENARIOS["mixed"](1)
    guests = [
        replace(guest, name=f"{guest.name}-{n}")
        for n in range(copies)
        for guest in SCENARIOS["mixed"](1 + n).guests
    ]
    return replace(
        mixed,
        guests=guests,
        host_mib=copies * mixed.host_mib,
        reserve_mib=copies * mixed.reserve_mib,
        duration_s=mixed.duration_s / copies,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    arms: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in ("ballonet", "reporting", "vm0"):
            for scenario in ("mixed", "ci"):
                value = thousands_a_second(SCENARIOS[scenario](1), make_policy(name))
                arms.setdefault(f"{name}, {scenario}", []).append(value)
        for copies in (4, 25):
            value = thousands_a_second(fleet(copies), make_policy("ballonet"))
            arms.setdefault(f"ballonet, mixed, {8 * copies} sandboxes", []).append(value)
    note = "thousands of sandbox-ticks a second; one is 0.1 s of one guest"
    state("simulate", arms, unit="k/s", base="ballonet, mixed", note=note)


if __name__ == "__main__":
    main()
