"""What the host says and enforces: /proc, cgroups, and the hard cap's arithmetic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import HostError
from ballonet.cli import doctor
from ballonet.host import cgroup
from ballonet.host.cgroup import Hierarchy, find_hierarchy, open_group
from ballonet.host.proc import read_guest_ram_bytes, read_pss_bytes, read_resident
from ballonet.host.scope import enter_scope, scope_request
from ballonet.machine.hardcap import allowed_bytes


def test_our_own_resident_memory_is_what_the_kernel_says() -> None:
    resident = read_resident(os.getpid())
    assert resident is not None
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert abs(resident.total_bytes - pages * 4096) < 8 << 20
    pss = read_pss_bytes(os.getpid())
    assert pss is not None
    assert 0 < pss <= resident.total_bytes + (8 << 20)


def test_guest_ram_is_what_the_kernel_holds_of_it_whoever_has_it_mapped() -> None:
    """As of an engine whose guest RAM came from a saved state: written to the file, not through its own mapping."""
    before = read_resident(os.getpid())
    ram = os.memfd_create("memory-backend-memfd")
    try:
        os.truncate(ram, 64 << 20)
        piece = b"x" * (64 << 10)  # small, so that we ourselves do not grow
        for _ in range(128):
            os.write(ram, piece)
        held = read_resident(os.getpid())
        assert before is not None and held is not None
        assert held.guest_ram_bytes == 8 << 20
        assert held.total_bytes == held.engine_bytes + held.guest_ram_bytes
        assert abs(held.engine_bytes - before.engine_bytes) < 4 << 20
        os.truncate(ram, 0)
        given_back = read_resident(os.getpid())
        assert given_back is not None
        assert given_back.guest_ram_bytes == 0
    finally:
        os.close(ram)


def test_guest_ram_is_found_although_another_file_was_closed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ram = os.memfd_create("memory-backend-memfd")
    try:
        os.write(ram, b"x" * 8192)
        names = os.listdir("/proc/self/fd")  # noqa: PTH208
        monkeypatch.setattr(os, "listdir", lambda _: ["99999", *names])
        assert read_guest_ram_bytes(os.getpid()) == 8192
    finally:
        os.close(ram)


def test_guest_ram_whose_file_cannot_be_looked_at_is_what_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("VmRSS:\t 3072 kB\nRssShmem:\t 1024 kB\n")
    resident = read_resident(7, proc=tmp_path)
    assert resident is not None
    assert (resident.guest_ram_bytes, resident.engine_bytes) == (1 << 20, 2 << 20)


def test_a_process_that_is_gone_is_unknown_not_zero() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert read_resident(child) is None
    assert read_pss_bytes(child) is None


def cgroup_host(tmp_path: Path, mounts: str, groups: str) -> Path:
    """A /proc/self with these mounts and groups."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "mounts").write_text(mounts.replace("ROOT", str(tmp_path)))
    (proc / "cgroup").write_text(groups)
    return proc


def v2_directory(tmp_path: Path, *, controllers: str = "cpu memory", delegated: str = "memory") -> Path:
    """A directory that stands in for one on a cgroup2 file system."""
    directory = tmp_path / "unified/user"
    directory.mkdir(parents=True)
    (directory / "cgroup.controllers").write_text(controllers)
    (directory / "cgroup.subtree_control").write_text(delegated)
    return directory


def test_version_1_is_found_below_our_own_group(tmp_path: Path) -> None:
    (tmp_path / "memory/ours").mkdir(parents=True)
    proc = cgroup_host(tmp_path, "cgroup ROOT/memory cgroup rw,memory 0 0\n", "4:memory:/ours\n0::/\n")
    assert find_hierarchy(proc=proc, env={}) == Hierarchy(1, tmp_path / "memory/ours")


def test_version_2_is_found_where_it_has_the_memory_controller(tmp_path: Path) -> None:
    directory = v2_directory(tmp_path)
    proc = cgroup_host(tmp_path, "cgroup2 ROOT/unified cgroup2 rw 0 0\n", "0::/user\n")
    assert find_hierarchy(proc=proc, env={}) == Hierarchy(2, directory)


def test_a_delegated_directory_named_by_the_environment_comes_first(tmp_path: Path) -> None:
    directory = v2_directory(tmp_path)
    proc = cgroup_host(tmp_path, "", "")
    assert find_hierarchy(proc=proc, env={"BALLONET_CGROUP": str(directory)}) == Hierarchy(2, directory)
    with pytest.raises(HostError, match="is not a cgroup2 directory"):
        find_hierarchy(proc=proc, env={"BALLONET_CGROUP": str(tmp_path)})


@pytest.mark.parametrize(
    ("mounts", "groups", "message"),
    [
        ("", "", "no cgroup file system is mounted"),
        ("cgroup2 ROOT/unified cgroup2 rw 0 0\n", "0::/user\n", "has no memory controller"),
    ],
)
def test_a_host_without_a_writable_controller_says_what_was_found(
    tmp_path: Path, mounts: str, groups: str, message: str
) -> None:
    v2_directory(tmp_path, controllers="cpu io")
    with pytest.raises(HostError, match=message) as caught:
        find_hierarchy(proc=cgroup_host(tmp_path, mounts, groups), env={})
    assert "--hard-cap" in str(caught.value.hint)


