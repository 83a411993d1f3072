"""The settings that limit what a sandbox takes of the host's processors and disks, declared as those in
:mod:`ballonet.settings.definitions`."""

# Without 'from __future__ import annotations': the annotations are read when the module is loaded.
from typing import Annotated, TypedDict

from ballonet.base.memory import Size
from ballonet.base.quota import Quota
from ballonet.settings.setting import KIB_PER_S, LIVE, OPS_PER_S, PERCENT, Setting


class Limits(TypedDict, total=False):
    cpu_quota: Annotated[
        Quota | None,
        Setting(
            "processor time that the sandbox may use of the host: processors, for example 1.5, or percent of one, "
            "for example 150%",
            default_text="no limit",
            unit=PERCENT,
            field="cpu_quota_percent",
            metavar="CPUS",
            takes_effect=LIVE,
        ),
    ]
    io_rate: Annotated[
        Size | None,
        Setting(
            "the most that all its disks together read and write in a second, for example 50M",
            default_text="no limit",
            unit=KIB_PER_S,
            field="io_rate_kib",
            metavar="RATE",
            takes_effect=LIVE,
        ),
    ]
    io_ops: Annotated[
        int | None,
        Setting(
            "the most operations, reads and writes, of all its disks together in a second",
            default_text="no limit",
            unit=OPS_PER_S,
            metavar="N",
            takes_effect=LIVE,
        ),
    ]
