"""The error for a sandbox that no host can take: what it asked for, and each host's numbers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ballonet.base.errors import AdmissionError, BallonetError, ConfigError
from ballonet.cluster.placement import Refusal
from ballonet.cluster.request import Request
from ballonet.pilot.admission import ENGINE_MIB

#: How many hosts the message names; further ones are counted by limit.
SHOWN = 20

#: What a person can do, by the limit that most hosts would exceed.
_HINTS = {
    "promise": "stop a sandbox, lower the floor (--balloon-min) or the reserve, or add a host",
    "start": "stop a sandbox, lower the boot memory (--balloon-initial), or wait until sandboxes give memory back",
    "price": "stop a sandbox, wait until sandboxes give memory back, or add a host",
    "use": "stop a sandbox, state a lower expected use, or add a host",
    "ceilings": "lower the ceiling (--memory), stop a sandbox, or add a host",
    "stale": "'ballonet cluster status' shows which hosts do not report",
    "closed": "'ballonet cluster status' shows why hosts take no more sandboxes",
    "label": "'ballonet cluster status' shows the labels of all hosts",
    "version": "install the same version of ballonet on all hosts",
    "admission": "stop a sandbox, or add a host",
}
_MEMORY = frozenset({"promise", "start", "price", "use", "ceilings", "admission"})


def no_host(request: Request, refusals: Sequence[Refusal]) -> BallonetError:
    """An :class:`AdmissionError` if memory is what some host lacks, otherwise a :class:`ConfigError`.

    :param refusals: one for each host; those that lack least come first.
    """
    asked = (
        f"sandbox {request.name!r} asks for a ceiling of {request.ceiling_mib} MiB, {request.least_mib} guaranteed, "
        f"{request.use_mib - ENGINE_MIB} in use on average, and {ENGINE_MIB} for its engine"
    )
    if not refusals:
        return ConfigError(
            f"no host can take it: the cluster has no hosts; {asked}",
            hint="add one with 'ballonet cluster join ADDRESS'",
        )
    nearest = sorted(refusals, key=lambda one: (one.limit not in _MEMORY, one.missing_mib, one.host))
    lines = [f"{one.host}: {one.reason}" for one in nearest[:SHOWN]]
    rest = Counter(one.limit for one in nearest[SHOWN:])
    if rest:
        counted = ", ".join(f"{limit} {count}" for limit, count in sorted(rest.items()))
        lines.append(f"and {rest.total()} more hosts ({counted})")
    frequent = Counter(one.limit for one in nearest).most_common(1)[0][0]
    kind = AdmissionError if any(one.limit in _MEMORY for one in nearest) else ConfigError
    return kind(f"no host can take it: {asked}\n  " + "\n  ".join(lines), hint=_HINTS[frequent])
