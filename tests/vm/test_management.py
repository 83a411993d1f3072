"""Labels, groups of sandboxes, signals and events, on the command line and in the SDK."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.sdk.sync import Sandbox
from tests.vm.processes import alive, wait_until
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


def test_events_tell_of_a_real_sandbox_from_its_creation_to_its_removal(cli: Cli) -> None:
    def told() -> list[str]:
        return [f"{event['event']} {event['sandbox']}" for event in map(json.loads, lines())]

    def lines() -> list[str]:
        return cli("events", "--json", "--since", str(since)).splitlines()

    since = max((event.id for event in Sandbox.events()), default=0)
    cli("run", "-d", "--name", "box", "--memory", "512M", "--balloon-min", "128M")
    cli("balloon", "set", "box", "300M", "--wait")
    cli("pause", "box")
    cli("exec", "box", "true")
    cli("fork", "box", "copy")
    inside = cli.inspect("copy")
    os.kill(inside["pid"], signal.SIGKILL)
    os.kill(inside["engine_pid"], signal.SIGKILL)
    wait_until(lambda: not alive(inside["engine_pid"]), "the engine has ended")
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "ballonet", "events", "-f", "--json", "--since", str(since)],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        expected = ["created box", "started box", "paused box", "resumed box", "created copy", "started copy"]
        found: list[str] = []
        while len(found) < 8:
            event = json.loads(follower.stdout.readline())
            found.append(f"{event['event']} {event['sandbox']}")
            if event["event"] == "resized":
                assert (event["old_mib"], event["new_mib"], event["detail"]) == (512, 300, "applied")
            if event["event"] == "stopped":
                assert event["reason"] == "killed"
        assert sorted(found) == sorted([*expected, "resized box", "stopped copy"])
        assert [each for each in found if each in expected] == expected
        cli("rm", "copy")
        assert json.loads(follower.stdout.readline())["event"] == "removed", "the pause itself is no resize"
        follower.terminate()
    cli("run", "-d", "--rm", "--name", "short", "--memory", "256M", "--", "sh", "-c", "exit 5")
    cli("wait", "short", status=None)
    wait_until(lambda: "removed short" in told(), "it is removed")
    ended = [event for event in map(json.loads, lines()) if event["sandbox"] == "short"]
    assert [event["event"] for event in ended][-2:] == ["stopped", "removed"]
    assert (ended[-2]["reason"], ended[-2]["exit_code"]) == ("completed", 5)


def test_relief_is_an_event(cli: Cli) -> None:
    since = max((event.id for event in Sandbox.events()), default=0)
    cli("run", "-d", "--name", "box", "--memory", "512M", "--balloon-min", "128M")
    cli("balloon", "set", "box", "160M", "--wait", "--force")
    cli("exec", "box", "sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=200", status=None)
    wait_until(
        lambda: "relief" in [event.event for event in Sandbox.events(since=since)], "the guest gets relief"
    )
    (event, *_) = Sandbox.events(since=since, filters=["event=relief", "name=box"])
    assert (event.old_mib, event.new_mib) == (160, 512)
    assert "stalled" in str(event.detail)


def test_a_guest_has_its_host_name_and_the_variables_of_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=from the file\nB=1\n")
    cli(
        "run",
        "-d",
        "--name",
        "box",
        "--memory",
        "256M",
        "--hostname",
        "web.test",
        "--env-file",
        str(tmp_path / "env"),
    )
    assert (
        cli("exec", "box", "sh", "-c", 'hostname; cat /etc/hostname; echo "$A"')
        == "web.test\nweb.test\nfrom the file\n"
    )
    assert "127.0.1.1\tweb.test web\n" in cli("exec", "box", "cat", "/etc/hosts")
    (tmp_path / "more").write_text("B=2")
    assert (
        cli("exec", "--env-file", str(tmp_path / "more"), "box", "sh", "-c", 'echo "$A $B"')
        == "from the file 2\n"
    )
    cli("pause", "box")
    assert cli("exec", "box", "hostname") == "web.test\n"
    cli("fork", "box", "copy")
    assert cli("exec", "copy", "hostname") == "copy\n", "a fork has its own"
    cli("stop", "box", "copy", "-t", "0")
    assert cli("rename", "box", "renamed") == "renamed\n"
    cli("modify", "renamed", "--hostname", "")
    cli("start", "renamed")
    assert cli("exec", "renamed", "hostname") == "renamed\n"


def test_stats_show_what_a_busy_sandbox_uses(cli: Cli) -> None:
    cli(
        "run",
        "-d",
        "--name",
        "busy",
        "--memory",
        "256M",
        "--disk",
        "64M",
        "--",
        "sh",
        "-c",
        "while :; do :; done",
    )
    cli("run", "-d", "--name", "idle", "--memory", "256M")
    cli("exec", "busy", "dd", "if=/dev/zero", "of=/disk/x", "bs=1M", "count=20", "conv=fsync")
    found = {row["name"]: row for row in json.loads(cli("stats", "--no-stream", "--json", "-d", "2"))}
    assert set(found) == {"busy", "idle"}
    assert found["busy"]["cpu_percent"] > 2 * found["idle"]["cpu_percent"]
    assert found["busy"]["written_bytes"] >= 20 << 20
    assert found["busy"]["resident_bytes"] > found["busy"]["guest_ram_bytes"] > 0
    usage = Sandbox.get("busy").usage()
    assert (usage.cpus, usage.ceiling_bytes) == (1, 256 << 20)
    assert usage.cpu_s is not None
    assert usage.cpu_s >= found["busy"]["cpu_s"]
    before = found["busy"]["cpu_s"]
    wait_until(lambda: (Sandbox.get("busy").usage().cpu_s or 0) > before, "more of the processor's time")
    lines = cli("stats", "--no-stream", "idle").splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "idle"]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "ballonet", "stats", "--json", "-d", "0.2"],
        stdout=subprocess.PIPE,
        text=True,
    ) as stream:
        assert stream.stdout is not None
        told = [json.loads(stream.stdout.readline()) for _ in range(4)]
        stream.terminate()
    assert [row["name"] for row in told] == ["busy", "idle", "busy", "idle"]
    assert told[2]["cpu_s"] > told[0]["cpu_s"]


def attached(name: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ballonet", "attach", *options, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_attach_follows_the_command_and_ends_with_its_status(cli: Cli) -> None:
    work = "trap 'echo interrupted; exit 9' INT; echo before; while :; do echo tick; echo tock >&2; sleep 0.2; done"
    cli("run", "-d", "--rm", "--name", "box", "--memory", "256M", "--", "sh", "-c", work)
    wait_until(lambda: "tick" in cli("logs", "box"), "it is at work")
    with attached("box", "--no-signals") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "tick\n", "not what was before"
        first.send_signal(signal.SIGINT)
        first.communicate()
        assert first.returncode == 130
    assert cli.inspect("box")["state"] == "running", "it runs on"
    with attached("box") as second:
        assert second.stdout is not None
        assert second.stdout.readline() == "tick\n"
        second.send_signal(signal.SIGINT)
        out, said = second.communicate()
    assert second.returncode == 9
    assert out.endswith("interrupted\n")
    assert set(said.splitlines()) == {"tock"}
    assert cli("ls", "-q") == "", "it was removed with its end"


def test_attach_tells_an_end_without_a_status_and_what_cannot_be_followed(cli: Cli) -> None:
    work = "trap 'echo no' INT TERM; echo ready; while :; do sleep 0.2; done"
    cli("run", "-d", "--name", "box", "--memory", "256M", "--", "sh", "-c", work)
    cli("run", "-d", "--name", "idle", "--memory", "256M")
    wait_until(lambda: "ready" in cli("logs", "box"), "it is at work")
    done = cli.run("attach", "idle")
    assert (done.returncode, "no command of its own" in done.stderr) == (2, True)
    with attached("box") as follower:
        assert follower.stdout is not None
        wait_until(lambda: b"\x02" in caught(follower.pid), "it catches signals")
        follower.send_signal(signal.SIGINT)
        assert follower.stdout.readline() == "no\n"
        cli("kill", "box")
        _, said = follower.communicate()
    assert follower.returncode == 125
    assert "it was killed on request" in said
    assert cli.run("attach", "box").returncode == 2


def caught(pid: int) -> bytes:
    """The signals that a process catches (proc_pid_status(5)), as bytes from the lowest number."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return b""
    mask = next(line.split()[1] for line in text.splitlines() if line.startswith("SigCgt:"))
    # Python itself catches SIGINT, too: all of those that attach catches are meant.
    return b"\x02" if int(mask, 16) & (1 << 14) and int(mask, 16) & 1 else b""


def test_run_it_starts_a_shell_by_default(cli: Cli) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "ballonet", "run", "-it", "--memory", "256M"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as program:
        os.close(theirs)
        shown = b""
        while b"# " not in shown:  # what is typed before the terminal is in raw mode is lost
            shown += os.read(ours, 4096)
        os.write(ours, b"echo $((6 * 7)) $0; exit 5\n")
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:
                break
    os.close(ours)
    assert program.returncode == 5, shown
    assert b"42 sh" in shown
    done = cli.run("run", "--memory", "256M")
    assert (done.returncode, "ballonet run -it" in done.stderr) == (2, True)
