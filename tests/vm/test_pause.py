"""Paused sandboxes: their processes continue where they were, and nothing of them is in memory meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import (
    ConfigError,
    GuestPausedError,
    HostError,
    NotRunningError,
    ResumeError,
    StillRunningError,
)
from ballonet.base.paths import state_dir, state_dir_of
from ballonet.control.client import Client
from ballonet.lifecycle.liveness import helpers, machines
from ballonet.lifecycle.record import State
from ballonet.machine.output_log import read_entries
from ballonet.machine.paused_file import PAUSED_FILE, PENDING_SUFFIX
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from tests.vm.processes import alive, wait_until
from tests.vm.test_templates import charged_bytes, memory_controller, when_it_restores

WAIT_S = 120
#: Counts as quickly as it can be followed, with the guest's uptime.
COUNTER = [
    "sh",
    "-c",
    "i=0; while true; do echo $i $(cut -d' ' -f1 /proc/uptime); i=$((i+1)); sleep 0.05; done",
]
CLI = [sys.executable, "-P", "-m", "ballonet"]


@pytest.fixture(autouse=True)
def _directories(guest: object, run_directory: Path) -> None:
    """The run directory of the tests."""


@pytest.fixture
def name() -> Iterator[str]:
    """A sandbox of that name is removed at the end."""
    chosen = f"pause-{os.urandom(3).hex()}"
    yield chosen
    subprocess.run([*CLI, "rm", "--force", chosen], capture_output=True, check=False, timeout=WAIT_S)
    assert not state_dir_of(chosen).exists()


def counted(name: str) -> list[int]:
    """What the counter has written to the log."""
    return [int(entry.content.split()[0]) for entry in read_entries(state_dir_of(name))]


def counts_on(name: str, beats: int = 5) -> list[int]:
    """What it has written, once it has counted that much further."""
    most = len(counted(name)) + beats
    wait_until(lambda: len(counted(name)) >= most, "the counter counts", WAIT_S)
    return counted(name)


def assert_nothing_in_memory(name: str, *pids: int) -> None:
    assert not any(alive(pid) for pid in pids)
    directory = state_dir_of(name)
    assert [helper for helper in helpers() if helper.state_dir == directory] == []
    assert [machine for machine in machines() if machine.options.state_dir == directory] == []


def saved_at(name: str) -> Path:
    return state_dir_of(name) / PAUSED_FILE


def listed(name: str) -> dict[str, object]:
    """Its row in ``ls --json``."""
    done = subprocess.run([*CLI, "ls", "--json"], capture_output=True, check=True, timeout=WAIT_S)
    return next(row for row in json.loads(done.stdout) if row["name"] == name)


async def check_a_counter(name: str, rounds: int) -> None:
    box = await Sandbox.create(name, memory="192M", command=COUNTER, detached=True)
    await asyncio.to_thread(counts_on, name)
    for _ in range(rounds):
        pids = (box.pid, box.engine_pid)
        await box.pause()
        assert_nothing_in_memory(name, *pids)
        assert box.record().state is State.PAUSED
        asleep = counted(name)
        await box.resume()
        awake = await asyncio.to_thread(counts_on, name)
        assert awake == list(range(len(awake))), "it neither jumps nor loses a beat"
        assert len(awake) > len(asleep)
        assert not saved_at(name).exists(), "what was saved is not kept"
    lines = [entry.content.split()[1] for entry in read_entries(state_dir_of(name))]
    assert lines == sorted(lines, key=float), "the monotonic clock continues"
    done = await box.shell(
        "before=$(cut -d. -f1 /proc/uptime); sleep 2; cut -d. -f1 /proc/uptime; echo $before; date +%s"
    )
    after, before, date = map(int, done.stdout.split())
    assert 1 <= after - before <= 20
    assert abs(date - time.time()) <= 5
    await box.stop()


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.extended)])
async def test_a_command_continues_with_no_beat_lost(name: str, rounds: int) -> None:
    await check_a_counter(name, rounds)


async def test_a_paused_sandbox_is_shown_and_the_next_command_wakes_it(name: str, tmp_path: Path) -> None:
    box = await Sandbox.create(name, memory="192M", disk="64M", detached=True)
    await box.shell("echo kept > /disk/note; (sleep 1000 & echo $! > /run/sleeper)")
    # Open, written and not synchronised, and removed: only memory has it.
    await box.shell("(exec 3>/disk/open; echo open >&3; rm /disk/open; sleep 2000) >/dev/null 2>&1 &")
    subprocess.run([*CLI, "pause", name], check=True, timeout=WAIT_S, capture_output=True)
    row = listed(name)
    assert (row["state"], row["pid"]) == ("paused", None)
    assert isinstance(row["saved_mib"], int)
    assert 10 < row["saved_mib"] < 192
    table = subprocess.run([*CLI, "ls"], capture_output=True, text=True, check=True).stdout
    assert f"{row['saved_mib']}M saved" in table
    metrics = subprocess.run([*CLI, "metrics"], capture_output=True, text=True, check=True).stdout
    assert f'ballonet_sandbox_state{{sandbox="{name}",state="paused"}} 1.0' in metrics
    again = subprocess.run([*CLI, "pause", name], capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert again.stdout == f"{name}\n", "pausing a paused one is no error"

    script = "cat /disk/note; kill -0 $(cat /run/sleeper) && echo alive; cat /proc/[0-9]*/fd/3 2>/dev/null | head -1"
    done = subprocess.run(
        [*CLI, "exec", name, "sh", "-c", script], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout.splitlines()[:2]) == (0, ["kept", "alive"]), done.stderr
    assert listed(name)["state"] == "running"

    subprocess.run([*CLI, "pause", name], check=True, timeout=WAIT_S, capture_output=True)
    (tmp_path / "file").write_text("copied")
    subprocess.run([*CLI, "cp", str(tmp_path / "file"), f"{name}:/disk/file"], check=True, timeout=WAIT_S)
    assert listed(name)["state"] == "running"
    await box.pause()
    assert (await box.exec(["cat", "/disk/file"])).stdout == b"copied", "an object wakes it, too"
    await box.pause()
    # Two at once: one resumes it, the other waits.
    both = [subprocess.Popen([*CLI, "exec", name, "hostname"], stdout=subprocess.PIPE) for _ in range(2)]
    for one in both:
        out, _ = await asyncio.to_thread(one.communicate, timeout=WAIT_S)
        assert out == f"{name}\n".encode()


async def test_commands_of_clients_keep_a_sandbox_awake_unless_forced(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", command=COUNTER, detached=True)
    async with await box.exec_stream(["sleep", "1000"]) as sleeping:
        with pytest.raises(StillRunningError, match="a command is running in it") as refused:
            await (await Sandbox.get(name)).pause()
        assert "--force" in str(refused.value.hint)
        assert sleeping.running
        await (await Sandbox.get(name)).pause(force=True)
        with pytest.raises(GuestPausedError, match="was paused"):
            await sleeping.wait()
    assert (await box.shell("pidof sleep | wc -w; ps | grep -c '[s]leep 1000'")).stdout.split()[1] == b"0"
    numbers = await asyncio.to_thread(counts_on, name)
    assert numbers == list(range(len(numbers)))


async def test_the_balloon_moves_after_a_resume_and_has_its_target_and_limit(name: str) -> None:
    box = await Sandbox.create(name, memory="512M", balloon=Balloon(min="96M"), detached=True)
    await box.balloon.set("300M", wait=True)
    await box.balloon.limit("400M")
    await box.pause()
    await box.resume()
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as client:
        async with asyncio.timeout(WAIT_S):
            while (balloon := await client.get()).state == "converging":
                await asyncio.sleep(0.1)
        assert (balloon.target_mib, balloon.actual_mib, balloon.limit_mib) == (300, 300, 400)
        assert balloon.driver == "present"
        for target in (150, 400):
            reply = await client.set(target, wait=True, timeout_s=WAIT_S, force=True)
            assert (reply.actual_mib, reply.state) == (target, "applied")


@pytest.mark.skipif(memory_controller() is None, reason="this host has no writable memory controller")
async def test_a_sandbox_with_a_hard_cap_is_resumed_under_it(name: str) -> None:
    box = await Sandbox.create(name, memory="512M", balloon=Balloon(hard_cap=True), detached=True)
    await box.shell(
        "dd if=/dev/urandom of=/dev/shm/much bs=1M count=100; md5sum /dev/shm/much > /dev/shm/sum"
    )
    await box.pause()
    await box.resume()
    assert charged_bytes(name) >= 100 << 20
    assert (await box.shell("md5sum -c /dev/shm/sum")).returncode == 0


async def test_a_published_port_stays_and_serves_again(name: str) -> None:
    serve = ["sh", "-c", "while true; do echo hello | nc -l -p 80; done"]
    box = await Sandbox.create(name, memory="192M", command=serve, ports=["0:80"], detached=True)
    (port,) = box.ports
    await asyncio.to_thread(wait_until, lambda: answers(port.host), "the port answers", WAIT_S)
    await box.pause()
    await box.resume()
    assert box.ports == (port,)
    await asyncio.to_thread(wait_until, lambda: answers(port.host), "the port answers again", WAIT_S)
    await box.pause()
    with socket.create_server(("127.0.0.1", port.host)):
        await box.resume()
        assert box.ports[0].host != port.host, "it was taken meanwhile"


async def test_a_resume_whose_network_fails_leaves_it_paused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await Sandbox.create(name, memory="192M", disk="64M", net="user", command=COUNTER, detached=True)
    await box.shell("(while true; do date >> /disk/dates; done) >/dev/null 2>&1 &")
    await asyncio.to_thread(counts_on, name)
    await box.pause()
    broken = tmp_path / "slirp4netns"
    # Long enough for a guest that does not wait for its network to write.
    broken.write_text("#!/bin/sh\nsleep 5\necho no network today >&2\nexit 3\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(HostError, match="it ended with status 3: no network today"):
            await box.resume()
    assert box.record().state is State.PAUSED
    await box.resume()
    awake = await asyncio.to_thread(counts_on, name)
    assert awake == list(range(len(awake)))


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(100) == b"hello\n"
    except OSError:
        return False


async def test_a_sandbox_with_a_volume_is_refused_before_anything_happens(name: str, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    volumes = [f"{tmp_path}/shared:/shared"]
    box = await Sandbox.create(name, memory="192M", command=COUNTER, volumes=volumes, detached=True)
    with pytest.raises(ConfigError, match=r"has volumes: QEMU [\d.]+ cannot save virtiofs"):
        await box.pause()
    numbers = await asyncio.to_thread(counts_on, name)
    assert numbers == list(range(len(numbers)))


async def test_a_paused_sandbox_of_another_engine_is_refused_with_both_versions(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", command=COUNTER, detached=True)
    await box.pause()
    with saved_at(name).open("r+b") as file:
        header = json.loads(file.readline())
        header |= {"engine": "QEMU 6.0.1", "key": "0" * 64}
        line = json.dumps(header).encode() + b"\n"
        file.seek(0)
        file.write(line.ljust(4096, b"\0"))
    with pytest.raises(ResumeError, match=r"made with QEMU 6\.0\.1, .* here is QEMU \d+\.\d+") as refused:
        await box.resume()
    assert f"start --cold {name}" in str(refused.value.hint)
    assert box.record().state is State.PAUSED, "it stays as it is"
    assert "QEMU 6.0.1" in str(box.record().end_detail)
    done = subprocess.run([*CLI, "exec", name, "true"], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 125
    assert "QEMU 6.0.1" in done.stderr
    before = len(counted(name))
    cold = await Sandbox.start(name, cold=True)
    assert not saved_at(name).exists()
    await asyncio.to_thread(counts_on, name)
    assert counted(name)[before] == 0, "it has begun again"
    await cold.stop()


async def test_stop_discards_what_was_paused_and_rm_removes_it(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", command=COUNTER, detached=True)
    await asyncio.to_thread(counts_on, name)
    await box.pause()
    waiting = subprocess.Popen([*CLI, "wait", name], stdout=subprocess.PIPE)
    ended = await box.stop()
    assert ended.reason == "stopped"
    assert "paused" in ended.detail
    assert not saved_at(name).exists()
    assert b"stopped" in (await asyncio.to_thread(waiting.communicate, timeout=WAIT_S))[0]
    with pytest.raises(NotRunningError, match="stopped"):
        await box.resume()
    box = await Sandbox.start(name)
    await box.pause()
    await Sandbox.remove(name)
    assert not state_dir_of(name).exists()


async def test_an_owned_sandbox_that_is_paused_stays_owned(name: str) -> None:
    async with await Sandbox.create(name, memory="192M") as box:
        await box.exec(["touch", "/run/here"])
        await box.pause()
        assert (await box.exec(["test", "-e", "/run/here"])).returncode == 0
        pids = (box.pid, box.engine_pid)
        assert all(map(alive, pids))
    assert_nothing_in_memory(name, *pids)
    async with await Sandbox.create(name, memory="192M") as box:
        await box.pause()
    assert not state_dir_of(name).exists()


def part_is(size: int) -> Callable[[str], bool]:
    def reached(name: str) -> bool:
        part = saved_at(name).with_name(PAUSED_FILE + PENDING_SUFFIX)
        return part.exists() and part.stat().st_size > size

    return reached


#: When the sandbox's process is killed: as soon as this is seen.
MOMENTS: dict[str, Callable[[str], bool]] = {
    "claimed": part_is(-1),
    "begun": part_is(1),
    "half": part_is(20 << 20),
    "named": lambda name: saved_at(name).exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_kill_during_a_pause_leaves_it_paused_or_ended(name: str, moment: str) -> None:
    box = await Sandbox.create(name, memory="192M", disk="64M", command=COUNTER, detached=True)
    await asyncio.to_thread(counts_on, name)
    pids = (box.pid, box.engine_pid)
    pausing = subprocess.Popen([*CLI, "pause", name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    await asyncio.to_thread(wait_until, lambda: MOMENTS[moment](name), moment, WAIT_S)
    os.kill(pids[0], signal.SIGKILL)
    _, said = await asyncio.to_thread(pausing.communicate, timeout=WAIT_S)
    await asyncio.to_thread(wait_until, lambda: not any(map(alive, pids)), "both are gone", WAIT_S)
    assert b"Traceback" not in said
    state = box.record().state
    assert state is (State.PAUSED if saved_at(name).exists() else State.STOPPED)
    if moment == "named":
        assert state is State.PAUSED
    assert not part_is(-1)(name), "nothing is left half-written"
    if state is State.PAUSED:
        await box.resume()
        numbers = await asyncio.to_thread(counts_on, name)
        assert numbers == list(range(len(numbers)))
    else:
        await Sandbox.start(name)
        await asyncio.to_thread(counts_on, name)


async def test_a_kill_during_a_resume_leaves_it_paused_or_ended(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", disk="64M", command=COUNTER, detached=True)
    await asyncio.to_thread(counts_on, name)
    await box.pause()
    resuming = subprocess.Popen([*CLI, "resume", name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    engine, machine = await asyncio.to_thread(when_it_restores, name)
    os.kill(machine, signal.SIGKILL)
    _, said = await asyncio.to_thread(resuming.communicate, timeout=WAIT_S)
    await asyncio.to_thread(wait_until, lambda: not alive(engine), "the engine is gone", WAIT_S)
    assert b"Traceback" not in said
    assert box.record().state is State.PAUSED, "its guest had not run"
    await box.resume()
    numbers = await asyncio.to_thread(counts_on, name)
    assert numbers == list(range(len(numbers)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_a_disk_that_is_full_half_way_leaves_a_sandbox_that_runs(name: str) -> None:
    sandboxes = state_dir() / "sandboxes"
    sandboxes.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(sandboxes)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        box = await Sandbox.create(name, memory="192M", command=COUNTER, detached=True)
        await asyncio.to_thread(counts_on, name)
        target_before = (await box.balloon.get()).target_mib
        with pytest.raises(HostError, match=r"was not paused: .* cannot be written: No space left") as full:
            await box.pause()
        assert "free up space" in str(full.value.hint)
        assert not part_is(-1)(name)
        numbers = await asyncio.to_thread(counts_on, name)
        assert numbers == list(range(len(numbers)))
        assert (await box.exec(["true"])).returncode == 0
        assert (await box.balloon.get()).target_mib == target_before
        subprocess.run(["mount", "-o", "remount,size=200m", str(sandboxes)], check=True)
        await box.pause()
        await box.resume()
        numbers = await asyncio.to_thread(counts_on, name)
        assert numbers == list(range(len(numbers)))
        await Sandbox.remove(name, force=True)
    finally:
        subprocess.run(["umount", "-l", str(sandboxes)], check=True)


def ended_with(name: str) -> tuple[str, str]:
    row = listed(name)
    return str(row["state"]), str(row["end_detail"])


async def test_a_sandbox_that_is_idle_is_paused_and_one_that_is_used_is_not(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", idle_timeout="2s", detached=True)
    async with await box.exec_stream(["cat"], stdin=True) as used:
        for _ in range(3):  # longer than the timeout, with a command that waits
            await asyncio.sleep(1.5)
            assert listed(name)["state"] == "running"
        await used.close_stdin()
    await asyncio.to_thread(wait_until, lambda: listed(name)["state"] == "paused", "it is paused", WAIT_S)
    assert (await box.exec(["hostname"])).stdout == f"{name}\n".encode()
    changes = await box.modify(on_idle="stop", idle_timeout="3s")
    assert {(change.setting, change.state) for change in changes} == {
        ("idle_timeout", "done"),
        ("on_idle", "done"),
    }
    await box.touch()
    await asyncio.to_thread(wait_until, lambda: listed(name)["state"] != "running", "it is stopped", WAIT_S)
    assert ended_with(name) == ("stopped", "it was stopped: it was idle for 3s")


async def test_a_busy_guest_is_not_idle(name: str) -> None:
    busy = ["sh", "-c", "while true; do :; done"]
    box = await Sandbox.create(name, memory="192M", command=busy, idle_timeout="2s", detached=True)
    await asyncio.sleep(6)
    assert listed(name)["state"] == "running"
    await box.modify(idle_timeout=0)
    assert box.record().flags.count("--idle-timeout-s") == 0


async def test_the_time_to_live_goes_on_after_a_resume_without_the_time_asleep(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", ttl="1h", detached=True)
    await box.pause()
    await box.modify(ttl="4s")  # of a paused one: its processes keep their settings, but not this limit
    await asyncio.sleep(5)
    await box.resume()
    assert listed(name)["state"] == "running"
    await asyncio.to_thread(wait_until, lambda: listed(name)["state"] != "running", "it ends", WAIT_S)
    assert ended_with(name) == ("stopped", "it was stopped: it had run for 4s, its time to live")


async def until_served(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a program in the guest that returns what it gets; it may not listen yet."""
    async with asyncio.timeout(WAIT_S):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello\n")
            with contextlib.suppress(ConnectionResetError):
                if await reader.readline() == b"hello\n":
                    return reader, writer
            writer.close()


