"""What the packet filter of a sandbox's network has counted. Pure."""

from __future__ import annotations

import json
from typing import Any

from ballonet.machine.net_filter import REFUSALS, FilterRules, counter_name


def refusals(rules: FilterRules) -> dict[str, str]:
    """What each of the built-in rules refuses."""
    texts = {
        "host": "the host's own addresses",
        "closed": "addresses that are never open, such as link-local and cloud metadata",
        "denied": "denied by a rule",
        "private": "private addresses",
        "other": "not allowed by any rule",
        "many": f"more than {rules.connections} connections at once",
        "names": "queries for names that are too long, or too many",
    }
    return {word: texts[word] for word in REFUSALS}


def read_counters(listing: bytes, rules: FilterRules) -> dict[str, Any]:
    """The counters in the output of ``nft -j list counters``: connections, except where bytes are named."""
    found = {
        entry["counter"]["name"]: entry["counter"]
        for entry in json.loads(listing)["nftables"]
        if "counter" in entry
    }

    def count(name: str, what: str = "packets") -> int:
        return int(found.get(name, {}).get(what, 0))

    actions = (("allow", rules.allow), ("deny", rules.deny))
    return {
        "allowed": sum(map(count, {counter_name("allowed"), *map(counter_name, rules.allow)})),
        "refused": {text: count(counter_name(word)) for word, text in refusals(rules).items()},
        "reasons": {word: count(counter_name(word)) for word in REFUSALS},
        "rules": [
            {"action": action, "rule": str(rule), "connections": count(counter_name(rule))}
            for action, of in actions
            for rule in of
        ],
        "queries": count(counter_name("queries")),
        # Without rules for names, queries go to the host's name server, and are only counted.
        "names_asked": count(counter_name("queries")),
        "names_refused": 0,
        "sent_bytes": count(counter_name("sent"), "bytes"),
        "received_bytes": count(counter_name("received"), "bytes"),
    }
