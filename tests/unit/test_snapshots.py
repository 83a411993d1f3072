"""The store of snapshots and their files, without a VM."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ballonet.base.errors import (
    BallonetError,
    BindError,
    NameInUseError,
    SnapshotError,
    SnapshotInUseError,
    UnknownSnapshotError,
)
from ballonet.base.file_copy import copy_data, copy_file, data_ranges
from ballonet.base.memory import MIB
from ballonet.lifecycle import restore, snapshot_transfer
from ballonet.lifecycle.record import Command
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.snapshot_facts import Platform, SnapshotFacts
from ballonet.lifecycle.snapshot_transfer import export_snapshot, import_snapshot
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.vmm.attach import Port
from ballonet.vmm.guest_ram import create_guest_ram
from ballonet.vmm.saved_state import write_state
from tests.unit.own_host import own_directories

KEY = "k" * 64
HERE = Platform(
    engine="QEMU", engine_version="7.2.22", accelerator="tcg", machine="microvm", tsc_khz=2_000_000
)
FACTS = SnapshotFacts(
    created_at=1.5,
    sandbox="box",
    flags=("--name", "box", "--cpus", "1", "--memory-mib", "128", "--disk-mib", "64"),
    command=Command(("sleep", "9"), {"A": "1"}),
    command_runs=True,
    platform=HERE,
    state_key=KEY,
    ballonet="1",
    resident_bytes=7,
    stopped_s=0.02,
)
DISK = {0: b"start", 5 * MIB: b"middle" * 1000, 64 * MIB - 4096: b"end"}


@pytest.fixture
def store(tmp_path: Path) -> Snapshots:
    directory = tmp_path / "snapshots"
    directory.mkdir(mode=0o700)
    return Snapshots(directory)


@pytest.fixture(autouse=True)
def this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is asked for its version."""

    def check(what: str, facts: SnapshotFacts) -> None:
        if (problem := facts.platform.problem_on(HERE)) is not None:
            raise SnapshotError(f"{what} cannot be restored here: {problem}")

    for module in (snapshot_transfer, restore):
        monkeypatch.setattr(module, "check_platform", check)


def make(store: Snapshots, name: str = "one", facts: SnapshotFacts = FACTS) -> None:
    with store.making() as made:
        ram = create_guest_ram(128)
        os.pwrite(ram, b"page of the guest", 9 * 4096)
        state = os.open(made.state_path, os.O_RDWR | os.O_CREAT, 0o600)
        write_state(state, KEY, ram, b"devices" * 100)
        disk = os.open(made.disk_path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(disk, 64 * MIB)
        for place, content in DISK.items():
            os.pwrite(disk, content, place)
        for file in (ram, state, disk):
            os.close(file)
        made.write_facts(facts)
        made.commit(name)


def exported(store: Snapshots, name: str = "one") -> bytes:
    out = io.BytesIO()
    export_snapshot(store, name, out)
    return out.getvalue()


def leftovers(store: Snapshots) -> list[str]:
    return [entry.name for entry in store.directory.iterdir() if entry.name.startswith(".")]


def test_a_snapshot_is_listed_when_it_is_complete(store: Snapshots) -> None:
    with store.making() as made:
        made.write_facts(FACTS)
        assert store.list_all() == []
    assert leftovers(store) == []
    make(store)
    (snapshot,) = store.list_all()
    assert (snapshot.name, snapshot.readable()) == ("one", FACTS)
    assert snapshot.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in snapshot.path.iterdir()} == {0o600}


def test_the_first_of_two_with_one_name_stays(store: Snapshots) -> None:
    make(store)
    with pytest.raises(NameInUseError, match="there is a snapshot named 'one' already"):
        make(store, facts=replace(FACTS, sandbox="other"))
    assert store.get("one").readable().sandbox == "box"
    assert leftovers(store) == []


