"""The usage of engines, from /proc, and its rates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.dataclass import replace
from ballonet.base.errors import NotRunningError
from ballonet.host.proc import read_cpu_s, read_io
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.usage import Usage, read_usage

BALLONET = [sys.executable, "-P", "-m", "ballonet"]
USAGE = Usage(
    name="box",
    run_id="r1",
    at=10.0,
    cpus=2,
    ceiling_bytes=1 << 30,
    cpu_s=3.0,
    resident_bytes=5,
    guest_ram_bytes=4,
    read_bytes=100,
    written_bytes=200,
    device_read_bytes=0,
    device_written_bytes=0,
)


def test_what_a_process_reads_and_writes_is_counted(tmp_path: Path) -> None:
    before = read_io(os.getpid())
    assert before is not None
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    (tmp_path / "file").read_bytes()
    after = read_io(os.getpid())
    assert after is not None
    assert after.written_bytes - before.written_bytes >= 100_000
    assert after.read_bytes - before.read_bytes >= 100_000


def test_a_process_that_is_gone_or_a_file_that_is_odd_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    assert read_io(1, proc=tmp_path) is None
    for content in ("", "rchar: 1\n", "rchar: x\nwchar: 1\nread_bytes: 1\nwrite_bytes: 1\n", "\0"):
        (tmp_path / "1" / "io").write_text(content)
        assert read_io(1, proc=tmp_path) is None
    assert read_cpu_s(1, proc=tmp_path) is None


def test_rates_are_those_of_one_run() -> None:
    later = replace(USAGE, at=12.0, cpu_s=6.0, read_bytes=100, written_bytes=1200)
    rates = later.rates_since(USAGE)
    assert (rates.cpu_percent, rates.read_bytes_per_s, rates.written_bytes_per_s) == (150.0, 0.0, 500.0)
    for before in (None, replace(USAGE, run_id="r0"), later):
        assert later.rates_since(before).cpu_percent is None
    assert replace(later, cpu_s=None).rates_since(USAGE).cpu_percent is None


def test_what_does_not_run_has_no_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(NotRunningError):
        read_usage(Record(name="box", created_at=1.0, flags=("--name", "box")))

    def stats(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*BALLONET, "stats", *words], capture_output=True, text=True, check=False)

    done = stats("--no-stream")
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["NAME", "CPU"])
    assert stats("--no-stream", "--json").stdout == "[]\n"
    for words in (["nobody"], ["--interval", "0"], ["--interval", "x"]):
        assert stats(*words).returncode == 2, words
