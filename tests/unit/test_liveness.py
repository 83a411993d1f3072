"""Who lives, by processes alone; and what prune does with what nobody accounts for. With real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ballonet.base.errors import HostError, NameInUseError, NotRunningError
from ballonet.base.paths import private_dir, sandbox_dir_path, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import prune as strays
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle import stop
from ballonet.lifecycle.liveness import helpers, left_over, living
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import remove_sandbox
from ballonet.machine import run_directory
from ballonet.machine.notes import END_NOTE, MACHINE_NOTE, MachineNote
from ballonet.machine.run_directory import claim_run_directory, remove_abandoned
from ballonet.machine.run_options import RUN_VARIABLE
from ballonet.settings.config import SandboxConfig
from tests.unit.own_host import own_directories, sandbox_process

DEAD = ProcessId(1, 1, "an earlier boot")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    own_directories(tmp_path, monkeypatch)
    return Registry.open()


@pytest.fixture
def sleeper(registry: Registry) -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for an engine: it has the mark of a run, and no sandbox's process above it."""
    env = {**os.environ, RUN_VARIABLE: f"run1 {state_dir_of('box')}"}
    child = subprocess.Popen(["sleep", "600"], env=env)
    yield child
    child.kill()
    child.wait()


def begun(registry: Registry) -> None:
    lifecycle.create(registry, SandboxConfig(name="box"))
    assert registry.begin_run("box", "run1", DEAD)


def test_a_sandbox_is_not_dead_while_its_engine_lives(
    registry: Registry, sleeper: subprocess.Popen[bytes]
) -> None:
    """Its own process was killed, and its engine, which follows, is not gone yet: its disk is still written."""
    begun(registry)
    engine = ProcessId.of(sleeper.pid)
    MachineNote(run_id="run1", process=DEAD, engine=engine, ready=True).write(state_dir_of("box"))
    assert lifecycle.find(registry, "box").state is State.RUNNING
    asyncio.run(remove_sandbox(registry, "box", force=True))
    assert sleeper.wait(10) == -9, "force ends it"
    assert registry.find("box") is None


def dies_after_being_found(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, engine: subprocess.Popen[bytes], times: int
) -> None:
    """What lives when ``module`` finds the sandbox for the last of so many times has ended before it looks again."""
    found = 0

    def find_and_die(registry: Registry, name: str) -> Record:
        nonlocal found
        record, found = find(registry, name), found + 1
        if found == times:
            engine.kill()
            engine.wait()
        return record

    find = lifecycle.find
    monkeypatch.setattr(module, "find", find_and_die)


