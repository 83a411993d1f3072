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


_FLAGS = "--cpus 2 --memory-mib 128 --balloon-initial-mib 128 --disk-mib 64 --ttl-s 90 --on-idle stop"
#: With other values than the defaults.
SAVED = replace(
    FACTS,
    weight=300,
    flags=(
        *FACTS.flags[:2],
        *_FLAGS.split(),
    ),
)


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
        (
            ["--memory", "1G"],
            "--memory 1024M / --memory 128M",
        ),
        (["--cpus", "1"], "--cpus 1 / --cpus 2"),
        (
            ["--machine", "q35"],
            "--machine q35 / --machine microvm",
        ),
        (
            ["--accel", "kvm"],
            "--accel kvm / --accel tcg",
        ),
        (
            ["--on-idle", "pause"],
            "--on-idle pause / --on-idle stop",
        ),
        (["--ttl", "1h"], "--ttl 1h / --ttl 1m30s"),
        (["--ttl", "0"], "--ttl 0 / --ttl 1m30s"),
        (
            ["--balloon-min", "64M"],
            "--balloon-min 64M / no --balloon-min",
        ),
        (
            ["--image", "debian"],
            "--image debian / no --image",
        ),
        (
            ["--no-deflate-on-oom"],
            "--no-deflate-on-oom / deflate on oom on",
        ),
        (
            ["-v", "/cache:/x"],
            "--volume /cache:/x / no --volume",
        ),
        (
            ["--tmpfs", "/a", "--tmpfs", "/b"],
            "--tmpfs /a --tmpfs /b / no --tmpfs",
        ),
        (["--net-deny", "10.0.0.0/8"], "--net-deny 10.0.0.0/8 / no --net-deny"),
        (["--balloon-initial", "1G"], "the target 1024 MiB is outside the range of the saved sandbox 'box'"),
        (["--balloon-initial", "1M"], "the target 1 MiB is outside the range of the saved sandbox 'box'"),
        (["--weight", "0"], "must be a whole number from 1 to 10000"),
        (["--pull", "missing"], "--pull cannot be combined with --from"),
        (["--rootfs", "/x"], "--rootfs cannot be combined with --from"),
        (["--balloon-control-socket", "/x"], "--balloon-control-socket cannot be combined with --from"),
        (["--balloon-allow-user", "1"], "--balloon-allow-user cannot be combined with --from"),
        (["--entrypoint", ""], "--entrypoint cannot be combined with --from"),
        (["-p", "nonsense"], "nonsense"),
        (["--cold"], "--cold cannot be combined with --from"),
        (["--dry-run"], "--dry-run cannot be combined with --from"),
    ],
)
def test_options_that_cannot_differ_from_the_snapshot_are_refused(
    store: Snapshots, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    make(store, "one", SAVED)
    said = " cannot be combined with --from one, which was saved with ".join(said.split(" / "))
    assert main(["run", "--from", "one", *words, "--", "true"]) == 2
    assert said in capsys.readouterr().err


def test_options_that_are_as_in_the_snapshot_are_accepted(
    store: Snapshots, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name is refused, which is checked after them."""
    make(store, "one", SAVED)
    with Registry.open() as registry:
        create(registry, SandboxBuilder("taken").build())
    words = "--name taken --cpus 2 --memory 128M --machine microvm --accel auto --on-idle stop --ttl 90 --disk 64M"
    assert main(["run", "--from", "one", *words.split(), "--weight", "100", "--", "true"]) == 2
    assert "there is a sandbox named 'taken' already" in capsys.readouterr().err


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
        (["-p", "nonsense", "box", "one"], "is not [ADDRESS:]HOST-PORT:GUEST-PORT"),
        (["bux", "one"], "there is no sandbox named 'bux'"),
    ):
        assert main(["fork", *words]) == 2
        assert said in capsys.readouterr().err


def test_an_image_that_a_snapshot_needs_is_told(store: Snapshots) -> None:
    from ballonet.lifecycle.descriptions import image_users

    make(store, "one", replace(FACTS, image="debian:12", image_id="sha256:1"))
    assert image_users()["sha256:1"] == ["snapshot one"]