def test_a_snapshot_in_use_is_not_removed(store: Snapshots) -> None:
    make(store)
    with store.using("one"), pytest.raises(SnapshotInUseError):
        store.remove("one")
    store.remove("one")
    assert list(store.directory.iterdir()) == []
    with pytest.raises(UnknownSnapshotError):
        store.remove("one")


def test_an_unknown_name_is_told_with_a_similar_one(store: Snapshots) -> None:
    make(store, "before-upgrade")
    with pytest.raises(UnknownSnapshotError) as caught:
        store.get("before-upgrde")
    assert "before-upgrade" in (caught.value.hint or "")


def test_a_damaged_description_is_shown_and_can_be_removed(store: Snapshots) -> None:
    make(store)
    (store.directory / "one/snapshot.json").write_bytes(b"{")
    (snapshot,) = store.list_all()
    assert snapshot.problem is not None
    with pytest.raises(SnapshotError, match="'one' cannot be used"), store.using("one"):
        pass
    store.remove("one")
    assert store.names() == []


def test_what_a_killed_program_leaves_is_removed_and_nothing_else(store: Snapshots) -> None:
    make(store)
    code = (
        "import sys, time; from pathlib import Path; from ballonet.lifecycle.snapshots import Snapshots\n"
        "with Snapshots(Path(sys.argv[1])).making() as made:\n"
        "    made.state_path.write_bytes(b'half'); print(flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, store.directory], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert store.prune() == [], "its maker runs"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert len(store.prune()) == 1
    assert store.names() == ["one"]
    assert leftovers(store) == []


def test_what_is_exported_comes_back_whole(store: Snapshots) -> None:
    make(store)
    content = exported(store)
    assert len(content) < MIB, "holes of the disk are not in it"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:  # any tar program can read it
        assert archive.getnames() == [
            "snapshot.json",
            "memory.state",
            "disk.extents",
            "disk.data",
            "digests.json",
        ]
    before = os.umask(0)
    try:
        snapshot = import_snapshot(store, io.BytesIO(content), "two")
    finally:
        os.umask(before)
    one = store.get("one")
    for mine, theirs in ((one.state_path, snapshot.state_path), (one.disk_path, snapshot.disk_path)):
        assert mine.read_bytes() == theirs.read_bytes()
    assert snapshot.disk_path.stat().st_blocks * 512 < MIB
    assert {path.stat().st_mode & 0o777 for path in snapshot.path.iterdir()} == {0o600}
    assert snapshot.readable().command == FACTS.command


def test_exports_do_not_have_what_belongs_to_the_host(store: Snapshots) -> None:
    flags = (*FACTS.flags, "--balloon-control-socket", "/srv/box.sock", "--balloon-allow-users", "7")
    flags = (*flags, "--net", "user", "--publish", "0.0.0.0:80:80")
    make(store, facts=replace(FACTS, flags=flags))
    config = import_snapshot(store, io.BytesIO(exported(store)), "two").readable().config
    assert (config.balloon_control_socket, config.balloon_allow_users, config.ports) == (None, (), ())
    assert config.has_balloon


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine_version": "8.0.0"}, "QEMU 8.0.0, and this host has QEMU 7.2.22"),
        ({"accelerator": "kvm"}, "accelerator kvm, and here it would run with tcg"),
        ({"machine": "q35"}, "machine type q35, and here it would run with microvm"),
        ({"cpu_flags": ("avx512",)}, "that of this host lacks avx512"),
        ({"tsc_khz": 3_000_000}, "3000000 kHz, and that of this host has 2000000 kHz"),
    ],
)
def test_another_platform_is_refused_with_both_values(
    store: Snapshots, change: dict[str, object], said: str
) -> None:
    make(store, facts=replace(FACTS, platform=replace(HERE, **change)))  # type: ignore[arg-type]
    with pytest.raises(SnapshotError, match=said):
        import_snapshot(store, io.BytesIO(exported(store)), "two")
    assert store.names() == ["one"]
    assert leftovers(store) == []


def test_a_counter_measured_again_is_the_same_counter() -> None:
    assert HERE.problem_on(replace(HERE, tsc_khz=2_000_900)) is None