async def test_an_open_connection_keeps_a_sandbox_awake(name: str) -> None:
    serve = ["sh", "-c", "while true; do nc -l -p 80 -e cat; done"]
    box = await Sandbox.create(
        name, memory="192M", command=serve, ports=["0:80"], idle_timeout="2s", detached=True
    )
    reader, writer = await until_served(box.ports[0].host)
    for _ in range(3):
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        await asyncio.sleep(2.5)
        assert listed(name)["state"] == "running"
    writer.close()
    await asyncio.to_thread(wait_until, lambda: listed(name)["state"] == "paused", "it is paused", WAIT_S)


async def test_commands_and_pauses_at_the_same_time_do_not_disturb_each_other(name: str) -> None:
    box = await Sandbox.create(name, memory="192M", command=COUNTER, detached=True)
    words = [*CLI, "exec", name, "hostname"]
    for _ in range(2):
        pausing = subprocess.Popen(
            [*CLI, "pause", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        runs = []
        while pausing.poll() is None:
            runs.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
            assert (await box.exec(["hostname"])).stdout == f"{name}\n".encode()
            await asyncio.sleep(0.2)
        for one in runs:
            out, err = await asyncio.to_thread(one.communicate, timeout=WAIT_S)
            assert (one.returncode, out) == (0, f"{name}\n".encode()), err
    numbers = await asyncio.to_thread(counts_on, name)
    assert numbers == list(range(len(numbers)))
