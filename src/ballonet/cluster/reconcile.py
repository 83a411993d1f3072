"""What follows from a host's report for what the directory has written down. Pure.

The host is the truth about what exists there; the directory is the truth about where a name belongs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import NamedTuple

from ballonet.cluster.host_report import HostReport
from ballonet.cluster.ledger import Order, Placed


class Findings(NamedTuple):
    #: Sandboxes that the directory did not know.
    adopt: list[Order]
    #: Sandboxes that were lost, or being created, and are there.
    found: list[Placed]
    #: Sandboxes that somebody removed there.
    gone: list[str]
    #: Sandboxes whose names belong to another host: they must end here.
    evict: list[str]
    #: Sandboxes that were paused to be moved, by a directory before this one.
    resume: list[str]
    #: Sandboxes that ended for want of a lease, and are to be started again.
    restart: list[Placed]


def reconcile(
    host: str,
    report: HostReport,
    rows: Mapping[str, Placed],
    asked_s: float,
    changed_s: Mapping[str, float],
    busy: Container[str],
) -> Findings:
    """
    :param asked_s: when the host was asked. What was changed since then is not judged by this report.
    :param changed_s: when the directory last changed each name.
    :param busy: names that something is being done with.
    """
    found = Findings([], [], [], [], [], [])

    def judged(name: str) -> bool:
        return name not in busy and changed_s.get(name, asked_s - 1) < asked_s

    for name, order in report.orders.items():
        if not judged(name) or name in report.creating:
            continue
        row = rows.get(name)
        if row is None:
            found.adopt.append(order)
        elif row.host != host:
            found.evict.append(name)
        elif name in report.moving:
            found.resume.append(name)
        elif name in report.fenced and row.order.restart == "elsewhere":
            found.restart.append(row)
        elif row.state != "placed":
            found.found.append(row)
    for name, row in rows.items():
        if row.host == host and judged(name) and name not in report.orders and name not in report.creating:
            if row.state != "placed" and row.order.restart == "elsewhere":
                # It found no room yet, or a directory before this one had not finished.
                found.restart.append(row)
            else:
                found.gone.append(name)
    return found
