"""``ballonet doctor --boot``: a guest boots with each accelerator of this host."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable

from ballonet.base.paths import cache_dir
from ballonet.vmm.accel import usable_accels
from ballonet.vmm.default_engine import DefaultEngine

Call = Callable[..., subprocess.CompletedProcess[str]]


def test_a_guest_boots_with_each_accelerator_and_the_time_is_told(ballonet: Call) -> None:
    accels = usable_accels(DefaultEngine.find(cache_dir()).accelerators)
    done = ballonet("doctor", "--boot", "--json")
    found = [finding for finding in json.loads(done.stdout) if finding["check"].startswith("boot")]
    assert [finding["check"] for finding in found] == ["boot", *(f"boot with {a}" for a in accels[1:])]
    for finding, accel in zip(found, accels, strict=True):
        assert re.fullmatch(
            rf"{accel}: booted \S+ in \d+\.\d s; shrink to 160 MiB: applied", finding["detail"]
        )
        assert finding["result"] == "ok"
