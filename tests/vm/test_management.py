"""Labels, groups of sandboxes, signals and events, on the command line and in the SDK."""

from __future__ import annotations

import json

import pytest

from ballonet.base.errors import ConfigError
from ballonet.sdk.sync import Sandbox
from tests.vm.processes import wait_until
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


def test_signals_go_to_the_command_and_groups_end_together(cli: Cli) -> None:
    trap = (
        "trap 'echo got hup' HUP; trap 'echo got usr1; exit 7' USR1; echo ready; while :; do sleep 0.1; done"
    )
    cli("run", "-d", "--name", "trap", "--memory", "256M", "-l", "group=1", "--", "sh", "-c", trap)
    wait_until(lambda: "ready" in cli("logs", "trap"), "the traps are set")
    assert cli("kill", "-s", "HUP", "trap") == "trap\n"
    wait_until(lambda: "got hup" in cli("logs", "trap"), "the signal arrives")
    Sandbox.get("trap").send_signal("USR1")
    assert cli("wait", "trap").startswith("7  completed")
    cli("run", "-d", "--name", "idle", "--memory", "256M", "-l", "group=1")
    done = cli.run("kill", "-s", "HUP", "idle")
    assert done.returncode == 2
    assert "no command of its own" in done.stderr
    with pytest.raises(ConfigError, match="no command of its own"):
        Sandbox.get("idle").send_signal(10)
    cli("start", "trap")
    assert cli("ps", "-q") == "trap\nidle\n"
    assert cli("kill", "--filter", "name=trap") == "trap\n"
    assert cli.inspect("trap")["end_detail"] == "it was killed on request"
    done = cli.run("rm", "--all")
    assert (done.returncode, done.stdout) == (2, "trap\n"), "a running one is refused"
    assert cli("stop", "--all") == "idle\n"
    assert cli.inspect("idle")["end_reason"] == "stopped"
    assert cli("rm", "--all") == "idle\n"
