"""Events of sandboxes: written with the change of a row, bounded, and read by id; without a virtual machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.events import EVENTS, Event, EventFilter, EventReader, dropped_up_to, look
from ballonet.lifecycle.own_events import copy_own_events
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.rename import rename_sandbox
from ballonet.lifecycle.sandboxes import forget, refresh
from ballonet.machine.event_file import EventFile, read_events
from ballonet.machine.notes import EVENT_FILE
from ballonet.sdk import sync

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]
ME = ProcessId.current()


def record(name: str, **more: object) -> Record:
    flags = ("--name", name, "--cpus", "1", "--memory-mib", "256")
    return Record(name=name, created_at=1.5, flags=flags, **more)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("XDG_STATE_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    return tmp_path


def events(since: int | None = None) -> list[Event]:
    return EventReader(since).read()


def kinds(since: int | None = None) -> list[str]:
    return [f"{event.sandbox} {event.event}" for event in events(since)]


def ballonet(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BALLONET, *words], capture_output=True, text=True, check=False)


def test_a_life_is_told_in_its_order(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("box", labels={"team": "web"}, image="debian"))
        registry.begin_run("box", "r1", ME)
        registry.update("box", if_run="r1", state=State.RUNNING, started_at=2.0)
        paused: dict[str, Any] = {
            "state": State.PAUSED,
            "ended_at": 3.0,
            "end_reason": "paused",
            "end_detail": None,
        }
        registry.update("box", if_run="r1", **paused)
        registry.begin_run("box", "r2", ME, resume=True)
        registry.update("box", if_run="r2", state=State.RUNNING, started_at=4.0)
        registry.update("box", if_run="r2", weight=7)
        ended: dict[str, Any] = {
            "ended_at": 5.0,
            "end_reason": "completed",
            "end_detail": "it ended",
            "exit_code": 3,
        }
        registry.update("box", if_run="r2", state=State.STOPPED, **ended)
        registry.begin_run("box", "r3", ME)
        registry.update(
            "box", if_run="r3", state=State.FAILED, ended_at=6.0, end_reason="failed", end_detail="no"
        )
        forget(registry, registry.get("box"))
    found = events()
    assert [event.event for event in found] == [
        *("created", "started", "paused", "resumed", "stopped", "failed", "removed")
    ]
    assert [event.id for event in found] == list(range(1, 8))
    assert [event.at for event in found[:6]] == [1.5, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert {(event.sandbox, event.image, event.labels["team"]) for event in found} == {
        ("box", "debian", "web")
    }
    stopped = found[4]
    assert (stopped.run_id, stopped.reason, stopped.detail, stopped.exit_code) == (
        "r2",
        "completed",
        "it ended",
        3,
    )
    assert (found[3].reason, found[3].exit_code) == (None, None), "not those of the run before"
    assert kinds(5) == ["box failed", "box removed"]
    assert set(kinds()) <= {f"box {kind}" for kind in EVENTS}


def test_a_sandbox_from_a_snapshot_is_started_first_and_resumed_later(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("fork"))
        registry.begin_run("fork", "r1", ME)
        registry.update("fork", if_run="r1", state=State.PAUSED)
        registry.begin_run("fork", "r2", ME, resume=True)
        registry.update("fork", if_run="r2", state=State.RUNNING, started_at=4.0)
        registry.update("fork", if_run="r2", state=State.PAUSED, end_reason="paused")
        registry.begin_run("fork", "r3", ME, resume=True)
        failed: dict[str, Any] = {
            "state": State.PAUSED,
            "end_reason": "failed",
            "end_detail": "no room",
            "ended_at": 5.0,
        }
        registry.update("fork", if_run="r3", **failed)
        registry.begin_run("fork", "r4", ME, resume=True)
        registry.update("fork", if_run="r4", state=State.RUNNING, started_at=6.0)
    expected = ["created", "started", "paused", "failed", "resumed", "stopped"]
    assert [event.event for event in events()] == expected, "the last one because it has no process"


def test_a_sandbox_that_is_removed_with_its_end_tells_both(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("box", auto_remove=True))
        registry.begin_run("box", "r1", ProcessId(pid=1 << 22, start_ticks=1, boot_id="gone"))
        registry.update("box", state=State.RUNNING, started_at=2.0)
        assert refresh(registry, registry.get("box")) is None
    found = events()
    assert [event.event for event in found] == ["created", "started", "stopped", "removed"]
    assert (found[2].reason, found[2].run_id) == ("killed", "r1")


def test_a_program_that_is_killed_leaves_the_change_and_its_event_or_neither(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("box"))
        registry.begin_run("box", "r1", ME)
    code = """
