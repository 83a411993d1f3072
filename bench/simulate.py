"""Speed of the simulator: sandbox-ticks per second with all decisions checked, by policy and size of the fleet."""

from __future__ import annotations

from dataclasses import replace

from ballonet.pilot.model import Policy
from ballonet.pilot.policies.catalog import make_policy
from ballonet.pilot.simulator.scenarios import SCENARIOS
from ballonet.pilot.simulator.simulation import Scenario, simulate
from bench.common import Arms, options_parser, report, timed


def thousands_per_second(scenario: Scenario, policy: Policy) -> float:
    """A sandbox-tick is a step of one guest by 0.1 s. The policy decides once per period of simulated time."""
    took_s: list[float] = []
    with timed(took_s):
        outcome = simulate(scenario, policy, reporting=policy.name != "static")
    return outcome.sandbox_ticks / took_s[0] / 1000


def fleet(copies: int) -> Scenario:
    """Several copies of the mixed scenario on one host."""
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
    rounds = options_parser(__doc__, rounds=5).parse_args().rounds
    arms: Arms = {}
    for _ in range(rounds):
        for name in ("ballonet", "reporting", "vm0"):
            for scenario in ("mixed", "ci"):
                value = thousands_per_second(SCENARIOS[scenario](1), make_policy(name))
                arms.setdefault(f"{name}, {scenario}", []).append(value)
        for copies in (4, 25):
            value = thousands_per_second(fleet(copies), make_policy("ballonet"))
            arms.setdefault(f"ballonet, mixed, {8 * copies} sandboxes", []).append(value)
    note = "thousands of sandbox-ticks per second; one is 0.1 s of one guest"
    report("simulate", arms, unit="k/s", base="ballonet, mixed", note=note)


if __name__ == "__main__":
    main()
