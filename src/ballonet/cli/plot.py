"""Drawing memory over time. matplotlib is heavy and optional: imported only when something is drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.errors import ConfigError, HostError

if TYPE_CHECKING:
    from ballonet.cli.demo import Sample

_SUFFIXES = (".png", ".svg", ".pdf")


def check_can_plot(path: Path) -> None:
    """Before anything starts: can ``path`` be drawn?

    :raises ConfigError: its suffix is not a format that can be drawn, or its directory does not exist.
    :raises HostError: matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"--plot {path}: the suffix must be one of {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: the directory {path.parent} does not exist")
    if importlib.util.find_spec("matplotlib") is None:
        raise HostError(
            "--plot needs matplotlib, which is not installed", hint="pip install 'ballonet[plot]'"
        )


def plot_samples(samples: Sequence[Sample], path: Path) -> None:
    """Draw ceiling, target, actual, guest-used and resident over time; told apart without colour too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = [sample.at_s for sample in samples]

    def line(field: str, label: str, **style: Any) -> None:
        values = [getattr(sample, field) for sample in samples]
        axes.plot(times, [float("nan") if v is None else v for v in values], label=label, **style)

    line("ceiling", "ceiling", color="0.45", linestyle=(0, (1, 2)), linewidth=1.4)
    line("target", "target", color="#0b6e4f", linestyle="--", drawstyle="steps-post", linewidth=1.6)
    line("actual", "actual (what the guest has)", color="#1f4e9c", linewidth=2.2)
    line("guest_used", "used in the guest", color="#d98e04", linestyle="-.", linewidth=1.4)
    resident = [float("nan") if s.resident is None else s.resident for s in samples]
    axes.fill_between(times, resident, color="#b5443a", alpha=0.22, linewidth=0)
    line("resident", "guest RAM on the host", color="#b5443a", linewidth=1.4)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB")
    axes.set_ylim(bottom=0, top=max(sample.ceiling for sample in samples) * 1.08)
    axes.set_xlim(0, times[-1])
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_title("Memory of one sandbox")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    figure.savefig(path)
