"""The frequency of the host's time stamp counter, which an emulated guest without other clocks needs.

A small compiled program measures it once per boot of the host (``guest/agent/tsc/tsckhz.c``): Python is too slow to
measure it precisely.
"""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from ballonet.base.errors import HostError, ProcessError
from ballonet.base.paths import replace_file

#: Plausible values in kHz: 100 MHz to 10 GHz. Any other value would stop the guest's clock.
PLAUSIBLE_KHZ = range(100_000, 10_000_000)

_PROGRAM = Path(__file__).parents[1] / "guest/agent/bin/tsckhz"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CPUINFO = Path("/proc/cpuinfo")
_CPU_MHZ = re.compile(r"^cpu MHz\s*:\s*(\d+(?:\.\d+)?)\s*$", re.MULTILINE)


def host_tsc_khz(
    cache: Path, *, program: Path = _PROGRAM, boot_id: Path = _BOOT_ID, cpuinfo: Path = _CPUINFO
) -> int:
    """The frequency of this host's time stamp counter, in kHz.

    Measured on the first call after a boot (about 30 ms), then read from ``cache``. If it cannot be measured, the value
    comes from ``/proc/cpuinfo``. That is not cached, because "cpu MHz" is the frequency of the counter only on
    processors with a constant frequency.

    :raises HostError: neither gives a plausible value.
    """
    boot = _read(boot_id).strip()
    remembered = cache / "tsc.json"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(_read(remembered))
        if boot and said["boot_id"] == boot and said["khz"] in PLAUSIBLE_KHZ:
            return int(said["khz"])
    try:
        khz = _measure(program)
    except ProcessError as error:
        return _from_cpuinfo(_read(cpuinfo), str(error))
    if boot:
        replace_file(remembered, json.dumps({"boot_id": boot, "khz": khz}).encode())
    return khz


def _measure(program: Path) -> int:
    from ballonet.base.process import run

    text = run([program], timeout_s=10).strip()
    if not text.isdecimal() or int(text) not in PLAUSIBLE_KHZ:
        raise ProcessError(f"{program.name} measured {text[:32]!r} kHz, which is not plausible")
    return int(text)


def _from_cpuinfo(text: str, why_not_measured: str) -> int:
    match = _CPU_MHZ.search(text)
    khz = round(float(match[1]) * 1000) if match else 0
    if khz not in PLAUSIBLE_KHZ:
        raise HostError(
            f"the frequency of the time stamp counter is unknown: {why_not_measured}; /proc/cpuinfo has {khz} kHz",
            hint="install musl-tools or gcc, then reinstall ballonet so that its programs are compiled",
        )
    return khz


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