import os, signal
from ballonet.lifecycle.registry import Registry
with Registry.open() as registry, registry.transaction():
    registry.update("box", state="running", started_at=2.0)
    assert registry.execute("SELECT count(*) FROM events")[0][0] == 2
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    with Registry.open() as registry:
        assert registry.get("box").state is State.STARTING
        assert kinds() == ["box created"]
        registry.update("box", state=State.RUNNING, started_at=2.0)
    assert [(event.id, event.event) for event in events()][:2] == [(1, "created"), (2, "started")]


def test_ids_are_not_used_again(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("box"))
        registry.execute("DELETE FROM events")
        forget(registry, registry.get("box"))
    assert [(event.id, event.event) for event in events()] == [(2, "removed")]


def test_events_are_bounded_and_those_of_memory_do_not_displace_others(home: Path) -> None:
    insert = "INSERT INTO events (at, event, sandbox, labels) VALUES (1.0, ?, 'box', '{}')"
    with Registry.open() as registry:
        registry.add(record("first"))
        with registry.transaction():
            for _ in range(12_000):
                registry.execute(insert, ["resized"])
        assert 5000 <= len(events()) <= 5001 + 256
        assert events()[0].event == "created"
        assert dropped_up_to(registry) > 6000
        with registry.transaction():
            for _ in range(10_300):
                registry.execute(insert, ["stopped"])
        found = events()
        assert 15_000 <= len(found) <= 15_000 + 512
        assert found[0].sandbox == "box"
        newest = found[-1].id
    assert EventReader(newest).dropped_up_to is None
    assert EventReader(3).dropped_up_to is not None


def test_readers_see_every_event_of_many_writers_once_and_in_order(home: Path) -> None:
    with Registry.open():
        pass

    def write(number: int) -> None:
        with Registry.open() as own:
            for at in range(10):
                own.add(record(f"box-{number}-{at}"))

    reader, found = EventReader(), []
    threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += reader.read()
    found += reader.read()
    assert [event.id for event in found] == list(range(1, 81))
    assert len({event.sandbox for event in found}) == 80


def test_events_of_the_process_are_copied_once(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("box", labels={"team": "web"}))
        registry.update("box", state=State.STOPPED)
        directory = state_dir_of("box")
        directory.mkdir(parents=True)
        file = EventFile(directory, "r1")
        file.append("resized", old_mib=512, new_mib=300, detail="applied")
        file.append("relief", old_mib=300, new_mib=512, detail=None)
        for _ in range(2):
            look(registry)
        found = events()[2:]
        assert [(event.event, event.old_mib, event.new_mib) for event in found] == [
            ("resized", 512, 300),
            ("relief", 300, 512),
        ]
        assert (found[0].run_id, found[0].detail, found[0].labels) == ("r1", "applied", {"team": "web"})
        with (directory / EVENT_FILE).open("a") as damaged:
            damaged.write('{"id": "r1:9", "event": 3}\nnot JSON\n{"id": "r1:3", "at": 1, "eve')
        EventFile(directory, "r2").append("resized", old_mib=512, new_mib=200, detail=None)
        copy_own_events(registry, registry.get("box"))
        assert [event.new_mib for event in events(4)] == [200]
        (directory / EVENT_FILE).unlink()
        EventFile(directory, "r3").append("resized", old_mib=200, new_mib=201, detail=None)
        forget(registry, registry.get("box"))
    assert kinds(5) == ["box resized", "box removed"], "also when the sandbox is removed before anybody looks"


