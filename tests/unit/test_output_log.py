"""The log of a sandbox's command: whole, in order, binary-safe, bounded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError
from ballonet.cli.logs import parse_since, parse_tail
from ballonet.lifecycle.log_reader import LogReader, last_line_offset
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
    assert parse_since("1h30m", 10_000) == 4600
    assert parse_since("1769860800.5", 0) == 1769860800.5
    for wrong in ("", "soon", "10x", "m", "-5m"):
        with pytest.raises(ConfigError, match="not a time"):
            parse_since(wrong, 0)


class Log:
    """A log that is written entry by entry, and what ``logs`` shows of it."""

    def __init__(self, directory: Path, max_bytes: int = 1 << 30) -> None:
        self.directory = directory
        self.log = OutputLog(directory, max_bytes=max_bytes)

    def write(self, *entries: tuple[str, bytes]) -> None:
        for stream, data in entries:
            self.log.write(stream, data)

    def tail(self, count: int, since: float | None = None, until: float | None = None) -> list[bytes]:
        with LogReader(self.directory) as reader:
            starts = reader.last_lines(count, since=since, until=until)
            reader.skip_to(min(starts.values(), default=reader.end()))
            return [
                entry.content
                for position, entry in reader.read()
                if position >= starts.get(entry.stream, reader.end())
            ]


def test_the_last_lines_count_parts_with_their_line(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(("stdout", b"a\n"), ("stdout", b"b1"), ("stdout", b"b2\n"), ("stdout", b"c\n"))
    assert log.tail(2) == [b"b1", b"b2", b"c"]
    assert log.tail(0) == []
    assert log.tail(99) == [b"a", b"b1", b"b2", b"c"]


def test_a_last_line_without_an_end_is_a_line(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(("stdout", b"a\n"), ("stdout", b"b"), ("stdout", b"c"))
    assert log.tail(1) == [b"b", b"c"]
    log.write(("stderr", b"x"))
    assert log.tail(1) == [b"x"]
    assert log.tail(2) == [b"b", b"c", b"x"]
    assert log.tail(3) == [b"a", b"b", b"c", b"x"]


def test_lines_of_two_streams_are_not_cut_by_each_other(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(("stderr", b"e1"), ("stdout", b"o1"), ("stderr", b"e2\n"), ("stdout", b"o2\n"))
    assert log.tail(1) == [b"o1", b"o2"]
    assert log.tail(2) == [b"e1", b"o1", b"e2", b"o2"]


def test_the_last_lines_reach_back_into_the_file_before(tmp_path: Path) -> None:
    log = Log(tmp_path, max_bytes=10_000)
    for number in range(1000):
        log.write(("stdout", b"line %d\n" % number))
    assert (tmp_path / (FILE_NAME + ".1")).exists()
    assert log.tail(250) == [b"line %d" % number for number in range(750, 1000)]


@given(
    chunks=st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.text("ab\n", max_size=6)), max_size=25
    ),
    count=st.integers(0, 8),
)
def test_the_last_lines_are_those_that_ended_last(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, str]], count: int
) -> None:
    """Against a plain model: each stream's lines, in the order in which they ended."""
    directory = tmp_path_factory.mktemp("log")
    log = Log(directory)
    log.write(*((stream, text.encode()) for stream, text in chunks))
    entries = list(read_entries(directory))
    lines: list[list[int]] = []
    open_lines: dict[str, list[int]] = {}
    for number, entry in enumerate(entries):
        line = open_lines.setdefault(entry.stream, [])
        line.append(number)
        if entry.whole:
            lines.append(open_lines.pop(entry.stream))
    lines = sorted([*lines, *open_lines.values()], key=lambda line: line[-1])
    wanted = sorted(number for line in (lines[-count:] if count else []) for number in line)
    assert log.tail(count) == [entries[number].content for number in wanted]


def test_one_line_of_a_large_log_is_found_without_reading_it(tmp_path: Path) -> None:
    log = Log(tmp_path, max_bytes=64 << 20)
    log.write(("stderr", b"early\n"), *(("stdout", b"x" * 16000 + b"\n") for _ in range(1500)))
    before = Path("/proc/self/io").read_text()
    assert len(log.tail(1)) == 1
    after = Path("/proc/self/io").read_text()
    read = [int(text.split()[1]) for text in (before, after)]
    assert read[1] - read[0] < 2 << 20
    assert log.tail(1501)[0] == b"early"


def test_a_reader_goes_on_through_files_that_are_replaced(tmp_path: Path) -> None:
    log = Log(tmp_path, max_bytes=2_000)
    seen: list[bytes] = []
    with LogReader(tmp_path) as reader:
        for number in range(500):
            log.write(("stdout", b"line %d\n" % number))
            if number % 60 == 0:  # more than one file may have come since
                seen += [entry.content for _, entry in reader.read()]
        seen += [entry.content for _, entry in reader.read()]
    assert seen == [b"line %d" % number for number in range(500)]


def test_a_reader_finds_a_log_that_begins_later(tmp_path: Path) -> None:
    with LogReader(tmp_path) as reader:
        assert list(reader.read()) == []
        log = Log(tmp_path)
        log.write(("stdout", b"first\n"))
        assert [entry.content for _, entry in reader.read()] == [b"first"]
        log.write(("stdout", b"second\n"))
        assert [entry.content for _, entry in reader.read()] == [b"second"]


def test_an_entry_that_a_full_disk_cuts_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = OutputLog(tmp_path)
    log.write("stdout", b"one\n")
    write = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data[: len(data) - 10])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        log.write("stdout", b"lost\n")
    log.write("stdout", b"two\n")
    assert [entry.content for entry in read_entries(tmp_path)] == [b"one", b"two"]
    assert log.lost_bytes == 5


def test_a_line_cut_by_a_power_loss_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"2026-01-31T12:00:00.000000000Z stdout F on")
    OutputLog(tmp_path).write("stdout", b"two\n")
    assert [entry.content for entry in read_entries(tmp_path)] == [b"on", b"two"]


@pytest.mark.parametrize(
    ("content", "count", "shown"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 0, b""),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"", 1, b""),
        (b"x" * 600_000 + b"\nend\n", 2, b"x" * 600_000 + b"\nend\n"),
    ],
)
def test_last_lines_of_a_plain_file(tmp_path: Path, content: bytes, count: int, shown: bytes) -> None:
    path = tmp_path / "machine.log"
    path.write_bytes(content)
    with path.open("rb") as file:
        file.seek(last_line_offset(file, count))
        assert file.read() == shown


def test_how_many_lines_are_asked_for() -> None:
    assert parse_tail("all") is None
    assert parse_tail("0") == 0
    for wrong in ("-1", "", "many", "1.5", "\N{ARABIC-INDIC DIGIT ONE}"):
        with pytest.raises(ConfigError, match="not a number of lines"):
            parse_tail(wrong)
