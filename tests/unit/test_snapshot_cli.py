"""The commands about snapshots, without a VM."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ballonet.cli.main import main
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import create
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.sdk.builder import SandboxBuilder
from tests.unit.own_host import own_directories
from tests.unit.test_snapshots import FACTS, make, this_host

__all__ = ["this_host"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshots:
    own_directories(tmp_path, monkeypatch)
    return Snapshots.open()


def test_snapshots_are_listed_inspected_and_removed(
    store: Snapshots, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "ls"]) == 0
    assert capsys.readouterr().out.split() == ["NAME", "SANDBOX", "IMAGE", "CEILING", "SIZE", "AGE", "DETAIL"]
    make(store, "one", replace(FACTS, image="debian:12", image_id="sha256:1"))
    make(store, "two")
    (store.directory / "two/snapshot.json").write_bytes(b"{}")
    assert main(["snapshot", "ls"]) == 0
    one, two = capsys.readouterr().out.splitlines()[1:][::-1]
    assert one.split()[:4] == ["one", "box", "debian:12", "128M"]
    assert "its command runs" in one
    assert two.startswith("two")
    assert "damaged" in two
    assert main(["snapshot", "ls", "-q"]) == 0
    assert sorted(capsys.readouterr().out.split()) == ["one", "two"]
    assert main(["snapshot", "inspect", "one"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["sandbox"], found["platform"]["engine"], found["config"]["memory_mib"]) == (
        "box",
        "QEMU",
        128,
    )
    assert main(["snapshot", "rm", "two", "three", "one"]) == 2
    caught = capsys.readouterr()
    assert caught.out.split() == ["two", "one"]
    assert "there is no snapshot named 'three'" in caught.err
    assert store.names() == []


def test_a_file_is_exported_and_imported(
    store: Snapshots, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(store, "one")
    file = tmp_path / "one.tar"
    assert main(["snapshot", "export", "one", str(file)]) == 0
    assert main(["snapshot", "import", str(file)]) == 0, "its name is that of the sandbox"
    assert main(["snapshot", "import", str(file), "--name", "one"]) == 2
    assert "there is a snapshot named 'one' already" in capsys.readouterr().err
    assert store.names() == ["box", "one"]
    file.write_bytes(file.read_bytes()[:-30000])
    assert main(["snapshot", "import", str(file), "--name", "two"]) == 125
    assert "not an exported snapshot, or is damaged" in capsys.readouterr().err
    assert main(["snapshot", "import", str(tmp_path / "missing")]) == 2
    assert main(["snapshot", "export", "one", str(tmp_path / "no/where")]) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory", "512M"], "--memory cannot be combined with --from"),
        (["--image", "debian"], "--image cannot be combined with --from"),
        (["--no-deflate-on-oom"], "--no-deflate-on-oom cannot be combined with --from"),
        (["-v", "cache:/x"], "--volume cannot be combined with --from"),
        (["--cold"], "--cold cannot be combined with --from"),
        (["--dry-run"], "--dry-run cannot be combined with --from"),
    ],
)
def test_options_that_cannot_differ_from_the_snapshot_are_refused(
    store: Snapshots, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    make(store, "one")
    assert main(["run", "--from", "one", *words, "--", "true"]) == 2
    assert said in capsys.readouterr().err


def test_names_and_ports_of_forks_are_checked_before_anything_is_saved(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Registry.open() as registry:
        create(registry, SandboxBuilder("taken").build())
        create(registry, SandboxBuilder("box").build())
        registry.update("box", state=State.STOPPED)
    for words, said in (
        (["box", "taken"], "there is a sandbox named 'taken' already"),
        (["box", "one", "one"], "the name 'one' is given twice"),
        (["-p", "80:80", "box", "one", "two"], "port 127.0.0.1:80:80/tcp cannot be published by 2 forks"),
        (["box", "one"], "sandbox 'box' is stopped"),
        (["bux", "one"], "there is no sandbox named 'bux'"),
    ):
        assert main(["fork", *words]) == 2
        assert said in capsys.readouterr().err


def test_an_image_that_a_snapshot_needs_is_told(store: Snapshots) -> None:
    from ballonet.lifecycle.descriptions import image_users

    make(store, "one", replace(FACTS, image="debian:12", image_id="sha256:1"))
    assert image_users()["sha256:1"] == ["snapshot one"]