def test_the_run_directory_is_removed_if_the_end_comes_between_two_looks(
    registry: Registry, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle.create(registry, SandboxConfig(name="box"))
    run_dir = sandbox_dir_path("box")
    assert registry.begin_run("box", "run1", DEAD, run_dir=run_dir)
    private_dir(run_dir.parent)
    private_dir(run_dir)
    (run_dir / "agent.sock.lock").write_bytes(b"")
    engine = ProcessId.of(sleeper.pid)
    MachineNote(run_id="run1", process=DEAD, engine=engine, ready=True).write(state_dir_of("box"))
    dies_after_being_found(monkeypatch, stop, sleeper, 2)
    asyncio.run(remove_sandbox(registry, "box", force=True))
    assert registry.find("box") is None
    assert not run_dir.exists()


def test_one_that_ends_between_two_looks_is_not_said_to_be_running(
    registry: Registry, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(registry)
    engine = ProcessId.of(sleeper.pid)
    MachineNote(run_id="run1", process=DEAD, engine=engine, ready=True).write(state_dir_of("box"))
    dies_after_being_found(monkeypatch, lifecycle, sleeper, 1)
    with pytest.raises(NotRunningError, match="sandbox 'box' is stopped") as caught:
        lifecycle.find_running(registry, "box")
    assert caught.value.hint == "start it: ballonet start box"


def test_a_note_that_is_gone_is_stood_in_for_by_the_row(registry: Registry) -> None:
    begun(registry)
    registry.update("box", process=ProcessId.current(), state=State.RUNNING, started_at=5.0)
    note = living(registry.get("box"))
    assert note is not None
    assert (note.process, note.ready, note.started_at) == (ProcessId.current(), True, 5.0)
    registry.update("box", process=DEAD)
    assert living(registry.get("box")) is None


def test_an_engine_that_nobody_can_reach_is_ended_by_prune(
    registry: Registry, sleeper: subprocess.Popen[bytes]
) -> None:
    assert sleeper.pid in [helper.process.pid for helper in helpers()]
    assert [helper.run_id for helper in left_over([]) if helper.process.pid == sleeper.pid] == ["run1"]
    done = asyncio.run(strays.prune(registry))
    assert f"ended sleep (pid {sleeper.pid}), left by sandbox box" in done
    assert sleeper.wait(10) == -9


def test_another_registrys_are_left_alone(
    registry: Registry, sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    with Registry.open() as other:
        assert asyncio.run(strays.prune(other)) == []
    assert sleeper.poll() is None


def test_files_of_one_that_lives_are_never_removed(registry: Registry) -> None:
    directory = private_dir(private_dir(state_dir_of("box").parent) / "box")
    MachineNote(run_id="run1", process=ProcessId.current()).write(directory)
    assert asyncio.run(strays.prune(registry)) == []
    with pytest.raises(NameInUseError, match="is not in the registry"):
        lifecycle.create(registry, SandboxConfig(name="box"))
    assert directory.is_dir()
    assert registry.find("box") is None


def test_a_late_removal_does_not_take_the_next_ones_files(registry: Registry) -> None:
    """Two programs see an end at once; one removes it, another is made of that name, and then the second is at it."""
    lifecycle.create(registry, SandboxConfig(name="box"), auto_remove=True)
    registry.begin_run("box", "run1", DEAD)
    seen = registry.get("box")
    assert lifecycle.refresh(registry, seen) is None
    lifecycle.create(registry, SandboxConfig(name="box"))
    (state_dir_of("box") / "disk.img").write_bytes(b"new")
    assert lifecycle.refresh(registry, seen) is None
    assert (state_dir_of("box") / "disk.img").read_bytes() == b"new"
    assert registry.get("box").state is State.CREATED


def test_one_registrys_sandbox_never_runs_twice_whatever_its_run_directory(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = private_dir(private_dir(state_dir_of("box").parent) / "box")
    first = claim_run_directory("box", None, with_control=False, state_dir=state)
    monkeypatch.setenv("BALLONET_RUN_DIR", str(tmp_path / "other"))
    with pytest.raises(NameInUseError):
        claim_run_directory("box", None, with_control=False, state_dir=state)
    assert not remove_abandoned(first.path), "it lives"
    first.release()
    second = claim_run_directory("box", None, with_control=False, state_dir=state)
    second.release()


def test_a_place_whose_directory_cannot_come_back_moves(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a logout that took /run/user/UID away: a plain user cannot make that again."""
    monkeypatch.setattr(run_directory, "fallback_run_dirs", lambda: [tmp_path / "fallback"])
    place = claim_run_directory("box", None, with_control=True)
    was = place.path
    assert place.intact()
    for path in (was.parent, *was.parent.rglob("*")):
        assert path.exists()
    subprocess.run(["rm", "-r", str(was.parent)], check=True)
    was.parent.write_text("in the way")
    assert not place.intact()
    place.repair()
    assert place.path == tmp_path / "fallback" / "box"
    place.agent.rebind().close()
    assert place.control is not None
    place.control.rebind().close()
    assert place.intact()
    assert place.control_path == place.path / "control.sock"
    place.release()
    assert not place.path.exists()


def test_without_any_directory_it_says_so_and_can_be_tried_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "fallback_run_dirs", list)
    place = claim_run_directory("box", None, with_control=False)
    run = place.path.parent
    subprocess.run(["rm", "-r", str(run)], check=True)
    run.write_text("in the way")
    with pytest.raises(HostError, match="cannot be created again"):
        place.repair()
    run.unlink()
    place.repair()
    place.agent.rebind().close()
    assert place.intact()
    place.release()


def test_a_sandboxs_own_process_is_found_by_its_command_line(registry: Registry) -> None:
    """It is not up yet, has written nothing, and its starter was killed before the registry knew it."""
    begun(registry)
    with sandbox_process("box") as child:
        note = living(registry.get("box"))
        assert note is not None
        assert note.process.pid == child.pid
        assert lifecycle.find(registry, "box").state is State.STARTING
    assert lifecycle.find(registry, "box").state is State.STOPPED


def test_an_engine_that_was_not_noted_yet_is_not_dead(
    registry: Registry, sleeper: subprocess.Popen[bytes]
) -> None:
    """Its sandbox's process was killed just after it had started it."""
    begun(registry)
    MachineNote(run_id="run1", process=DEAD).write(state_dir_of("box"))
    note = living(registry.get("box"))
    assert note is not None
    assert note.engine_pid == sleeper.pid
    asyncio.run(remove_sandbox(registry, "box", force=True))
    assert sleeper.wait(10) == -9


@pytest.mark.parametrize("note_is_left", [True, False])
def test_one_without_a_note_is_reached_where_it_is_and_not_where_we_would_be(
    registry: Registry, tmp_path: Path, note_is_left: bool
) -> None:
    """As one that an earlier version has started, seen with another run directory: its note lies in its own."""
    begun(registry)
    registry.update("box", state=State.RUNNING)
    run_dir = private_dir(private_dir(tmp_path / "its own") / "box")
    words = ["--run-id", "run1", "--state-dir", str(state_dir_of("box"))]
    words += ["--name", "box", "--cpus=1", "--memory-mib=256", "--balloon-min-mib=128"]
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', "
        "'import time; print(flush=True); time.sleep(600)', '-name', 'guest=box,debug-threads=on'])\n"
        "print(child.pid, flush=True); child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "-m", "ballonet", "sandbox", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BALLONET_RUN_DIR": str(run_dir.parent)},
    )
    engine = 0
    try:
        assert process.stdout is not None
        engine = int("".join([process.stdout.readline(), process.stdout.readline()]))
        identity = ProcessId.of(process.pid)
        assert identity is not None
        if note_is_left:
            said = {
                "run_id": "run1",
                "process": identity.to_json(),
                "engine_pid": 1,
                "ready": True,
                "boot_s": 2.5,
            }
            said["control_socket"] = str(run_dir / "control.sock")
            (run_dir / "machine.json").write_text(json.dumps(said))
        note = living(registry.get("box"))
        assert note is not None
        assert (note.process, note.engine_pid, note.ready) == (identity, engine, True)
        assert note.agent_socket == run_dir / "agent.sock"
        assert note.control_socket == str(run_dir / "control.sock")
        assert note.boot_s == (2.5 if note_is_left else None)
    finally:
        if engine:
            os.kill(engine, signal.SIGKILL)
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "damage",
    [
        {"flags": ["--unknown"]},
        {"flags": [1]},
        {"control_socket": 17},
        {"run_dir": None},
        {"started_at": "soon"},
    ],
)
def test_a_note_with_nonsense_in_it_is_stood_in_for(registry: Registry, damage: dict[str, object]) -> None:
    begun(registry)
    registry.update("box", process=ProcessId.current(), state=State.RUNNING, started_at=5.0)
    MachineNote(run_id="run1", process=ProcessId.current(), ready=True).write(state_dir_of("box"))
    path = state_dir_of("box") / MACHINE_NOTE
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **damage}))
    note = living(registry.get("box"))
    assert note is not None
    assert (note.started_at, note.flags) == (5.0, registry.get("box").flags)


