"""Labels, groups of sandboxes, signals and events, on the command line and in the SDK."""

from __future__ import annotations

import json

from tests.vm.test_lifecycle import Cli, cli

__all__ = ["cli"]


def test_a_fork_has_the_labels_of_its_sandbox_and_its_own(cli: Cli) -> None:
    cli("run", "-d", "--name", "first", "--memory", "256M", "-l", "team=web", "-l", "tier=1")
    cli("fork", "first", "second", "--label", "tier=2")
    assert cli("ls", "-q", "-f", "label=team=web", "-f", "state=running") == "first\nsecond\n"
    assert cli("ls", "--format", "{name} {labels.tier}", "-f", "label=tier") == "first 1\nsecond 2\n"
    assert cli.inspect("second")["labels"] == {"team": "web", "tier": "2"}
    (change,) = json.loads(cli("modify", "second", "--label", "tier=3", "--json"))
    assert (change["when"], change["state"]) == ("live", "done")
    assert cli("ls", "-q", "-f", "label=tier=3") == "second\n"
