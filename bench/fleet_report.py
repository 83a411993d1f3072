"""The tables of :mod:`bench.fleet`: memory and work of each arm against static and reporting, and the goals. Pure but
for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.fleet_plan import CEILING_MIB, budget_mib
from bench.paired import Comparison, Round, compare

Summaries = Sequence[Mapping[str, Mapping[str, float]]]
OURS = "ballonet"


def mean(rounds: Summaries, arm: str, name: str) -> float:
    return sum(round_[arm][name] for round_ in rounds) / len(rounds)


def print_size(count: int, arms: Sequence[str], summaries: Summaries, jobs: Sequence[Round]) -> None:
    """Print the results of one size."""
    print(
        f"\nfleet: {count} VMs of {CEILING_MIB} MiB, budget {budget_mib(count)} MiB, {len(jobs)} rounds; memory: means "
        "of all rounds; work: all jobs in pairs, with the 95 % interval"
    )
    heads = ("GiB·min", "× static", "× report.", "peak MiB", "× report.", "work × static", "work × reporting")
    print(f"  {'arm':<10}" + "".join(f"{head:>24}" if "work" in head else f"{head:>10}" for head in heads))
    for arm in arms:
        held, peak = mean(summaries, arm, "footprint GiB·min"), mean(summaries, arm, "peak MiB")
        cells = [f"{held:.2f}"]
        for base in ("static", "reporting"):
            cells.append(f"{held / mean(summaries, base, 'footprint GiB·min'):.3f}" if base in arms else "-")
        cells.append(f"{peak:.0f}")
        cells.append(f"{peak / mean(summaries, 'reporting', 'peak MiB'):.3f}" if "reporting" in arms else "-")
        works = [shown(against(jobs, arms, arm, base)) for base in ("static", "reporting")]
        print(
            f"  {arm:<10}"
            + "".join(f"{cell:>10}" for cell in cells)
            + "".join(f"{cell:>24}" for cell in works)
        )
    for arm in arms:
        found = against(jobs, arms, arm, "static")
        if found is not None and arm != "static":
            kinds = ", ".join(f"{kind} {ratio:.3f}" for kind, ratio in found.kinds.items())
            print(f"  {arm}, medians of single jobs × static: {kinds}")
    for line in goals(summaries, jobs, arms):
        print(f"  {line}")


def against(jobs: Sequence[Round], arms: Sequence[str], arm: str, base: str) -> Comparison | None:
    return compare(jobs, arm, base) if base in arms else None


def shown(found: Comparison | None) -> str:
    if found is None:
        return "-"
    missing = f", {found.unpaired} unpaired" if found.unpaired else ""
    return f"{found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]{missing}"


def goals(summaries: Summaries, jobs: Sequence[Round], arms: Sequence[str]) -> list[str]:
    """Each goal of the default policy: met, missed, or not decided by this run."""
    if not {OURS, "static", "reporting"} <= set(arms):
        return []
    lines = []
    for base, limit in (("static", 1.03), ("reporting", 1.00)):
        found = compare(jobs, OURS, base)
        if found is not None:
            verdict = (
                "met" if found.high <= limit else "missed" if found.low > limit else "within the interval"
            )
            lines.append(f"goal: work ≤ {limit:.2f} × {base}: {verdict}, {shown(found)}")
    for name, base, limit in (
        ("footprint GiB·min", "reporting", 0.75),
        ("footprint GiB·min", "static", 0.45),
        ("peak MiB", "reporting", 0.75),
    ):
        ratio = mean(summaries, OURS, name) / mean(summaries, base, name)
        verdict = "met" if ratio <= limit else "missed"
        lines.append(f"goal: {name.split()[0]} ≤ {limit:.2f} × {base}: {verdict}, {ratio:.3f}")
    killed = sum(round_[OURS]["oom kills"] for round_ in summaries)
    lines.append(f"goal: no process killed: {'met' if killed == 0 else f'missed, {killed:.0f}'}")
    return lines