@pytest.mark.parametrize("damage", [{"detail": ["x"]}, {"reason": 5}, {"exit_code": "0"}, {"ended_at": None}])
def test_an_end_with_nonsense_in_it_holds_up_no_look(registry: Registry, damage: dict[str, object]) -> None:
    begun(registry)
    end = {"run_id": "run1", "reason": "stopped", "detail": "x", "exit_code": None, "ended_at": 1.0, **damage}
    (state_dir_of("box") / END_NOTE).write_text(json.dumps(end))
    (record,) = lifecycle.list_sandboxes(registry)
    assert (record.state, record.end_reason) == (State.STOPPED, "killed")


def test_what_lies_in_the_way_in_a_run_directory_holds_up_no_look(registry: Registry, tmp_path: Path) -> None:
    begun(registry)
    directory = private_dir(private_dir(tmp_path / "run") / "box")
    (directory / "agent.sock").mkdir()
    registry.update("box", run_dir=directory)
    assert [record.state for record in lifecycle.list_sandboxes(registry)] == [State.STOPPED]
    assert run_directory.prune_run_directories() == []
    asyncio.run(remove_sandbox(registry, "box", force=True))
    assert (directory / "agent.sock").is_dir(), "it is somebody else's"


@pytest.mark.parametrize("socket", ["agent.sock", "control.sock"])
def test_a_place_in_which_something_is_in_the_way_moves(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, socket: str
) -> None:
    monkeypatch.setattr(run_directory, "fallback_run_dirs", lambda: [tmp_path / "fallback"])
    place = claim_run_directory("box", None, with_control=True)
    was = place.path
    (was / socket).unlink()
    (was / socket).mkdir()
    assert not place.intact()
    place.repair()
    place.agent.rebind().close()
    assert place.control is not None
    place.control.rebind().close()
    assert place.intact()
    assert place.path == tmp_path / "fallback" / "box"
    assert [path.name for path in was.iterdir()] == [socket], "nothing of ours is left there"
    place.release()


@pytest.mark.parametrize("gone", ["directory", "socket", "link"])
def test_a_control_socket_whose_path_is_lost_is_reached_by_name(
    registry: Registry, tmp_path: Path, gone: str
) -> None:
    chosen = private_dir(tmp_path / "chosen") / "c.sock"
    place = claim_run_directory("box", chosen, with_control=True)
    by_name = place.path / "control.sock"
    if gone == "directory":
        subprocess.run(["rm", "-r", str(chosen.parent)], check=True)
    elif gone == "socket":
        chosen.unlink()
        chosen.write_text("in the way")
    else:
        by_name.unlink()
    assert not place.intact()
    place.repair()
    if gone != "link":
        assert place.control is not None
        place.control.rebind().close()
    assert place.intact()
    assert place.control_path == (chosen if gone == "link" else by_name)
    assert by_name.resolve() == place.control_path
    place.release()
    assert not place.path.exists()
    assert gone != "socket" or chosen.read_text() == "in the way"


def test_files_that_are_no_directory_are_removed_too(registry: Registry, tmp_path: Path) -> None:
    lifecycle.create(registry, SandboxConfig(name="box"))
    directory = state_dir_of("box")
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    asyncio.run(remove_sandbox(registry, "box"))
    assert list(directory.parent.iterdir()) == []
    assert (tmp_path / "elsewhere").is_dir()
