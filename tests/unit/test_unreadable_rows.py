"""One row of the registry that cannot be read: the other sandboxes are still shown, and nothing of it is removed."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from ballonet.base.errors import RegistryError
from ballonet.base.paths import state_dir_of
from ballonet.cli.main import main
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import prune as strays
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle import volumes
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.samples import collect
from ballonet.lifecycle.stop import remove_sandbox
from ballonet.machine.notes import MachineNote
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings.named_volumes import volumes_dir
from tests.unit.own_host import own_directories, sandbox_process

pytestmark = pytest.mark.long

#: Each damages one column.
DAMAGES = {
    "an unknown state": {"state": "frozen"},
    "flags that are no JSON": {"flags": "not JSON"},
    "flags that are no list": {"flags": "7"},
    "flags of another version": {"flags": '["--name", "bad", "--no-such-flag=1"]'},
    "a damaged command": {"command": "{}"},
    "a damaged process": {"process": "{"},
}
FLAGS_LOST = ["flags that are no JSON", "flags that are no list", "flags of another version"]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    own_directories(tmp_path, monkeypatch)
    registry = Registry.open()
    lifecycle.create(registry, SandboxBuilder("good").volume("kept:/kept").build())
    lifecycle.create(registry, SandboxBuilder("bad").memory("1G").volume("vol:/vol").build())
    return registry


@pytest.fixture(params=DAMAGES)
def damaged(registry: Registry, request: pytest.FixtureRequest) -> Registry:
    registry.update("bad", **DAMAGES[request.param])
    return registry


def printed(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(list(words)) == status
    return capsys.readouterr().out


def test_ls_shows_the_others_and_says_what_to_do_about_the_row(
    damaged: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, "ls").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["good", "created"], ["bad", "failed"]]
    assert lines[2].endswith("the registry's row cannot be read; remove it: ballonet rm --force bad")
    assert printed(capsys, "ls", "-q") == "good\nbad\n"
    assert printed(capsys, "ps", "-q") == ""
    good, bad = json.loads(printed(capsys, "ls", "--json"))
    assert good.keys() == bad.keys()
    assert (good["name"], good["state"], good["end_reason"]) == ("good", "created", None)
    assert (bad["name"], bad["state"], bad["end_reason"]) == ("bad", "failed", "unreadable")
    assert "remove it: ballonet rm --force bad" in bad["end_detail"]


def test_top_and_metrics_read_the_others(damaged: Registry) -> None:
    snapshot = collect()
    assert [(sample.name, sample.state) for sample in snapshot.sandboxes] == [
        ("good", "created"),
        ("bad", "failed"),
    ]
    assert snapshot.sandboxes[0].ceiling == 512 << 20
    assert snapshot.sandboxes[1].unknown["host"] == "the registry's row cannot be read"


def test_one_that_runs_is_shown_as_running(damaged: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    """Its note, beside the registry, is whole."""
    note = MachineNote(run_id="run1", process=ProcessId.current(), ready=True, flags=("--name", "bad"))
    note.write(state_dir_of("bad"))
    assert printed(capsys, "ps", "-q") == "bad\n"
    (row,) = json.loads(printed(capsys, "ps", "--json"))
    assert (row["state"], row["pid"], row["end_reason"]) == ("running", os.getpid(), "unreadable")
    assert "cannot be read" in printed(capsys, "ps")


def test_one_that_runs_without_its_note_is_found_by_its_process(damaged: Registry) -> None:
    with sandbox_process("bad") as child:
        record = lifecycle.list_sandboxes(damaged)[1]
        assert (record.name, record.state) == ("bad", State.RUNNING)
        done = asyncio.run(strays.prune(damaged))
        assert not [line for line in done if "registered" in line or "ended" in line]
        assert child.poll() is None


def test_looks_change_nothing(damaged: Registry) -> None:
    before = damaged._connection.execute("SELECT * FROM sandboxes").fetchall()
    lifecycle.list_sandboxes(damaged)
    collect()
    assert damaged._connection.execute("SELECT * FROM sandboxes").fetchall() == before


def test_prune_does_the_rest_keeps_its_files_and_names_the_row(damaged: Registry) -> None:
    (state_dir_of("stray")).mkdir()
    (state_dir_of("bad") / "disk.img").write_bytes(b"what the guest wrote")
    done = asyncio.run(strays.prune(damaged, force=True))
    assert done == [
        "removed the files of stray",
        "left alone sandbox bad: the registry's row cannot be read; remove it: ballonet rm --force bad",
    ]
    assert (state_dir_of("bad") / "disk.img").exists()


@pytest.mark.parametrize("damage", FLAGS_LOST)
def test_no_volume_is_removed_that_the_row_may_use(registry: Registry, damage: str) -> None:
    registry.update("bad", **DAMAGES[damage])
    volumes.create("other")
    assert [(found.name, found.users) for found in volumes.list_volumes(registry)] == [
        ("kept", ("good",)),
        ("other", ()),
        ("vol", ()),
    ]
    for attempt in (
        lambda: volumes.remove(registry, "vol"),
        lambda: volumes.remove(registry, "other"),
        lambda: volumes.prune(registry),
    ):
        with pytest.raises(RegistryError, match="'bad'") as raised:
            attempt()
        assert raised.value.hint == "remove it: ballonet rm --force bad"
    assert sorted(path.name for path in volumes_dir().iterdir()) == ["kept", "other", "vol"]
    asyncio.run(remove_sandbox(registry, "bad", force=True))
    assert volumes.prune(registry) == ["other", "vol"]


def test_volumes_of_a_row_whose_flags_can_be_read_are_known(registry: Registry) -> None:
    registry.update("bad", state="frozen")
    volumes.create("other")
    assert volumes.prune(registry) == ["other"]
    assert [found.users for found in volumes.list_volumes(registry)] == [("good",), ("bad",)]


def test_it_is_removed_by_force_only(damaged: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "rm", "--force", "bad")
    assert [record.name for record in damaged.list()] == ["good"]
    assert not state_dir_of("bad").exists()


def test_a_row_that_cannot_be_read_does_not_hide_what_a_mistyped_name_may_mean(damaged: Registry) -> None:
    with pytest.raises(Exception, match="no sandbox named 'goood'") as raised:
        damaged.get("goood")
    assert "did you mean 'good'?" in str(getattr(raised.value, "hint", ""))
