"""Sandboxes that are kept: the command line from create to rm, ends of every kind, many at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError, NameInUseError, NotRunningError
from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.registry import Registry
from ballonet.machine.launch import expect_starts
from ballonet.sdk.sandbox import Balloon, Sandbox
from ballonet.sdk.sync import Sandbox as SyncSandbox
from tests.vm.processes import alive, descendants, descriptors, wait_until


class Cli:
    """The command line, with what it leaves for the next command."""

    def __call__(self, *words: str, status: int | None = 0, timeout_s: float = 200) -> str:
        done = self.run(*words, timeout_s=timeout_s)
        assert status is None or done.returncode == status, (words, done)
        return done.stdout

    def run(self, *words: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "ballonet", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name))[0]


@pytest.fixture
def cli(guest: object, run_directory: Path) -> Iterator[Cli]:
    """Whatever a test keeps is removed after it."""
    call = Cli()
    kept = set(call("ls", "-q").split())
    yield call
    for name in set(call("ls", "-q").split()) - kept:
        call("rm", "--force", name)


@pytest.fixture
def box(cli: Cli) -> str:
    """A detached sandbox without a command."""
    assert cli("run", "-d", "--name", "box", "--memory", "512M", "--balloon-min", "128M") == "box\n"
    return "box"


def test_a_sandboxs_whole_life(cli: Cli) -> None:
    """Created, started, exec'd, modified, stopped, restarted with what waited for it, removed."""
    assert cli("create", "--name", "life", "--memory", "512M") == "life\n"
    assert cli.inspect("life")["state"] == "created"
    assert cli("start", "life") == "life\n"
    assert cli("exec", "life", "sh", "-c", "echo in; exit 3", status=3) == "in\n"
    changes = {
        change["setting"]: change
        for change in json.loads(
            cli("modify", "life", "--memory-target", "300M", "--memory", "400M", "--json")
        )
    }
    assert changes["memory_target"]["state"] == "applied"
    assert (changes["memory"]["when"], changes["memory"]["state"]) == ("requires restart", "saved")
    seen = cli.inspect("life")
    assert (seen["target_mib"], seen["actual_mib"], seen["ceiling_mib"]) == (300, 300, 512)
    assert seen["pending"] == {"memory_mib": 400, "balloon_initial_mib": 400}
    assert seen["desired"]["memory_mib"] == 400
    assert seen["running"]["memory_mib"] == 512
    cli("stop", "life")
    stopped = cli.inspect("life")
    assert (stopped["state"], stopped["end_reason"], stopped["running"]) == ("stopped", "stopped", None)
    cli("restart", "life")
    again = cli.inspect("life")
    assert (again["state"], again["running"]["memory_mib"], again["pending"]) == ("running", 400, {})
    assert "life" in cli("ps", "-q").split()
    assert cli.run("rm", "life").returncode == 2
    cli("rm", "--force", "life")
    assert "life" not in cli("ls", "-q").split()
    assert not state_dir_of("life").exists()


def test_a_dry_run_says_what_would_be_and_does_nothing(cli: Cli) -> None:
    cli("create", "--name", "plan")
    before = cli.inspect("plan")
    assert "next start" in cli("modify", "plan", "--memory", "1G", "--dry-run")
    assert cli.inspect("plan") == before


def test_a_command_of_its_own_its_output_and_its_end(cli: Cli) -> None:
    script = "echo out; printf part; exit 7"
    cli("run", "-d", "--name", "job", "-e", "A=b", "--", "sh", "-c", script)
    assert cli("wait", "job").startswith("7  completed: its command ended with status 7")
    done = cli.run("logs", "job")
    assert (done.stdout, done.stderr) == ("out\npart", "")
    assert cli("logs", "--tail", "1", "job") == "part"
    assert cli("logs", "--since", "1h", "job") == "out\npart"
    seen = cli.inspect("job")
    assert (seen["state"], seen["exit_code"], seen["end_reason"]) == ("stopped", 7, "completed")


def test_logs_follow_to_the_end(cli: Cli) -> None:
    script = "echo err >&2; for i in 1 2 3; do echo $i; sleep 0.5; done"
    cli("run", "-d", "--name", "job", "--", "sh", "-c", script)
    done = cli.run("logs", "--follow", "job")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n2\n3\n", "err\n")


