"""The configuration of dnsmasq, the name server of a sandbox whose rules have names. Pure.

It forwards queries only for names that are allowed, and puts their addresses into the sets of the packet filter before
it answers. A query for any other name is refused, and leaves this host in no form (dnsmasq(8), ``--server`` and
``--nftset``; a name with ``*.`` stands for all names below it).
"""

from __future__ import annotations

from collections.abc import Iterator

from ballonet.machine.net_filter import PRIVATE, TABLE, UP_NAME_SERVER, FilterRules, set_name
from ballonet.vmm.net_rules import PUBLIC, NetRule

#: How many queries may wait for an answer at once.
_MOST_WAITING = 100


def render_names(rules: FilterRules, listen: str) -> str:
    """The configuration for the server at address ``listen``."""
    lines = [f"listen-address={listen}", "bind-interfaces", "port=53", "no-hosts", "no-resolv", "no-poll"]
    # Without a cache each answer passes, and its addresses are in the sets.
    lines += [
        "cache-size=0",
        f"dns-forward-max={_MOST_WAITING}",
        "filter-AAAA",
        "log-queries=extra",
        "log-facility=-",
    ]
    if not any(_is_private(rule) for rule in rules.allow):
        lines.append("stop-dns-rebind")
    denied = [rule for rule in rules.deny if rule.name is not None]
    allowed = [rule for rule in rules.names if not any(_covers(deny, rule) for deny in denied)]
    everything = not rules.allow or any(rule.host == PUBLIC for rule in rules.allow)
    if everything:
        lines.append(f"server={UP_NAME_SERVER}")
    lines += _servers([rule.host for rule in allowed], [rule.host for rule in denied], everything)
    for key in sorted({rule.host.removeprefix("*.") for rule in allowed}):
        sets = sorted({set_name(rule) for rule in allowed if _matches(rule.host, key)})
        lines.append(f"nftset=/{key}/" + ",".join(f"4#inet#{TABLE}#{name}" for name in sets))
    return "\n".join([*lines, ""])


def _servers(allowed: list[str], denied: list[str], everything: bool) -> Iterator[str]:
    """Which names are forwarded, and which are not. The most specific line counts."""
    for host in dict.fromkeys(allowed):
        yield f"server=/{host}/{UP_NAME_SERVER}"
        if not host.startswith("*.") and not everything and not _below(allowed, host):
            yield f"local=/*.{host}/"
    for host in dict.fromkeys(denied):
        yield f"local=/{host}/"
        if not host.startswith("*.") and (everything or _below(allowed, host)) and not _below(denied, host):
            yield f"server=/*.{host}/{UP_NAME_SERVER}"


def _below(hosts: list[str], name: str) -> bool:
    """Whether one of ``hosts`` stands for the names below ``name``."""
    return any(host.startswith("*.") and _matches(host, name) for host in hosts)


def _matches(host: str, name: str) -> bool:
    """Whether ``host`` stands for ``name``, or for the names directly below it."""
    suffix = host.removeprefix("*.")
    return name == suffix or (host != suffix and name.endswith(f".{suffix}"))


def _covers(deny: NetRule, allow: NetRule) -> bool:
    if deny.host == allow.host:
        return True
    return deny.host.startswith("*.") and allow.host.removeprefix("*.").endswith(deny.host[1:])


def _is_private(rule: NetRule) -> bool:
    return rule.block is not None and any(rule.block.within(private) for private in PRIVATE)
