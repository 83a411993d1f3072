"""How another program asks the process of a running sandbox about its network, or changes its rules.

It writes a request to the sandbox's state directory, sends the process a signal, and waits for the answer there.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from ballonet.base.dataclass import dataclass
from ballonet.base.paths import replace_file
from ballonet.vmm.net_rules import MAX_CONNECTIONS, NetRule

#: Tells the sandbox's process that there is a request.
SIGNAL = signal.SIGUSR2
_REQUEST, _ANSWER = "network-request.json", "network-answer.json"


class NewRules(NamedTuple):
    """The rules and limits to put in force: the fields of a configuration that may change."""

    net_allow: tuple[NetRule, ...]
    net_deny: tuple[NetRule, ...]
    net_rate_kib: int | None = None
    net_connections: int = MAX_CONNECTIONS


class Answer(NamedTuple):
    """What became of a request: what went wrong, or the counters."""

    error: str | None
    counters: Mapping[str, Any]


@dataclass(frozen=True)
class NetworkRequest:
    """A request for the network's counters, after a change of its rules if there are new ones."""

    #: For the answer.
    id: str
    rules: NewRules | None

    def write(self, directory: Path) -> None:
        """:raises HostError: it cannot be written."""
        document: dict[str, Any] = {"id": self.id, "rules": None}
        if self.rules is not None:
            allow, deny, *limits = self.rules
            document |= {"rules": [list(map(str, allow)), list(map(str, deny))], "limits": limits}
        replace_file(directory / _REQUEST, json.dumps(document).encode())

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The last request; ``None`` if there is none or it is damaged."""
        try:
            document = json.loads((directory / _REQUEST).read_bytes())
            rules = document["rules"]
            if rules is not None:
                allow, deny = rules
                allow, deny = (tuple(map(NetRule.parse, side)) for side in (allow, deny))
                rules = NewRules(allow, deny, *map(_limit, document.get("limits", ())))
            return cls(str(document["id"]), rules)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def answer(self, directory: Path, answer: Answer) -> None:
        """:raises HostError: it cannot be written."""
        replace_file(directory / _ANSWER, json.dumps({"id": self.id, **answer._asdict()}).encode())

    def answered(self, directory: Path) -> Answer | None:
        """The answer, if there is one yet."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            document: Any = json.loads((directory / _ANSWER).read_bytes())
            if document["id"] == self.id:
                return Answer(document["error"], dict(document["counters"]))
        return None


def _limit(value: object) -> Any:
    """:raises ValueError: it is no limit."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError("not a limit")
    return value
