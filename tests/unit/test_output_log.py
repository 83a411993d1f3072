"""The log of a sandbox's command: whole, in order, binary-safe, bounded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.cli.logs import _last_lines, parse_since
from ballonet.errors import ConfigError
from ballonet.machine.output_log import (
    FILE_NAME,
    MAX_PART_BYTES,
    Entry,
    OutputLog,
    parse_entry,
    parse_timestamp,
    read_entries,
)


def joined(directory: Path, stream: str) -> bytes:
    entries = [entry for entry in read_entries(directory) if entry.stream == stream]
    return b"".join(entry.content + (b"\n" if entry.whole else b"") for entry in entries)


@given(
    chunks=st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=200)), max_size=20)
)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = OutputLog(directory)
    for stream, data in chunks:
        log.write(stream, data)
    log.close()
    for stream in ("stdout", "stderr"):
        assert joined(directory, stream) == b"".join(data for name, data in chunks if name == stream)


def test_long_lines_come_in_parts(tmp_path: Path) -> None:
    log = OutputLog(tmp_path)
    data = os.urandom(3 * MAX_PART_BYTES).replace(b"\n", b"x") + b"\nend"
    log.write("stdout", data)
    assert joined(tmp_path, "stdout") == data
    assert [entry.whole for entry in read_entries(tmp_path)] == [False, False, True, False]


def test_it_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    log = OutputLog(tmp_path, max_bytes=10_000)
    for number in range(2000):
        log.write("stdout", b"line %d\n" % number)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    lines = [entry.content for entry in read_entries(tmp_path)]
    assert lines[-1] == b"line 1999"
    assert lines == [b"line %d" % number for number in range(2000 - len(lines), 2000)]


def test_a_full_disk_loses_output_and_counts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = OutputLog(tmp_path)

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    log.write("stdout", b"four")
    assert log.lost_bytes == 4


def test_a_line_cut_by_a_power_loss_is_passed_over(tmp_path: Path) -> None:
    log = OutputLog(tmp_path)
    log.write("stdout", b"one\n")
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b"2026-01-31T12:0")
    assert [entry.content for entry in read_entries(tmp_path)] == [b"one"]
    assert parse_entry(b"2026-01-31T12:00:00.123456789Z stdout F a b\n") == Entry(
        1769860800.123456, "stdout", True, b"a b"
    )


def test_times() -> None:
    assert parse_timestamp("2026-01-31T12:00:00Z") == 1769860800
    assert parse_timestamp("2026-01-31T13:00:00.5+01:00") == 1769860800.5
    assert parse_since("10m", 1000) == 400
    assert parse_since("1.5s", 1000) == 998.5
    for wrong in ("", "soon", "10x", "m", "-5m"):
        with pytest.raises(ConfigError, match="not a time"):
            parse_since(wrong, 0)


def test_the_last_lines_count_parts_with_their_line() -> None:
    entries = [
        Entry(0, "stdout", whole, name)
        for name, whole in ((b"a", True), (b"b1", False), (b"b2", True), (b"c", True))
    ]
    assert [entry.content for entry in _last_lines(iter(entries), 2)] == [b"b1", b"b2", b"c"]
    assert list(_last_lines(iter(entries), 0)) == []