def test_the_file_of_a_process_is_bounded(tmp_path: Path) -> None:
    file = EventFile(tmp_path, "r1")
    for number in range(2000):
        file.append("resized", old_mib=number, new_mib=number + 1, detail="x" * 50)
    size = (tmp_path / EVENT_FILE).stat().st_size
    found = read_events(tmp_path)
    assert size <= 65 << 10
    assert len(found) > 100
    assert [event["new_mib"] for event in found] == list(range(2001 - len(found), 2001))


def test_a_file_that_cannot_be_written_does_not_disturb_a_sandbox(tmp_path: Path) -> None:
    (tmp_path / EVENT_FILE).mkdir()
    EventFile(tmp_path, "r1").append("resized", old_mib=1, new_mib=2, detail=None)
    assert read_events(tmp_path) == []


def test_filters_select_events() -> None:
    event = Event(id=1, at=1.0, event="stopped", sandbox="web-1", image="debian:12", labels={"team": "web"})

    def match(*words: str) -> bool:
        return EventFilter(words).match(event)

    assert match()
    assert match("event=stopped", "event=failed", "name=web-*", "label=team", "image=debian*")
    assert not match("event=failed")
    assert not match("name=api-*")
    assert not match("label=team=api")
    for word in ("event=stoped", "event=", "state=running", "nam=x", "x"):
        with pytest.raises(ConfigError, match="filter"):
            EventFilter([word])


def test_the_command_and_the_sdk_tell_the_same(home: Path) -> None:
    with Registry.open() as registry:
        for name in ("a", "b"):
            registry.add(record(name, labels={"n": name}))
    lines = ballonet("events").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["1", "1970-01-01T00:00:01.500+00:00", "created", "a"],
        ["2", "1970-01-01T00:00:01.500+00:00", "created", "b"],
    ]
    (told,) = map(json.loads, ballonet("events", "--json", "--since", "1").stdout.splitlines())
    assert (told["id"], told["event"], told["sandbox"], told["labels"]) == (2, "created", "b", {"n": "b"})
    assert ballonet("events", "--filter", "label=n=a", "--filter", "event=removed").stdout == ""
    assert [event.sandbox for event in sync.Sandbox.events(filters=["name=b"])] == ["b"]
    assert [event.id for event in sync.Sandbox.events(since=1)] == [2]
    for words in (["--since", "-1"], ["--since", "99"], ["--since", "x"], ["--filter", "event=x"]):
        done = ballonet("events", *words)
        assert (done.returncode, done.stdout) == (2, ""), words
    wrongs: list[dict[str, Any]] = [
        {"since": -1},
        {"since": 99},
        {"since": "1"},
        {"filters": ["x"]},
        {"filters": "x=1"},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            list(sync.Sandbox.events(**wrong))


def test_events_are_followed_until_the_reader_has_enough(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("first"))
        program = subprocess.Popen(
            [*BALLONET, "events", "-f", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["sandbox"] == "first"
        registry.add(record("second"))
        assert json.loads(program.stdout.readline())["sandbox"] == "second"
        os.kill(program.pid, signal.SIGINT)
        _, said = program.communicate()
        assert (program.returncode, said) == (130, "")
        following = cast("Generator[Event]", sync.Sandbox.events(since=1, follow=True))
        assert next(following).sandbox == "second"
        registry.add(record("third"))
        assert next(following).sandbox == "third"
        following.close()


def test_a_rename_is_told(home: Path) -> None:
    with Registry.open() as registry:
        registry.add(record("old"))
        rename_sandbox(registry, "old", "new")
    assert [(event.event, event.sandbox, event.detail) for event in events(1)] == [("renamed", "new", "old")]
