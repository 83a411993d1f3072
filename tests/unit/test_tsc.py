from __future__ import annotations

import json
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.host.tsc import host_tsc_khz


class Host:
    """What is read of a host, as files of the test; the program counts its runs."""

    def __init__(self, directory: Path) -> None:
        self.cache, self.runs = directory, directory / "runs"
        self.program, self.boot_id, self.cpuinfo = (
            directory / name for name in ("tsckhz", "boot_id", "cpuinfo")
        )
        self.boot_id.write_text("first-boot\n")
        self.cpuinfo.write_text("processor\t: 0\ncpu MHz\t\t: 3100.250\nflags : tsc\n")
        self.measures("echo 2596124")

    def measures(self, script: str) -> None:
        self.program.write_text(f"#!/bin/sh\necho x >> {self.runs}\n{script}\n")
        self.program.chmod(0o755)

    def count(self) -> int:
        return len(self.runs.read_text().split())

    def khz(self) -> int:
        return host_tsc_khz(self.cache, program=self.program, boot_id=self.boot_id, cpuinfo=self.cpuinfo)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_measured_once_per_boot(host: Host) -> None:
    assert (host.khz(), host.khz()) == (2596124, 2596124)
    assert host.count() == 1
    host.boot_id.write_text("second-boot\n")
    host.measures("echo 2596130")
    assert host.khz() == 2596130
    assert host.count() == 2


@pytest.mark.parametrize(
    "script", ["exit 1", "echo 12", "echo 99999999999", "echo -- -5", "echo", "echo fast"]
)
def test_cpuinfo_is_believed_where_it_cannot_be_measured_but_not_remembered(script: str, host: Host) -> None:
    host.measures(script)
    assert host.khz() == 3100250
    host.measures("echo 2596124")
    assert host.khz() == 2596124


def test_missing_program_is_no_obstacle(host: Host) -> None:
    host.program.unlink()
    assert host.khz() == 3100250


def test_nothing_known_is_an_error_with_both_reasons(host: Host) -> None:
    host.measures("echo no invariant counter >&2; exit 1")
    host.cpuinfo.write_text("processor : 0\n")
    with pytest.raises(HostError, match=r"no invariant counter; /proc/cpuinfo has 0 kHz"):
        host.khz()


@pytest.mark.parametrize(
    "remembered",
    ["", "[]", "null", '{"boot_id": "first-boot"}', json.dumps({"boot_id": "first-boot", "khz": 7})],
)
def test_damaged_memory_is_measured_again(remembered: str, host: Host) -> None:
    (host.cache / "tsc.json").write_text(remembered)
    assert host.khz() == 2596124


def test_unknown_boot_is_measured_each_time(host: Host) -> None:
    host.boot_id.unlink()
    assert (host.khz(), host.khz()) == (2596124, 2596124)
    assert host.count() == 2
