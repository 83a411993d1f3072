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
from ballonet.vmm.net_rules import NetRule

#: Tells the sandbox's process that there is a request.
SIGNAL = signal.SIGUSR2
_REQUEST, _ANSWER = "network-request.json", "network-answer.json"


class NewRules(NamedTuple):
    """The rules to put in force."""

    allow: tuple[NetRule, ...]
    deny: tuple[NetRule, ...]


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
        rules = None if self.rules is None else [list(map(str, side)) for side in self.rules]
        replace_file(directory / _REQUEST, json.dumps({"id": self.id, "rules": rules}).encode())

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The last request; ``None`` if there is none or it is damaged."""
        try:
            document = json.loads((directory / _REQUEST).read_bytes())
            rules = document["rules"]
            if rules is not None:
                allow, deny = rules
                rules = NewRules(tuple(map(NetRule.parse, allow)), tuple(map(NetRule.parse, deny)))
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