def test_a_group_that_is_not_writable_is_said(tmp_path: Path) -> None:
    directory = v2_directory(tmp_path)
    proc = cgroup_host(tmp_path, "cgroup2 ROOT/unified cgroup2 rw 0 0\n", "0::/user\n")
    with pytest.raises(HostError, match="is not writable"):
        find_hierarchy(proc=proc, env={}, access={directory: False})


def test_version_2_throttles_while_too_much_is_held_then_kills_above_the_limit_but_never_at_once(
    tmp_path: Path,
) -> None:
    directory = v2_directory(tmp_path, delegated="")
    group = open_group("g", hierarchy=Hierarchy(2, directory))
    assert (directory / "cgroup.subtree_control").read_text() == "+memory"
    current = directory / "g/memory.current"
    current.write_text(str(900 << 20))
    assert not group.set_limit(500 << 20), "below what is held it may only throttle"
    assert (directory / "g/memory.high").read_text() == str(500 << 20)
    assert (directory / "g/memory.max").read_text() == "max"
    current.write_text(str(400 << 20))
    assert group.set_limit(500 << 20)
    assert (directory / "g/memory.max").read_text() == str(532 << 20)
    assert (directory / "g/memory.high").read_text() == "max", (
        "it would crawl for minutes and never be killed"
    )
    (directory / "g/memory.events").write_text("low 0\noom_kill 2\n")
    assert group.kills() == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a writable version 1 memory controller")
def test_a_real_group_is_made_limited_and_removed() -> None:
    try:
        hierarchy = find_hierarchy()
    except HostError as error:
        pytest.skip(str(error))
    group = open_group(f"ballonet-test-{os.getpid()}", hierarchy=hierarchy)
    directory = hierarchy.parent / f"ballonet-test-{os.getpid()}"
    try:
        assert group.set_limit(64 << 20)
        assert group.procs_file.exists()
        assert group.kills() == 0
    finally:
        group.remove()
    assert not directory.exists()


@given(steps=st.lists(st.tuples(st.integers(0, 1000), st.none() | st.integers(0, 1000))))
def test_the_cap_never_falls_below_the_target_nor_below_what_a_guest_that_follows_has(
    steps: list[tuple[int, int | None]],
) -> None:
    allowed = 500
    for target, actual in steps:
        before, allowed = allowed, allowed_bytes(allowed, target, actual)
        assert allowed >= target
        if allowed < before:
            assert actual is not None
            assert allowed >= min(actual, before), "lowered only as far as actual came down"
        if allowed > before:
            assert allowed == target, "raised only by a target"


def test_a_scope_is_asked_for_as_systemd_documents_it() -> None:
    words = scope_request("ballonet-box-7.scope", 7, user=True)
    assert words[:3] == ["busctl", "--user", "call"]
    signature, unit, mode, count, *properties = words[words.index("StartTransientUnit") + 1 :]
    assert (signature, unit, mode, count) == ("ssa(sv)a(sa(sv))", "ballonet-box-7.scope", "fail", "2")
    assert properties == ["PIDs", "au", "1", "7", "Delegate", "b", "true", "0"]
    assert scope_request("x.scope", 7, user=False)[1] == "--system"


def test_entering_a_scope_waits_until_the_manager_has_moved_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/user.slice\n")
    busctl = tmp_path / "busctl"
    busctl.write_text(
        f'#!/bin/sh\nfor w in "$@"; do case $w in *.scope) echo "0::/a/$w" > {own};; esac; done\n'
    )
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    enter_scope("box", own_cgroup=own)
    assert f"box-{os.getpid()}.scope" in own.read_text()


def test_a_manager_that_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busctl = tmp_path / "busctl"
    busctl.write_text("#!/bin/sh\necho 'Call failed: Access denied' >&2; exit 1\n")
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(HostError, match="Access denied"):
        enter_scope("box")


def test_doctor_tries_to_make_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> NoReturn:
        raise HostError("no room here", hint="elsewhere")

    directory = v2_directory(tmp_path)
    monkeypatch.setattr("ballonet.host.cgroup.find_hierarchy", refuse)
    monkeypatch.setattr(
        "ballonet.host.cgroup.open_group", lambda name: open_group(name, hierarchy=Hierarchy(2, directory))
    )
    found = doctor._hard_cap()
    assert found[:3] == ("hard cap", "ok", f"cgroup v2 at {directory}")
    monkeypatch.setattr("ballonet.host.cgroup.open_group", refuse)
    assert doctor._hard_cap() == ("hard cap", "warning", "no room here", "elsewhere")


def test_prune_leaves_the_empty_group_of_a_sandbox_that_is_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "find_hierarchy", lambda controller: cgroup.Hierarchy(1, tmp_path))
    monkeypatch.setattr(cgroup, "controller_mounts", lambda path: {})
    lock = cgroup._make_locked(tmp_path / "ballonet-starting")
    (tmp_path / "ballonet-left").mkdir()
    assert cgroup.prune_groups("ballonet-") == ["ballonet-left"]
    os.close(lock)
    assert cgroup.prune_groups("ballonet-") == ["ballonet-starting"]
