"""What the commands of a sandbox's life print and refuse, without a virtual machine."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.cli.output import show_age
from tests.unit.disks import mounted_disk

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "BALLONET_RUN_DIR": str(tmp_path / "run"),
    }


def ballonet(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BALLONET, *words], env=env, capture_output=True, text=True, check=False)


def on_a_terminal(env: dict[str, str], *words: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen([*BALLONET, *words], env=env, stdout=theirs, stdin=theirs) as program:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        program.wait()
    os.close(ours)
    return shown.decode()


def test_colour_is_for_terminals_that_want_it(env: dict[str, str]) -> None:
    env = {**{name: value for name, value in env.items() if name != "NO_COLOR"}, "TERM": "xterm"}
    ballonet(env, "create", "--name", "box")
    from ballonet.lifecycle.registry import Registry

    with Registry.open(Path(env["XDG_STATE_HOME"]) / "ballonet") as registry:
        registry.update("box", state="failed", end_detail="a guest's words \x1b[2J")
    assert "\x1b[31mfailed" in on_a_terminal(env, "ls")
    assert "\x1b[2J" not in on_a_terminal(env, "ls")
    assert "\x1b" not in on_a_terminal({**env, "NO_COLOR": "1"}, "ls")
    assert "\x1b" not in on_a_terminal({**env, "TERM": "dumb"}, "ls")
    assert "\x1b" not in ballonet(env, "ls").stdout


def test_create_list_inspect_and_remove(env: dict[str, str]) -> None:
    assert (
        ballonet(
            env, "create", "--name", "box", "--memory", "1G", "--weight", "50", "--", "sleep", "9"
        ).stdout
        == "box\n"
    )
    (row,) = json.loads(ballonet(env, "ls", "--json").stdout)
    assert (row["name"], row["state"], row["ceiling_mib"], row["weight"]) == ("box", "created", 1024, 50)
    assert row["target_mib"] is None, "what does not run has no target"
    assert json.loads(ballonet(env, "ps", "--json").stdout) == []
    (seen,) = json.loads(ballonet(env, "inspect", "box").stdout)
    assert (seen["command"], seen["running"]) == (["sleep", "9"], None)
    assert ballonet(env, "create", "--name", "box").returncode == 2
    assert ballonet(env, "rm", "box", "nobody").returncode == 2
    assert ballonet(env, "ls", "-q").stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "--name", "x" * 300], "300"),
        (["create", "--weight", "0"], "weight 0"),
        (["create", "--reserve", "lots"], "'lots'"),
        (["create", "--no-balloon", "--balloon-min", "128M"], "--no-balloon"),
        (["create", "--env", "=x", "--", "true"], "NAME=VALUE"),
        (["create", "--user", "a:b:c", "--", "true"], "'a:b:c'"),
        (["run", "-d", "-i", "--", "true"], "-d"),
        (["run"], "no command"),
        (["exec", "box"], "no command"),
        (["logs", "box", "--since", "soon"], "'soon'"),
        (["logs", "box", "--tail", "-1"], "-1"),
        (["cp", "x:/a", "y:/b"], "the other on the host"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_made(
    env: dict[str, str], words: list[str], said: str
) -> None:
    done = ballonet(env, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert ballonet(env, "ls", "-q").stdout == ""


def test_two_programs_on_one_registry(env: dict[str, str]) -> None:
    started = [
        subprocess.Popen([*BALLONET, "create", "--name", f"box{number % 4}"], env=env, stderr=subprocess.PIPE)
        for number in range(8)
    ]
    statuses = sorted((program.communicate()[0], program.returncode)[1] for program in started)
    assert statuses == [0] * 4 + [2] * 4
    assert ballonet(env, "ls", "-q").stdout.split() != []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "256k") as directory:
        yield directory


def test_a_full_disk_is_told_and_nothing_is_lost(env: dict[str, str], small_disk: Path) -> None:
    env["XDG_STATE_HOME"] = str(small_disk)
    assert ballonet(env, "create", "--name", "before").returncode == 0
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    done = ballonet(env, "create", "--name", "after", "--env", f"A={'x' * 10000}", "--", "true")
    assert done.returncode == 125
    assert str(small_disk) in done.stderr
    assert "Traceback" not in done.stderr
    (small_disk / "filler").unlink()
    assert ballonet(env, "ls", "-q").stdout == "before\n"
    assert ballonet(env, "create", "--name", "after").returncode == 0


def test_a_read_only_state_directory_is_told(env: dict[str, str], small_disk: Path) -> None:
    env["XDG_STATE_HOME"] = str(small_disk)
    assert ballonet(env, "create", "--name", "before").returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = ballonet(env, "create", "--name", "after")
    assert done.returncode == 125
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_ages() -> None:
    import time

    for seconds, shown in ((5, "5s"), (119, "119s"), (180, "3m"), (7200, "2h"), (3 * 86400, "3d")):
        assert show_age(time.time() - seconds) in (shown, shown.replace("5s", "6s").replace("119s", "2m"))
    assert show_age(None) is None


def test_a_plot_without_samples_is_refused_and_says_why(env: dict[str, str], tmp_path: Path) -> None:
    assert ballonet(env, "create", "--name", "box").returncode == 0
    done = ballonet(env, "plot", "box", "-o", str(tmp_path / "x.png"))
    assert done.returncode == 2
    assert done.stderr == (
        "ballonet: error: sandbox 'box' has no samples\n"
        "  hint: samples are recorded while a sandbox runs, at least once a minute\n"
    )
    assert not (tmp_path / "x.png").exists()
