"""The settings of processor time and disks, and the files of the cpu controller. The kernel's own is asked in
tests/vm/test_resource_limits.py (version 1) and tests/vm/test_cgroup2.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ballonet.base.errors import ConfigError, HostError
from ballonet.base.quota import parse_quota
from ballonet.cli import doctor
from ballonet.host import cgroup
from ballonet.host.cgroup import CPU, MEMORY, Hierarchy, find_hierarchy, open_cpu_group, open_group
from ballonet.lifecycle.modify import plan_changes
from ballonet.lifecycle.record import Record
from ballonet.machine.engine_limits import EngineLimits
from ballonet.machine.lifetime import busy_share
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import parse_config, render_flags, with_limits
from tests.unit.test_host import cgroup_host, v2_directory


@pytest.mark.parametrize(
    ("typed", "percent"),
    [
        *((1.5, 150), (2, 200), (0.29, 29), ("1.5", 150), ("150%", 150), (" 0.1 ", 10), ("12.0 %", 12)),
        *(("1.500", 150), (0, 0), ("0", 0), ("0%", 0), ("007%", 7)),
    ],
)
def test_processor_time_is_a_number_of_processors_or_percent(typed: Any, percent: int) -> None:
    assert parse_quota(typed, "cpu_quota") == percent


@pytest.mark.parametrize(
    "typed",
    ["", "fast", "-1", "1.505", "33.3%", "1,5", "150 percent", "1e3", "%", "٣", True, None, [1], 0.333],
)
def test_what_is_no_processor_time_is_an_error_with_what_was_typed(typed: Any) -> None:
    with pytest.raises(ConfigError, match=r"cpu_quota|must be a number") as caught:
        parse_quota(typed, "cpu_quota")
    assert str(typed) in str(caught.value)


def test_limits_are_fields_flags_and_settings_and_0_is_none() -> None:
    built = SandboxBuilder("box").cpu_quota("150%").io_rate("1.5M").io_ops(500).build()
    assert (built.cpu_quota_percent, built.io_rate_kib, built.io_ops) == (150, 1536, 500)
    flags = render_flags(built)
    assert flags[-6:] == ["--cpu-quota-percent", "150", "--io-rate-kib", "1536", "--io-ops", "500"]
    assert parse_config(flags) == built
    assert parse_config(with_limits(render_flags(SandboxConfig(name="box")), built)) == built
    free = SandboxBuilder("box").cpu_quota(0).io_rate(0).io_ops(0).build()
    assert free == SandboxConfig(name="box")
    for wrong in (
        {"io_ops": True},
        {"io_ops": "many"},
        {"io_ops": 19},
        {"io_rate": "255K"},
        {"cpu_quota": 0.09},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SandboxBuilder("box").set(**wrong).build()


def test_a_change_waits_for_the_start_of_a_sandbox_that_does_not_run() -> None:
    record = Record(name="box", flags=tuple(render_flags(SandboxConfig(name="box"))), created_at=0.0)
    plan = plan_changes(record, None, {"cpu_quota": "80%", "io_rate": "10M", "io_ops": 100})
    assert {change.when for change in plan.changes} == {"next start"}
    config = parse_config(plan.row["flags"])
    assert (config.cpu_quota_percent, config.io_rate_kib, config.io_ops) == (80, 10240, 100)


def test_a_guest_is_at_work_when_it_uses_half_of_a_small_quota() -> None:
    shares = [busy_share(SandboxConfig(name="box", cpu_quota_percent=quota)) for quota in (None, 100, 20, 10)]
    assert shares == [0.10, 0.10, 0.10, 0.05]


def test_version_1_has_a_hierarchy_for_each_controller(tmp_path: Path) -> None:
    for directory in ("memory/ours", "cpu,cpuacct/other"):
        (tmp_path / directory).mkdir(parents=True)
    mounts = "cgroup ROOT/memory cgroup rw,memory 0 0\ncgroup ROOT/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
    proc = cgroup_host(tmp_path, mounts, "4:memory:/ours\n3:cpu,cpuacct:/other\n")
    assert find_hierarchy(MEMORY, proc=proc, env={}) == Hierarchy(1, tmp_path / "memory/ours")
    found = find_hierarchy(CPU, proc=proc, env={})
    assert found == Hierarchy(1, tmp_path / "cpu,cpuacct/other")
    memory = open_group("g", hierarchy=Hierarchy(1, tmp_path / "memory/ours"))
    group = open_cpu_group("g", beside=memory, hierarchy=found)
    group.set_quota(150)
    files = {path.name: path.read_text() for path in (tmp_path / "cpu,cpuacct/other/g").iterdir()}
    assert files == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"}
    group.set_quota(None)
    assert (tmp_path / "cpu,cpuacct/other/g/cpu.cfs_quota_us").read_text() == "-1"


def test_version_2_has_one_group_with_both_limits(tmp_path: Path) -> None:
    directory = v2_directory(tmp_path)
    memory = open_group("g", hierarchy=Hierarchy(2, directory))
    group = open_cpu_group("g", beside=memory)
    assert (directory / "cgroup.subtree_control").read_text() == "+cpu"
    assert group.procs_file == memory.procs_file == directory / "g/cgroup.procs"
    group.set_quota(50)
    assert (directory / "g/cpu.max").read_text() == "50000 100000"
    group.set_quota(None)
    assert (directory / "g/cpu.max").read_text() == "max 100000"
    assert (directory / "g/memory.max").read_text() == "max", "the other limit is left alone"


def test_a_group_with_processes_gets_no_cpu_controller_which_would_make_its_children_invalid(
    tmp_path: Path,
) -> None:
    directory = v2_directory(tmp_path)
    (directory / "cgroup.type").write_text("domain")
    (directory / "cgroup.procs").write_text("1\n")
    with pytest.raises(
        HostError, match=r"cannot be created under .*: there are other processes in that group"
    ):
        open_cpu_group("g", hierarchy=Hierarchy(2, directory))
    assert (directory / "cgroup.subtree_control").read_text() == "memory"
    (directory / "cgroup.procs").write_text(f"{os.getpid()}\n")
    group = open_cpu_group("g", hierarchy=Hierarchy(2, directory))
    assert (directory / "cgroup.subtree_control").read_text() == "+cpu"
    assert (directory / "ballonet/cgroup.procs").read_text() == str(os.getpid())
    group.remove()
    (directory / "h").mkdir()
    (directory / "h/cgroup.type").write_text("domain invalid\n")
    with pytest.raises(HostError, match="there are processes in that group"):
        open_cpu_group("h", hierarchy=Hierarchy(2, directory))


def test_a_host_without_a_cpu_controller_says_so_for_both_kinds_of_sandboxes(tmp_path: Path) -> None:
    directory = v2_directory(tmp_path, controllers="memory")
    memory = open_group("g", hierarchy=Hierarchy(2, directory))
    with pytest.raises(HostError, match=r"user \(version 2\) has no cpu controller") as caught:
        open_cpu_group("g", beside=memory)
    assert "omit --cpu-quota" in str(caught.value.hint)
    proc = cgroup_host(tmp_path, "cgroup2 ROOT/unified cgroup2 rw 0 0\n", "0::/user\n")
    with pytest.raises(HostError, match=r"no writable cpu controller: .* has no cpu controller"):
        find_hierarchy(CPU, proc=proc, env={})


def test_a_quota_that_the_kernel_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    group = open_cpu_group("g", hierarchy=Hierarchy(1, tmp_path))
    (tmp_path / "g/cpu.cfs_quota_us").symlink_to("/dev/full")
    with pytest.raises(HostError, match=r"cpu.cfs_quota_us cannot be set to '50000': No space left"):
        group.set_quota(50)


def test_processes_get_the_group_only_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "find_hierarchy", lambda controller: Hierarchy(1, tmp_path))
    limits = EngineLimits("box", None)
    limits.set_cpu_quota(None)
    assert (limits.procs_files, list(tmp_path.iterdir())) == ([], [])
    limits.set_cpu_quota(50)
    limits.set_cpu_quota(60)
    (group,) = tmp_path.iterdir()
    assert limits.procs_files == [str(group / "cgroup.procs")]
    for file in group.iterdir():  # a real one has files that need not be removed
        file.unlink()
    limits.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_sandbox_has_left_is_removed_for_both_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for controller in (MEMORY, CPU):
        (tmp_path / controller / f"ballonet-{controller}").mkdir(parents=True)
    monkeypatch.setattr(cgroup, "find_hierarchy", lambda controller: Hierarchy(1, tmp_path / controller))
    monkeypatch.setattr(cgroup, "controller_mounts", lambda path: {})
    assert sorted(cgroup.prune_groups("ballonet-")) == ["ballonet-cpu", "ballonet-memory"]


def test_doctor_says_whether_there_is_a_cpu_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object) -> NoReturn:
        raise HostError("no room here", hint="elsewhere")

    monkeypatch.setattr(cgroup, "open_cpu_group", refuse)
    assert doctor._cpu_quota() == ("cpu quota", "warning", "no room here", "elsewhere")
    monkeypatch.setattr(
        cgroup,
        "open_cpu_group",
        lambda name: open_cpu_group(name, hierarchy=Hierarchy(2, v2_directory(tmp_path))),
    )
    assert doctor._cpu_quota() == ("cpu quota", "ok", f"cgroup v2 at {tmp_path}/unified/user", None)
    assert "cpu quota" in {check for check, _ in doctor._CHECKS}