def test_a_stop_is_told_to_the_command_first(cli: Cli) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 0.1; done"
    cli("run", "-d", "--name", "job", "--", "sh", "-c", script)
    wait_until(lambda: "ready" in cli("logs", "job"), "the command is ready")
    cli("stop", "job")
    assert cli("logs", "job") == "ready\nbye\n"
    assert cli.inspect("job")["exit_code"] == 5


def test_a_command_that_ignores_the_stop_is_ended_in_time(cli: Cli) -> None:
    cli("run", "-d", "--name", "job", "--", "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
    started = time.monotonic()
    cli("stop", "--timeout", "1", "job")
    assert time.monotonic() - started < 60
    assert cli.inspect("job")["end_reason"] == "stopped"


def test_a_command_that_cannot_be_started_leaves_nothing(cli: Cli) -> None:
    done = cli.run("run", "-d", "--name", "job", "--", "no-such-program")
    assert done.returncode == 127
    assert "no-such-program could not be started" in done.stderr
    assert "job" not in cli("ls", "-q").split()


def test_a_guest_out_of_memory_is_told_as_that(cli: Cli) -> None:
    """The reason of an end is the guest's out-of-memory killer, not just SIGKILL."""
    eat = """BEGIN { while (1) a[i++] = sprintf("%1000s", "") }"""
    cli("run", "-d", "--name", "job", "--memory", "256M", "--", "awk", eat)
    assert cli("wait", "job").startswith("137  guest-oom")
    assert "killed one process because memory ran out" in cli.inspect("job")["end_detail"]


def test_the_engine_killed_by_the_host_is_told_as_that(cli: Cli, box: str) -> None:
    engine = cli.inspect(box)["engine_pid"]
    os.kill(engine, signal.SIGKILL)
    assert "engine-killed: QEMU was killed by SIGKILL" in cli("wait", box)


def test_a_killed_sandbox_process_is_never_shown_as_running(cli: Cli, box: str) -> None:
    seen = cli.inspect(box)
    os.kill(seen["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(seen["pid"]) and not alive(seen["engine_pid"]), "both processes are gone")
    after = cli.inspect(box)
    assert (after["state"], after["end_reason"]) == ("stopped", "killed")
    assert cli.run("exec", box, "true").returncode == 2
    cli("start", box)  # and it can be started again
    assert cli("exec", box, "echo", "back") == "back\n"


def test_a_detached_sandbox_that_goes_away_with_its_end(cli: Cli) -> None:
    cli("run", "-d", "--rm", "--name", "job", "--", "true")
    wait_until(lambda: "job" not in cli("ls", "-q").split(), "it is gone")
    assert not state_dir_of("job").exists()


def test_twenty_creates_of_one_name_at_once(cli: Cli) -> None:
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda _: cli.run("create", "--name", "one"), range(20)))
    won = [one for one in done if one.returncode == 0]
    lost = [
        one for one in done if one.returncode == 2 and "there is a sandbox named 'one' already" in one.stderr
    ]
    assert (len(won), len(lost)) == (1, 19)


def test_two_starts_of_one_sandbox_at_once(cli: Cli) -> None:
    """Two programs on one registry: one boots it, the other leaves it alone."""
    cli("create", "--name", "twice")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: cli.run("start", "twice"), range(2)))
    assert 0 in [one.returncode for one in done]
    for one in done:
        assert one.returncode == 0 or "is already running" in one.stderr
    assert cli("exec", "twice", "echo", "one") == "one\n"


@pytest.mark.parametrize(
    "words",
    [
        ["start", "nobody"],
        ["stop", "nobody"],
        ["exec", "nobody", "true"],
        ["rm", "nobody"],
        ["inspect", "nobody"],
        ["logs", "nobody"],
        ["wait", "x" * 300],
        ["modify", "a b", "--cpus", "2"],
        ["cp", "nobody:/x", "."],
        ["cp", "a", "b"],
    ],
)
def test_unknown_and_odd_names_are_told_with_what_to_do(cli: Cli, words: list[str]) -> None:
    done = cli.run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("ballonet: error: ")
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_list_is_json_too(cli: Cli, box: str) -> None:
    assert [row["name"] for row in json.loads(cli("ps", "--json")) if row["name"] == box] == [box]
    assert json.loads(cli("version", "--json"))["registry"] >= 1
    assert {finding["check"] for finding in json.loads(cli("doctor", "--json"))} >= {"engine", "registry"}
    assert json.loads(cli("balloon", "get", box, "--json"))["ceiling_mib"] == 512


