"""The registry: one file, several programs, versions, and disks that fail."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ballonet.base.errors import NameInUseError, RegistryError, UnknownSandboxError
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import schema as schema
from ballonet.lifecycle.record import Command, Defaults, Record, State
from ballonet.lifecycle.registry import FILE_NAME, Registry

COMMAND = Command(("sh", "-c", "echo '\u00fc\n'"), {"A": "1"}, "/tmp", "1:2")


def record(name: str, **more: object) -> Record:
    return Record(name=name, created_at=1.5, flags=("--name", name), **more)  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    written = record(
        "box",
        command=COMMAND,
        defaults=Defaults({"A": "2"}, "/srv", "app"),
        image="debian",
        auto_remove=True,
        weight=7,
        reserve_mib=64,
        state=State.STOPPED,
        run_id="r1",
        starter=ProcessId.current(),
        started_at=2.0,
        ended_at=3.0,
        end_reason="completed",
        end_detail="its command ended",
        exit_code=3,
    )
    with Registry.open(tmp_path) as registry:
        registry.add(written)
    with Registry.open(tmp_path) as registry:
        assert registry.get("box") == written
        assert registry.list() == [written]


def test_unknown_and_taken_names(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        with pytest.raises(UnknownSandboxError, match="'nobody'"):
            registry.get("nobody")
        registry.add(record("box"))
        with pytest.raises(NameInUseError, match="'box'"):
            registry.add(record("box"))
        assert not registry.update("nobody", state=State.RUNNING)
        assert not registry.remove(record("nobody"))


def test_a_late_word_on_an_earlier_run_changes_nothing(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        registry.add(record("box"))
        assert registry.begin_run("box", "one", ProcessId.current())
        earlier = registry.get("box")
        assert not registry.begin_run("box", "two", ProcessId.current())
        assert not registry.update("box", if_run="zero", state=State.FAILED)
        assert registry.update("box", if_run="one", state=State.STOPPED)
        assert registry.begin_run("box", "two", ProcessId.current())
        assert not registry.remove(earlier)
        assert registry.get("box").state is State.STARTING


def test_twenty_at_once_one_wins(tmp_path: Path) -> None:
    """Threads with a connection each, as programs have; the file is made and migrated meanwhile."""
    outcomes: list[str] = []

    def add() -> None:
        with Registry.open(tmp_path) as registry:
            try:
                registry.add(record("box"))
                outcomes.append("won")
            except NameInUseError:
                outcomes.append("taken")

    threads = [threading.Thread(target=add) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["taken"] * 19 + ["won"]


def test_every_earlier_version_is_migrated_with_its_rows(tmp_path: Path) -> None:
    for version in range(1, schema.VERSION):
        directory = tmp_path / str(version)
        directory.mkdir()
        old = sqlite3.connect(directory / FILE_NAME, isolation_level=None)
        for script in schema.MIGRATIONS[:version]:
            old.executescript(script)
        old.execute(
            "INSERT INTO sandboxes (name, created_at, flags, auto_remove, state)"
            " VALUES ('old', 1, '[\"--name\", \"old\"]', 0, 'created')"
        )
        old.execute(f"PRAGMA user_version = {version}")
        old.close()
        with Registry.open(directory) as registry:
            assert registry.get("old").weight == 100


def test_a_newer_registry_is_refused_and_left_alone(tmp_path: Path) -> None:
    Registry.open(tmp_path).close()
    newer = sqlite3.connect(tmp_path / FILE_NAME)
    newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    newer.close()
    with pytest.raises(RegistryError, match=f"has version {schema.VERSION + 1}.*up to {schema.VERSION}"):
        Registry.open(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(RegistryError) as raised:
        Registry.open(tmp_path)
    assert "move" in str(raised.value.hint)


def test_a_row_that_cannot_be_read_names_its_sandbox(tmp_path: Path) -> None:
    with Registry.open(tmp_path) as registry:
        registry.add(record("box"))
        registry.update("box", flags="no json")
        with pytest.raises(RegistryError, match="'box'"):
            registry.get("box")


def test_a_full_disk_and_a_read_only_directory_are_told(tmp_path: Path) -> None:
    """SQLite's own limit stands for a full disk; a directory where the file is to be, for one that takes no file."""
    with Registry.open(tmp_path) as registry:
        pages = registry._connection.execute("PRAGMA page_count").fetchone()[0]
        registry._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RegistryError) as raised:
            for number in range(1000):
                registry.add(record(f"box{number}", command=Command(("x" * 1000,))))
        assert "full" in raised.value.message
        assert "free up space" in str(raised.value.hint)
        assert registry.list() is not None  # what is there can still be read
    (tmp_path / "sub" / FILE_NAME).mkdir(parents=True)
    with pytest.raises(RegistryError) as raised:
        Registry.open(tmp_path / "sub")
    assert "XDG_STATE_HOME" in str(raised.value.hint)


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = ProcessId.of(child.pid)
    assert known is not None
    assert known.alive()
    assert ProcessId.from_json(known.to_json()) == known
    assert not ProcessId(known.pid, known.start_ticks + 1, known.boot_id).alive()
    assert not ProcessId(known.pid, known.start_ticks, "another boot").alive()
    child.communicate(b"\n")
    assert not known.alive()
    assert known.open() is None
    assert ProcessId.from_json(["x"]) is None


def test_rows_of_older_versions_inherit_from_their_command() -> None:
    assert record("old", command=COMMAND).inherited == Defaults({"A": "1"}, "/tmp", "1:2")
    assert record("old").inherited == Defaults()
    told = Defaults({"B": "2"})
    assert record("new", command=COMMAND, defaults=told).inherited == told


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    """It has variables of commands, which may be secrets; a file of an older version is closed, too."""
    with Registry.open(tmp_path) as registry:
        registry.add(record("box", defaults=Defaults({"TOKEN": "secret"})))
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    (tmp_path / FILE_NAME).chmod(0o644)
    with Registry.open(tmp_path):
        assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_words_that_are_no_utf8_are_kept_as_they_can_be(tmp_path: Path) -> None:
    """Such as an error's that names a command of undecodable bytes."""
    with Registry.open(tmp_path) as registry:
        registry.add(record("box"))
        assert registry.update("box", state=State.FAILED, end_detail="no \udc80 here")
        assert [found.end_detail for found in registry.list()] == ["no \\udc80 here"]
