"""What ``ballonet doctor --report`` prints: versions and findings, without names of people or their directories."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ballonet.version import __version__

#: A line that names the virtual machine or board, where the host has one (Documentation/ABI, sysfs-firmware-dmi).
_DMI = Path("/sys/class/dmi/id")
#: A path: its last part is what matters to a reader elsewhere.
_PATH = re.compile(r"(?<!\w)/(?:[\w.+@-]+/)+([\w.+@-]+)")


def report(findings: Iterable[Mapping[str, Any]], *, engine: str) -> dict[str, Any]:
    """The document: as rows of ``docs/tested.md`` are made of.

    :param findings: of doctor's checks; their details lose the directories of paths.
    :param engine: QEMU's version.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "ballonet": __version__,
            "system": _system(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "qemu": engine,
        },
        "processor": _processor(),
        "hardware": " ".join(filter(None, (_dmi("sys_vendor"), _dmi("product_name")))) or None,
        "findings": [
            {
                "check": finding["check"],
                "result": finding["result"],
                "detail": without_directories(finding["detail"]),
            }
            for finding in findings
            if finding["check"] != "directories"
        ],
    }


def without_directories(text: str) -> str:
    """``text`` with each absolute path shortened to its last part; devices stay as they are."""
    return _PATH.sub(lambda found: found[0] if found[0].startswith(("/dev/", "/sys/")) else found[1], text)


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _dmi(name: str) -> str | None:
    try:
        return (_DMI / name).read_text(errors="replace").strip()
    except OSError:
        return None
