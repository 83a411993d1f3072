"""Health checks of real guests: by a port, by a command, and beside pauses and idle timeouts."""

from __future__ import annotations

import json

import pytest

from ballonet.base.errors import SandboxError
from ballonet.sdk.sync import Sandbox
from tests.vm.processes import wait_until
from tests.vm.test_lifecycle import Cli, cli

__all__ = ["cli"]


def health(cli: Cli, name: str) -> str:
    return str(cli.inspect(name)["health"])


def test_a_start_waits_for_the_port(cli: Cli) -> None:
    serve = "sleep 2; nc -ll -p 8080 -e cat & wait"
    cli("run", "-d", "--name", "web", "--memory", "256M", "--wait-port", "8080", "--", "sh", "-c", serve)
    assert health(cli, "web") == "healthy"
    (row,) = json.loads(cli("ls", "--json", "--filter", "name=web"))
    assert row["health"] == "healthy"
    assert "health: healthy" in cli("ls")
    assert 'ballonet_sandbox_health{sandbox="web",state="healthy"} 1.0' in cli("metrics")
    assert [event.event for event in Sandbox.events(filters=["name=web"])][-1] == "healthy"
    cli("stop", "-t", "0", "web")
    assert cli.inspect("web")["health"] is None
    cli("start", "web")
    assert health(cli, "web") == "healthy"
    Sandbox.get("web").wait_healthy(timeout=0)


def test_a_command_that_ends_before_its_port_is_open_is_told(cli: Cli) -> None:
    done = cli.run(
        "run", "-d", "--name", "web", "--memory", "256M", "--wait-port", "80", "--", "sh", "-c", "exit 3"
    )
    assert done.returncode == 2
    assert "its command ended with status 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_health_command_tells_every_change(cli: Cli) -> None:
    checks = ["--health-cmd", "test -e /ok || { echo no file >&2; exit 7; }"]
    checks += ["--health-interval", "1", "--health-retries", "2", "--health-timeout", "5"]
    cli("run", "-d", "--name", "box", "--memory", "256M", *checks)
    box = Sandbox.get("box")
    wait_until(lambda: health(cli, "box") == "unhealthy", "it was not healthy in time")
    done = cli.run("wait", "--healthy", "--timeout", "0", "box")
    assert done.returncode == 125
    assert "unhealthy" in done.stderr
    with pytest.raises(SandboxError, match="not healthy"):
        box.wait_healthy(timeout=0)
    box.fs.write("/ok", "")
    assert cli("wait", "--healthy", "box") == "box\n"
    box.fs.remove("/ok")
    wait_until(lambda: health(cli, "box") == "unhealthy", "the file is gone")

    def told() -> list[str]:
        return [event.event for event in Sandbox.events(filters=["event=healthy", "event=unhealthy"])]

    wait_until(lambda: told()[-3:] == ["unhealthy", "healthy", "unhealthy"], "the events are told")
    last = list(Sandbox.events(filters=["event=unhealthy"]))[-1]
    assert last.detail == "the command ended with status 7: no file"
    box.fs.write("/ok", "")
    cli("pause", "box")
    assert cli.inspect("box")["health"] is None
    cli("resume", "box")
    assert cli("wait", "--healthy", "box") == "box\n"


def test_checks_do_not_keep_a_sandbox_from_being_idle(cli: Cli) -> None:
    checks = ["--health-cmd", "true", "--health-interval", "1", "--idle-timeout", "4"]
    cli("run", "-d", "--name", "box", "--memory", "256M", *checks)
    assert cli("wait", "--healthy", "box") == "box\n"
    wait_until(lambda: cli.inspect("box")["state"] == "paused", "it was idle")


@pytest.mark.parametrize(("command", "said"), [("sleep 99", "did not end within 1 s"), ("yes", "")])
def test_a_check_that_hangs_or_says_too_much_has_failed(cli: Cli, command: str, said: str) -> None:
    checks = ["--health-interval", "1", "--health-retries", "1", "--health-timeout", "1"]
    cli("run", "-d", "--name", "box", "--memory", "256M", "--health-cmd", command, *checks)
    wait_until(lambda: health(cli, "box") == "unhealthy", "the check failed")

    def details() -> list[str]:
        return [str(event.detail) for event in Sandbox.events(filters=["name=box", "event=unhealthy"])]

    wait_until(lambda: said in details()[-1:][0] if details() else False, "the event is told")

    def running() -> set[str]:
        return set(cli("exec", "box", "sh", "-c", "pidof sleep || true").split())

    if command == "sleep 99":
        wait_until(running, "a check runs")
        first = running()
        wait_until(lambda: not first & running(), "it is killed; the next one may be running")
