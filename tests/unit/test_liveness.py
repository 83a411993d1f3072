"""Who lives, by processes alone; and what prune does with what nobody accounts for. With real processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet import lifecycle, strays
from ballonet.config import SandboxConfig
from ballonet.errors import HostError, NameInUseError
from ballonet.host.identity import ProcessId
from ballonet.liveness import helpers, left_over, living
from ballonet.machine import place as place_module
from ballonet.machine.notes import MachineNote
from ballonet.machine.place import claim_place, sweep_place
from ballonet.machine.run_options import RUN_VARIABLE
from ballonet.paths import private_dir, state_dir_of
from ballonet.registry.record import State
from ballonet.registry.registry import Registry

DEAD = ProcessId(1, 1, "an earlier boot")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("BALLONET_RUN_DIR", str(tmp_path / "run"))
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
    asyncio.run(lifecycle.remove(registry, "box", force=True))
    assert sleeper.wait(10) == -9, "force ends it"
    assert registry.find("box") is None


def test_a_note_that_is_gone_is_stood_in_for_by_the_row(registry: Registry) -> None:
    begun(registry)
    registry.update("box", process=ProcessId.ours(), state=State.RUNNING, started_at=5.0)
    note = living(registry.get("box"))
    assert note is not None
    assert (note.process, note.ready, note.started_at) == (ProcessId.ours(), True, 5.0)
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
    MachineNote(run_id="run1", process=ProcessId.ours()).write(directory)
    assert asyncio.run(strays.prune(registry)) == []
    with pytest.raises(NameInUseError, match="does not know"):
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
    first = claim_place("box", None, with_control=False, state_dir=state)
    monkeypatch.setenv("BALLONET_RUN_DIR", str(tmp_path / "other"))
    with pytest.raises(NameInUseError):
        claim_place("box", None, with_control=False, state_dir=state)
    assert not sweep_place(first.directory), "it lives"
    first.give_up()
    second = claim_place("box", None, with_control=False, state_dir=state)
    second.give_up()


def test_a_place_whose_directory_cannot_come_back_moves(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a logout that took /run/user/UID away: a plain user cannot make that again."""
    monkeypatch.setattr(place_module, "fallback_run_dirs", lambda: [tmp_path / "fallback"])
    place = claim_place("box", None, with_control=True)
    was = place.directory
    assert place.intact()
    for path in (was.parent, *was.parent.rglob("*")):
        assert path.exists()
    subprocess.run(["rm", "-r", str(was.parent)], check=True)
    was.parent.write_text("in the way")
    assert not place.intact()
    place.mend()
    assert place.directory == tmp_path / "fallback" / "box"
    place.agent.rebind().close()
    assert place.control is not None
    place.control.rebind().close()
    assert place.intact()
    assert place.control_path == place.directory / "control.sock"
    place.give_up()
    assert not place.directory.exists()


def test_without_any_directory_it_says_so_and_can_be_tried_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_module, "fallback_run_dirs", list)
    place = claim_place("box", None, with_control=False)
    run = place.directory.parent
    subprocess.run(["rm", "-r", str(run)], check=True)
    run.write_text("in the way")
    with pytest.raises(HostError, match="cannot be made again"):
        place.mend()
    run.unlink()
    place.mend()
    place.agent.rebind().close()
    assert place.intact()
    place.give_up()


def test_a_sandboxs_own_process_is_found_by_its_command_line(registry: Registry) -> None:
    """It is not up yet, has written nothing, and its starter was killed before the registry knew it."""
    begun(registry)
    words = ["--run-id", "run1", "--state-dir", str(state_dir_of("box")), "--name", "box"]
    code = "import time; print(flush=True); time.sleep(600)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "-m", "ballonet", "sandbox", *words], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        note = living(registry.get("box"))
        assert note is not None
        assert note.process.pid == child.pid
        assert lifecycle.find(registry, "box").state is State.STARTING
    finally:
        child.kill()
        child.communicate()
    assert lifecycle.find(registry, "box").state is State.STOPPED
