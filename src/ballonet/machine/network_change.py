"""How another program changes the rules of a running sandbox's network: it writes a request to the sandbox's state
directory, sends the sandbox's process a signal, and waits for the answer there."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ballonet.base.paths import replace_file
from ballonet.vmm.net_rules import NetRule

#: Tells the sandbox's process that there is a request.
SIGNAL = signal.SIGUSR2
_REQUEST, _ANSWER = "network-request.json", "network-answer.json"


@dataclass(frozen=True)
class NetworkChange:
    """The new rules, and an id for the answer."""

    id: str
    allow: tuple[NetRule, ...]
    deny: tuple[NetRule, ...]

    def write(self, directory: Path) -> None:
        """:raises HostError: it cannot be written."""
        document = {"id": self.id, "allow": list(map(str, self.allow)), "deny": list(map(str, self.deny))}
        replace_file(directory / _REQUEST, json.dumps(document).encode())

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The last request; ``None`` if there is none or it is damaged."""
        try:
            document = json.loads((directory / _REQUEST).read_bytes())
            allow, deny = (tuple(map(NetRule.parse, document[name])) for name in ("allow", "deny"))
            return cls(str(document["id"]), allow, deny)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def answer(self, directory: Path, error: str | None) -> None:
        """Say that the rules are in force, or why they are not.

        :raises HostError: it cannot be written.
        """
        replace_file(directory / _ANSWER, json.dumps({"id": self.id, "error": error}).encode())

    def answered(self, directory: Path) -> str | None:
        """``""`` if the rules are in force, the error if they are not, ``None`` if there is no answer yet."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            document: Any = json.loads((directory / _ANSWER).read_bytes())
            if document["id"] == self.id:
                return str(document["error"] or "")
        return None
