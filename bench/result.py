"""How a benchmark states its result: medians and their ratio, printed and written as JSON."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def state(name: str, arms: Mapping[str, Sequence[float]], *, unit: str, base: str, note: str = "") -> None:
    """Print each arm's median and its ratio to the arm ``base``, and write all values to results/NAME.json.

    :param arms: measured values by arm, taken alternately in this run.
    """
    middle = {arm: statistics.median(values) for arm, values in arms.items()}
    print(f"\n{name}{f' ({note})' if note else ''}")
    for arm, values in arms.items():
        low, high = min(values), max(values)
        print(
            f"  {arm:<34} {middle[arm]:9.3f} {unit}  (n={len(values)}, {low:.3f} … {high:.3f})"
            f"  {middle[arm] / middle[base]:6.3f} ×"
        )
    RESULTS.mkdir(exist_ok=True)
    document = {
        "name": name,
        "note": note,
        "unit": unit,
        "base": base,
        "medians": middle,
        "ratios": {arm: value / middle[base] for arm, value in middle.items()},
        "values": {arm: list(values) for arm, values in arms.items()},
        "host": {"kernel": platform.release(), "python": platform.python_version()},
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
