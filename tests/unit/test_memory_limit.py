"""The host's memory where a cgroup permits less than the host has: directories stand for the cgroup file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.host.memory import read_host_memory
from ballonet.host.memory_limit import read_memory_limit

GIB = 1 << 30
NONE_V1 = "9223372036854771712\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A ``/proc`` of a process in the group ``/outer/own`` of both versions, on a host of 64 GiB."""
    v1, v2, proc = tmp_path / "memory", tmp_path / "unified", tmp_path / "proc"
    for mount in (v1, v2):
        (mount / "outer/own").mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self/mounts").write_text(
        f"cgroup {v1} cgroup rw,relatime,memory 0 0\ncgroup2 {v2} cgroup2 rw 0 0\n"
    )
    (proc / "self/cgroup").write_text("4:memory:/outer/own\n0::/outer/own\n")
    (proc / "meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {50 << 20} kB\n")
    (proc / "pressure").mkdir()
    (proc / "pressure/memory").write_text(
        "some avg10=1.00 avg60=0 avg300=0 total=5\nfull avg10=0 avg60=0 avg300=0 total=2\n"
    )
    return proc


def group(directory: Path, **files: object) -> None:
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_a_limit_it_is_the_host(proc: Path, tmp_path: Path) -> None:
    group(tmp_path / "memory/outer/own", memory__limit_in_bytes=NONE_V1, memory__usage_in_bytes=GIB)
    group(tmp_path / "unified/outer/own", memory__max="max", memory__high="max", memory__current=GIB)
    assert read_memory_limit(proc=proc / "self") is None
    memory = read_host_memory(proc=proc)
    assert (memory.total_bytes, memory.available_bytes, memory.limited_by) == (64 * GIB, 50 * GIB, None)
    assert memory.pressure_some_avg10 == 1.0


def test_caches_that_the_kernel_drops_first_are_available(proc: Path, tmp_path: Path) -> None:
    own = tmp_path / "unified/outer/own"
    group(own, memory__max=8 * GIB, memory__high="max", memory__current=6 * GIB)
    group(own, memory__stat=f"anon {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}")
    group(
        own,
        memory__pressure="some avg10=7.50 avg60=0 avg300=0 total=9\nfull avg10=0 avg60=0 avg300=0 total=1",
    )
    memory = read_host_memory(proc=proc)
    assert (memory.total_bytes, memory.available_bytes, memory.limited_by) == (8 * GIB, 4 * GIB, own)
    assert memory.pressure_some_avg10 == 7.5


def test_the_tightest_of_all_groups_and_limits_counts(proc: Path, tmp_path: Path) -> None:
    outer, own = tmp_path / "unified/outer", tmp_path / "unified/outer/own"
    group(outer, memory__max=16 * GIB, memory__current=15 * GIB)
    group(own, memory__max=8 * GIB, memory__high=4 * GIB, memory__current=GIB)
    limit = read_memory_limit(proc=proc / "self")
    assert limit is not None
    # There is less left in the outer one, which has other groups; no more than 4 GiB can ever be had.
    assert (limit.directory, limit.total_bytes, limit.available_bytes) == (outer, 4 * GIB, GIB)


def test_version_1_counts_the_caches_of_groups_within(proc: Path, tmp_path: Path) -> None:
    outer = tmp_path / "memory/outer"
    group(outer, memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=2 * GIB)
    group(outer, memory__stat=f"inactive_file 5\ntotal_inactive_file {GIB}")
    memory = read_host_memory(proc=proc)
    assert (memory.total_bytes, memory.available_bytes, memory.limited_by) == (2 * GIB, GIB, outer)
    assert memory.pressure_some_avg10 == 1.0  # this version has none of its own


def test_a_container_sees_its_group_at_the_mount_whatever_its_name_is_outside(
    proc: Path, tmp_path: Path
) -> None:
    (proc / "self/cgroup").write_text("4:memory:/docker/0123\n")
    group(tmp_path / "memory", memory__limit_in_bytes=3 * GIB, memory__usage_in_bytes=GIB)
    memory = read_host_memory(proc=proc)
    assert (memory.total_bytes, memory.available_bytes) == (3 * GIB, 2 * GIB)


def test_a_limit_above_the_hosts_memory_is_none(proc: Path, tmp_path: Path) -> None:
    group(tmp_path / "unified/outer/own", memory__max=128 * GIB, memory__current=100 * GIB)
    memory = read_host_memory(proc=proc)
    assert (memory.total_bytes, memory.available_bytes, memory.limited_by) == (64 * GIB, 50 * GIB, None)


def test_more_than_the_host_has_is_never_available(proc: Path, tmp_path: Path) -> None:
    group(tmp_path / "unified/outer/own", memory__max=60 * GIB, memory__current=GIB)
    assert read_host_memory(proc=proc).available_bytes == 50 * GIB


def test_a_group_that_is_over_its_limit_has_nothing_left(proc: Path, tmp_path: Path) -> None:
    group(tmp_path / "unified/outer/own", memory__high=GIB, memory__current=2 * GIB)
    assert read_host_memory(proc=proc).available_bytes == 0
