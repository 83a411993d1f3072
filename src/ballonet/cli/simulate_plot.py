"""Plots a simulation: the memory used under each policy over time, and its cost. Imports matplotlib when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ballonet.pilot.simulator.compare import Arm
from ballonet.pilot.simulator.simulation import Scenario

#: The most important policies, distinguishable without colour, too; the others are thin and grey.
_STYLES: dict[str, dict[str, Any]] = {
    "static": {"color": "0.2", "linestyle": (0, (1, 1.5)), "linewidth": 1.6},
    "reporting": {"color": "#d98e04", "linestyle": "--", "linewidth": 1.6},
    "ballonet": {"color": "#1f4e9c", "linestyle": "-", "linewidth": 2.4},
    "oracle": {"color": "#0b6e4f", "linestyle": "-.", "linewidth": 1.4},
}
_DASHES = ((0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 2, 1, 2)), (0, (7, 3)), (0, (2, 2)))
_MARKERS = "osD^vP*X<>hp"


def plot_arms(scenario: Scenario, arms: Sequence[Arm], path: Path) -> None:
    """Plot ``arms``, which must have samples, to ``path``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    over_time, cost = figure.subplots(1, 2, width_ratios=(1.7, 1))
    used = arms[0].outcome.samples
    over_time.fill_between(
        [s.at_s / 60 for s in used], [s.used / 1024 for s in used], color="0.88", label="used (static)"
    )
    others = 0
    for at, arm in enumerate(arms):
        out = arm.outcome
        style = _STYLES.get(out.policy)
        if style is None:
            style = {"color": "0.55", "linestyle": _DASHES[others % len(_DASHES)], "linewidth": 0.9}
            others += 1
        over_time.plot(
            [s.at_s / 60 for s in out.samples],
            [s.resident / 1024 for s in out.samples],
            label=out.policy,
            **style,
        )
        point = (arm.footprint_of_static, 100 * arm.slowdown)
        cost.plot(*point, _MARKERS[at % len(_MARKERS)], color=style["color"], markersize=8, label=out.policy)
    over_time.axhline(scenario.host_mib / 1024, color="#b5443a", linewidth=1)
    over_time.annotate(
        "the host's memory", (0, scenario.host_mib / 1024), xytext=(4, 3), textcoords="offset points",
        color="#b5443a", fontsize="small",
    )  # fmt: skip
    over_time.set_xlabel("minutes")
    over_time.set_ylabel("host memory used by guests, GiB")
    over_time.set_ylim(bottom=0)
    over_time.set_xlim(0, scenario.duration_s / 60)
    over_time.set_title(f"{scenario.name}: {scenario.about}", fontsize="medium")
    cost.set_xlabel("footprint, relative to static")
    cost.set_ylabel("slower than static, %")
    cost.set_xlim(0, 1.05)
    cost.set_title("Savings and cost (best: lower left)", fontsize="medium")
    for axes in (over_time, cost):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    over_time.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=6, frameon=False, fontsize="small")
    cost.legend(fontsize="small", ncols=2, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12))
    figure.savefig(path)
