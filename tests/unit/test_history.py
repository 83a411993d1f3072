"""The ring buffer of samples: its capacity, and how it survives kills and damaged slots."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import HostError
from ballonet.metrics.history import (
    FIELDS,
    HISTORY_FILE,
    SLOT_BYTES,
    HistoryWriter,
    last_sample,
    pack,
    read_history,
    read_recent,
    totals,
)
from ballonet.metrics.model import SandboxSample

SAMPLE = SandboxSample(
    name="box",
    state="running",
    run_id="0123456789abcdef",
    at=1000.25,
    guest_at=999.75,
    guest_uptime_s=12.5,
    ceiling=1 << 30,
    target=1 << 29,
    actual=(1 << 29) + 4096,
    balloon_state="guest-refused",
    pressure_some_avg10=12.34,
    oom_kills=0,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "box").mkdir()
    return tmp_path / "box" / HISTORY_FILE


def write(path: Path, *ats: float, slots: int = 8) -> None:
    writer = HistoryWriter(path, slots=slots)
    for at in ats:
        writer.write(replace(SAMPLE, at=at))
    writer.close()


def test_what_is_written_is_read_and_unknown_stays_unknown(path: Path) -> None:
    writer = HistoryWriter(path)
    silent = replace(SAMPLE, at=1001.0, guest_at=None, balloon_state=None, run_id=None)
    writer.write(SAMPLE)
    writer.write(silent)
    writer.close()
    first, second = read_history(path)
    assert first == SAMPLE
    assert second == replace(silent, unknown={"guest": "the guest does not report"})
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_goes_round_and_does_not_grow(path: Path) -> None:
    write(path, *range(20))
    assert [sample.at for sample in read_history(path)] == list(range(12, 20))
    assert [sample.at for sample in read_history(path, since=17)] == [17, 18, 19]
    assert path.stat().st_size == 9 * SLOT_BYTES
    newest = last_sample(path)
    assert newest is not None
    assert newest.at == 19


def test_the_next_run_goes_on_after_the_newest(path: Path) -> None:
    write(path, *range(10))
    writer = HistoryWriter(path, slots=8)
    assert writer.last is not None
    assert writer.last.at == 9
    writer.write(replace(SAMPLE, at=10))
    writer.close()
    assert [sample.at for sample in read_history(path)] == list(range(3, 11))


def test_torn_slots_are_passed_over(path: Path) -> None:
    write(path, 1, 2, 3)
    with path.open("r+b") as file:
        file.seek(2 * SLOT_BYTES + 100)
        file.write(b"torn")
        file.seek(0, os.SEEK_END)
        file.write(pack(SAMPLE, 3)[:77])  # a write that a power cut has ended
    assert [sample.at for sample in read_history(path)] == [1, 3]
    write(path, 4)
    assert [sample.at for sample in read_history(path)] == [1, 3, 4]


@given(st.binary(max_size=4 * SLOT_BYTES), st.booleans())
def test_no_bytes_make_reader_or_writer_fail_unexpectedly(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, with_header: bool
) -> None:
    path = tmp_path_factory.mktemp("h") / HISTORY_FILE
    if with_header:
        write(path)
    with path.open("ab") as file:
        file.write(content)
    try:
        assert isinstance(read_history(path), list)
    except HostError as error:
        assert "not a history" in error.message
    write(path, 7)
    assert read_history(path)[-1].at == 7


def test_another_formats_file_is_refused_by_readers_and_begun_anew_by_the_writer(path: Path) -> None:
    path.write_bytes(b"something else" * 100)
    with pytest.raises(HostError, match="not a history of version 1"):
        read_history(path)
    write(path, 5)
    assert [sample.at for sample in read_history(path)] == [5]


def test_a_sandbox_without_history_has_none(tmp_path: Path) -> None:
    assert read_history(tmp_path / "nothing") == []
    assert last_sample(tmp_path / "nothing") is None
    (tmp_path / "empty").touch()
    assert read_history(tmp_path / "empty") == []
    with pytest.raises(HostError, match="cannot be opened"):
        HistoryWriter(tmp_path / "no" / "directory")
    with pytest.raises(HostError, match="cannot be read"):
        read_history(tmp_path)


def test_a_full_disk_is_an_error_that_the_next_write_may_not_have(path: Path) -> None:
    writer = HistoryWriter(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SLOT_BYTES + 100, hard))
        with pytest.raises(HostError, match="cannot be written"):
            writer.write(SAMPLE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    writer.write(SAMPLE)
    writer.close()
    assert len(read_history(path)) == 1


def test_every_number_of_the_model_is_kept() -> None:
    kept = {*FIELDS, "name", "state", "run_id", "at", "guest_at", "unknown", "balloon_state", "health"}
    assert {field.name for field in fields(SandboxSample)} - kept == {"created_at"}
    assert totals(SAMPLE)["oom_kills"] == totals(None)["oom_kills"] == 0


@given(st.integers(0, 30), st.integers(-1, 31), st.sets(st.integers(0, 7)))
def test_recent_samples_are_the_end_of_all_wherever_the_ring_goes_round(
    tmp_path_factory: pytest.TempPathFactory, count: int, since: int, torn: set[int]
) -> None:
    path = tmp_path_factory.mktemp("ring") / HISTORY_FILE
    write(path, *map(float, range(count)))
    with path.open("r+b") as file:
        for slot in torn:
            if slot < min(count, 8):
                os.pwrite(file.fileno(), b"\0" * 40, (1 + slot) * SLOT_BYTES)
    every = [sample.at for sample in read_history(path)]
    recent = [sample.at for sample in read_recent(path, float(since))]
    assert [at for at in recent if at >= since] == [at for at in every if at >= since]
    assert sum(at < since for at in recent) <= 1, "only one from before"