# --- the SDK ---


@pytest.mark.slow
async def test_ten_created_used_and_removed_at_once_leave_nothing(run_directory: Path) -> None:
    """The whole of it 20 times is 'python -m bench.churn'."""
    import asyncio

    async def one(number: int) -> bytes:
        name = f"churn-{number}"
        async with await Sandbox.create(name, memory=128, detached=True) as box:
            out = (await box.exec(["echo", name])).stdout
        await Sandbox.remove(name, force=True)
        return out

    expect_starts(10)  # the program's fork server stays
    before, others = descriptors(), (sorted(run_directory.iterdir()), descendants(os.getpid()))
    outputs = await asyncio.gather(*(one(number) for number in range(10)))
    assert outputs == [f"churn-{number}\n".encode() for number in range(10)]
    assert {number: of for number, of in descriptors().items() if before.get(number) != of} == {}
    assert (sorted(run_directory.iterdir()), descendants(os.getpid())) == others
    with Registry.open() as registry:
        assert not [record for record in registry.list() if record.name.startswith("churn")]
    assert not list((state_dir_of("x").parent).glob("churn*"))


async def test_an_owned_sandbox_dies_with_its_program_even_by_sigkill(run_directory: Path) -> None:
    code = (
        "import time; from ballonet.sdk.sync import Sandbox\n"
        "box = Sandbox.create('owned', memory=128); print(box._inner.pid, flush=True); time.sleep(600)"
    )
    program = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    assert (await Sandbox.get("owned")).record().state == "running"
    program.kill()
    program.wait()
    program.stdout.close()
    wait_until(lambda: not alive(pid), "the sandbox's process has ended")
    assert "owned" not in [record.name for record in await Sandbox.list()]


async def test_a_detached_sandbox_outlives_its_program(run_directory: Path) -> None:
    code = "from ballonet.sdk.sync import Sandbox; Sandbox.create('stays', memory=128, detached=True).close()"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=100)
    async with await Sandbox.get("stays") as box:
        assert (await box.shell("echo still here")).stdout == b"still here\n"
        with pytest.raises(NameInUseError):
            await Sandbox.create("stays")
        end = await box.stop()
        assert end.reason == "stopped"
        with pytest.raises(NotRunningError):
            await box.exec(["true"])
    await Sandbox.remove("stays")


def test_the_sync_twin_does_the_same(run_directory: Path) -> None:
    with SyncSandbox.create("twin", memory="512M", balloon=Balloon(min="128M"), weight=50) as box:
        assert box.exec(["cat"], stdin=b"\0\xff").stdout == b"\0\xff"
        assert b"".join(box.exec_stream(["seq", "3"])) == b"1\n2\n3\n"
        assert box.balloon.set("256M", wait=True).state == "applied"
        assert box.balloon.get().actual_mib == 256
        assert next(box.balloon.watch()).target_mib == 256
        assert box.metrics().guest.total_mib is not None
        assert box.balloon.trim().complete in (True, False)
        (change,) = box.modify(weight=70)
        assert (change.old, change.new, change.state) == (50, 70, "done")
        assert box.record().weight == 70
        box.fs.write("/tmp/x/y", "text", parents=True)
        assert box.fs.read("/tmp/x/y") == b"text"
        assert [info.name for info in box.fs.list("/tmp/x")] == ["y"]
    assert "twin" not in [record.name for record in SyncSandbox.list()]


@pytest.mark.parametrize(
    "create",
    [
        lambda: SyncSandbox.create("bad", memory=1.5),  # type: ignore[arg-type]
        lambda: SyncSandbox.create("bad", memory="lots"),
        lambda: SyncSandbox.create("bad", balloon="yes"),  # type: ignore[arg-type]
        lambda: SyncSandbox.create("bad", balloon=Balloon(initial=True)),
        lambda: SyncSandbox.create("bad", balloon=Balloon(min=600)),
        lambda: SyncSandbox.create("bad", command="sleep 1"),
        lambda: SyncSandbox.create(None),  # type: ignore[arg-type]
        lambda: SyncSandbox.create("bad", reserve=-1),
        lambda: SyncSandbox.create("bad", weight=1.5),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_or_size_is_our_error(run_directory: Path, create: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        create()
    assert "bad" not in [record.name for record in SyncSandbox.list()]