def test_a_name_in_use_is_refused_before_anything_is_read(store: Snapshots) -> None:
    make(store)
    with pytest.raises(NameInUseError):
        import_snapshot(store, io.BytesIO(b""), "one")


def renamed(name: bytes) -> Callable[[bytes], bytes]:
    return lambda content: name.ljust(100, b"\0") + content[100:]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"", "it ends early"),
        (lambda content: content[:-2000], "it ends early|digests.json"),
        (lambda content: content + b"more", "something follows"),
        (lambda content: b"x" * 600 + content, "the header of snapshot.json cannot be read"),
        (
            lambda content: content.replace(b"page of the guest", b"page of a traitor"),
            "digest of memory.state",
        ),
        (lambda content: content.replace(b"middlemiddle", b"meddlemiddle"), "digest of disk.data"),
        (lambda content: content.replace(b'"sandbox": "box"', b'"sandbox": "../"'), "damaged: name '../'"),
        (lambda content: content.replace(b'"format": 1', b'"format": 9'), "format 9"),
    ],
)
def test_a_damaged_file_is_refused_and_nothing_is_kept(
    store: Snapshots, damage: Callable[[bytes], bytes], said: str
) -> None:
    make(store)
    with pytest.raises(SnapshotError, match=said):
        import_snapshot(store, io.BytesIO(damage(exported(store))), "two")
    assert store.names() == ["one"]
    assert leftovers(store) == []


def test_members_with_other_names_or_sizes_are_refused(store: Snapshots) -> None:
    make(store)
    content = bytearray(exported(store))
    for name, size in (("../../x", 0), ("snapshot.json", 1 << 60), ("snapshot.json", 1 << 33)):
        entry = tarfile.TarInfo(name)
        entry.size = size
        content[:512] = entry.tobuf(tarfile.GNU_FORMAT)
        with pytest.raises(SnapshotError):
            import_snapshot(store, io.BytesIO(content), "two")
    assert not (store.directory.parent / "x").exists()
    assert leftovers(store) == []


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_damage_is_refused_or_the_same(store: Snapshots, data: st.DataObject) -> None:
    if not store.names():
        make(store)
    content = bytearray(exported(store))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(("flip", "cut", "insert", "zero")))
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 5000))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=600))
        else:
            content[at : at + 512] = bytes(len(content[at : at + 512]))
        if not content:
            break
    try:
        snapshot = import_snapshot(store, io.BytesIO(content), "two")
    except BallonetError:
        assert store.names() == ["one"]
    else:  # what was changed had no meaning, such as padding
        one = store.get("one")
        assert snapshot.readable() == one.readable()
        assert snapshot.state_path.read_bytes() == one.state_path.read_bytes()
        assert snapshot.disk_path.read_bytes() == one.disk_path.read_bytes()
        store.remove("two")
    assert leftovers(store) == []


def test_a_copy_has_the_same_data_and_the_same_holes(tmp_path: Path) -> None:
    source = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT)
    os.ftruncate(source, 64 * MIB)
    for place, content in DISK.items():
        os.pwrite(source, content, place)
    for number, copy in enumerate((copy_file, copy_data)):
        target = os.open(tmp_path / f"copy{number}", os.O_RDWR | os.O_CREAT)
        copy(source, target)
        assert os.pread(target, 64 * MIB, 0) == os.pread(source, 64 * MIB, 0)
        assert list(data_ranges(target)) == list(data_ranges(source))
        os.close(target)
    os.close(source)


def test_forks_whose_port_is_in_use_are_refused_before_the_sandbox_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_directories(tmp_path, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as used, Registry.open() as registry:
        number = used.getsockname()[1]
        fork = restore.Changes(name="fork", ports=(Port(number, 80),))
        with pytest.raises(BindError, match=f"port 127.0.0.1:{number}/tcp cannot be published"):
            # Otherwise it would be said that there is no sandbox of that name.
            asyncio.run(restore.fork_sandbox(registry, "nobody", [fork], detached=True))
