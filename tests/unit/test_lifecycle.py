"""What the registry makes of the notes that sandboxes' processes leave. The processes themselves: tests/vm."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from ballonet.base.errors import ConfigError, NameInUseError, NotRunningError, StillRunningError
from ballonet.base.paths import private_dir, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import prune as strays
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.modify import apply_plan, plan_changes
from ballonet.lifecycle.record import Command, Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import start_sandbox
from ballonet.lifecycle.stop import remove_sandbox
from ballonet.machine.notes import EndNote, MachineNote
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Tmpfs
from tests.unit.own_host import own_directories

DEAD = ProcessId(1, 1, "an earlier boot")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    own_directories(tmp_path, monkeypatch)
    return Registry.open()


def begun(registry: Registry, *, starter: ProcessId = DEAD, auto_remove: bool = False) -> Record:
    """A sandbox whose start was begun by somebody else."""
    lifecycle.create(registry, SandboxConfig(name="box", balloon_min_mib=128), auto_remove=auto_remove)
    assert registry.begin_run("box", "run1", starter)
    return registry.get("box")


def note(process: ProcessId, **more: object) -> MachineNote:
    written = MachineNote(run_id="run1", process=process, **more)  # type: ignore[arg-type]
    written.write(private_dir(state_dir_of("box")))
    return written


def test_a_sandbox_whose_process_lives_is_running(registry: Registry) -> None:
    begun(registry)
    note(ProcessId.current(), ready=True, started_at=5.0, control_socket="/x", flags=("--name", "box"))
    found = lifecycle.find(registry, "box")
    assert (found.state, found.started_at) == (State.RUNNING, 5.0)
    assert registry.get("box").state is State.RUNNING
    assert lifecycle.find_running(registry, "box")[1].control_socket == "/x"


def test_one_that_is_booting_is_starting(registry: Registry) -> None:
    begun(registry)
    note(ProcessId.current())
    assert lifecycle.find(registry, "box").state is State.STARTING
    with pytest.raises(NotRunningError, match="starting"):
        lifecycle.find_running(registry, "box")


def test_one_whose_starter_lives_and_has_no_process_yet_is_starting(registry: Registry) -> None:
    begun(registry, starter=ProcessId.current())
    assert lifecycle.find(registry, "box").state is State.STARTING


@pytest.mark.parametrize("ready", [True, False])
def test_a_killed_process_is_never_shown_as_running(registry: Registry, ready: bool) -> None:
    """A crash, SIGKILL or a power cut: there is a note of a process that is no more, and none of an end."""
    begun(registry)
    note(DEAD, ready=ready)
    found = lifecycle.find(registry, "box")
    assert (found.state, found.end_reason) == (State.STOPPED, "killed")
    assert found.ended_at is not None
    assert registry.get("box") == found


def test_an_end_that_was_noted_is_told(registry: Registry) -> None:
    begun(registry)
    EndNote(run_id="run1", reason="guest-oom", detail="why", exit_code=137, ended_at=9.0).write(
        state_dir_of("box")
    )
    found = lifecycle.find(registry, "box")
    assert (found.state, found.end_reason, found.end_detail) == (State.STOPPED, "guest-oom", "why")
    assert (found.exit_code, found.ended_at) == (137, 9.0)


def test_the_note_of_an_earlier_run_is_not_this_ones(registry: Registry) -> None:
    begun(registry)
    EndNote(run_id="run0", reason="completed", detail="old", exit_code=0).write(state_dir_of("box"))
    assert lifecycle.find(registry, "box").end_reason == "killed"


def test_one_that_goes_away_with_its_end_is_gone_and_its_name_free(registry: Registry) -> None:
    begun(registry, auto_remove=True)
    directory = state_dir_of("box")
    assert directory.is_dir()
    assert lifecycle.list_sandboxes(registry) == []
    assert not directory.exists()
    begun(registry, auto_remove=True)
    # ... even if nobody has looked since
    lifecycle.create(registry, SandboxConfig(name="box"))
    assert registry.get("box").state is State.CREATED


def test_a_live_ones_name_is_taken(registry: Registry) -> None:
    begun(registry, auto_remove=True)
    note(ProcessId.current(), ready=True)
    with pytest.raises(NameInUseError):
        lifecycle.create(registry, SandboxConfig(name="box"))
    assert lifecycle.find(registry, "box").state is State.RUNNING


async def test_start_and_remove_refuse_one_that_lives(registry: Registry) -> None:
    begun(registry)
    note(ProcessId.current(), ready=True)
    with pytest.raises(StillRunningError):
        await start_sandbox(registry, "box", detached=True)
    with pytest.raises(StillRunningError):
        await remove_sandbox(registry, "box")


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 300, "-x", "a\nb", "ü"])
def test_odd_names_are_refused_before_anything_is_looked_up(registry: Registry, name: str) -> None:
    with pytest.raises(ConfigError, match="not valid"):
        lifecycle.find(registry, name)


@pytest.mark.parametrize("user", ["-1", "1:2:3", ":", "a\nb"])
def test_a_command_of_a_user_that_cannot_be_is_refused(registry: Registry, user: str) -> None:
    with pytest.raises(ConfigError, match="not USER"):
        lifecycle.create(registry, SandboxConfig(name="box"), command=Command(("true",), user=user))
    assert registry.find("box") is None


def test_prune_removes_files_that_no_sandbox_has(registry: Registry) -> None:
    lifecycle.create(registry, SandboxConfig(name="box"))
    stray = private_dir(state_dir_of("stray"))
    assert asyncio.run(strays.prune(registry)) == ["removed the files of stray"]
    assert not stray.exists()
    assert state_dir_of("box").is_dir()


# --- modify ---


async def test_changes_to_a_stopped_sandbox_wait_for_its_start(registry: Registry) -> None:
    lifecycle.create(registry, SandboxConfig(name="box", memory_mib=512), command=Command(("true",)))
    plan = plan_changes(registry.get("box"), None, {"memory": "1G", "balloon_min": 128, "weight": 50})
    assert [(change.setting, change.when) for change in plan.changes] == [
        ("memory", "next start"),
        ("balloon_min", "next start"),
        ("weight", "live"),
    ]
    assert registry.get("box").weight == 100  # a plan does nothing
    done = await apply_plan(registry, plan)
    assert [change.state for change in done] == ["saved", "saved", "done"]
    now = registry.get("box")
    assert (lifecycle.config_of(now).memory_mib, now.weight) == (1024, 50)


def test_changes_to_a_running_one_say_what_needs_a_restart(registry: Registry) -> None:
    record = begun(registry)
    process = note(ProcessId.current(), ready=True, flags=record.flags, control_socket="/x")
    plan = plan_changes(
        record, process, {"cpus": 2, "balloon_initial": 300, "memory_target": 300, "memory": 512}
    )
    assert {change.setting: change.when for change in plan.changes} == {
        "cpus": "requires restart",
        "balloon_initial": "next start",
        "memory_target": "live",
        "memory": "live",  # it is what runs already
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "no change"),
        ({"colour": 1}, "colour"),
        ({"memory": 100, "balloon_min": 200}, "balloon_min 200 MiB must not exceed memory 100 MiB"),
        ({"memory": "much"}, "'much'"),
        ({"memory": 1.5}, "float"),
        ({"weight": 0}, "weight 0"),
        ({"cpus": "two"}, "str"),
        ({"reserve": 4096}, "reserve 4096 MiB must not exceed memory_mib 512 MiB"),
        ({"memory_target": 300}, "does not run"),
    ],
)
def test_impossible_changes_are_refused_whole(
    registry: Registry, settings: dict[str, object], words: str
) -> None:
    lifecycle.create(registry, SandboxConfig(name="box"))
    before = registry.get("box")
    with pytest.raises(ConfigError, match=words):
        plan_changes(before, None, settings)
    assert registry.get("box") == before


async def test_a_target_that_cannot_be_asked_for_is_not_told_as_done(registry: Registry) -> None:
    record = begun(registry)
    process = replace(
        note(ProcessId.current(), ready=True, flags=record.flags), control_socket="/nowhere/x.sock"
    )
    (change,) = await apply_plan(registry, plan_changes(record, process, {"memory_target": 300}))
    assert change.state == "failed"
    assert "/nowhere/x.sock" in str(change.detail)


@pytest.mark.parametrize(
    ("requested", "target", "by", "said"),
    [
        (100, 128, "floor", "target 128 MiB, actual 128 MiB; requested 100 MiB, raised to the floor"),
        (900, 512, "ceiling", "target 512 MiB, actual 512 MiB; requested 900 MiB, lowered to the ceiling"),
        (300, 300, None, "target 300 MiB, actual 300 MiB"),
    ],
)
async def test_a_clamped_target_shows_what_was_requested(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    requested: int,
    target: int,
    by: str | None,
    said: str,
) -> None:
    client = AsyncMock()
    client.__aenter__.return_value = client
    client.get.return_value = SimpleNamespace(target_mib=400)
    client.set.return_value = SimpleNamespace(
        requested_mib=requested,
        target_mib=target,
        actual_mib=target,
        clamped=by,
        detail=None,
        outcome="applied",
        state="applied",
    )
    monkeypatch.setattr("ballonet.control.client.Client.connect", AsyncMock(return_value=client))
    record = begun(registry)
    process = replace(note(ProcessId.current(), ready=True, flags=record.flags), control_socket="/x.sock")
    (change,) = await apply_plan(registry, plan_changes(record, process, {"memory_target": requested}))
    assert (change.old, change.state, change.detail) == (400, "applied", said)


def test_rules_of_the_network_change_at_once_where_it_has_some(registry: Registry) -> None:
    lifecycle.create(registry, SandboxConfig(name="box", net=Net.USER))
    record = registry.get("box")
    running = MachineNote(run_id="run1", process=ProcessId.current(), flags=record.flags)
    without = replace(running, flags=("--name", "box"))
    for note_, when in ((running, "live"), (without, "requires restart"), (None, "next start")):
        plan = plan_changes(record, note_, {"net_allow": ["pypi.org:443"], "net_deny": ["9.9.9.9"]})
        assert [(change.setting, change.when) for change in plan.changes] == [
            ("net_allow", when),
            ("net_deny", when),
        ]
        assert (plan.network is not None) == (when == "live")
    plan = plan_changes(record, running, {"net_allow": ["pypi.org"], "net_allow_host": ["80"]})
    assert [change.when for change in plan.changes] == ["live", "requires restart"]
    with pytest.raises(ConfigError, match=r"net_deny '127\.1' is not an IPv4 address"):
        plan_changes(record, running, {"net_deny": ["127.1"]})


def test_what_is_attached_changes_as_whole_lists_and_with_a_restart(registry: Registry) -> None:
    lifecycle.create(registry, SandboxConfig(name="box", disk_mib=128, tmpfs=(Tmpfs("/old"),)))
    plan = plan_changes(registry.get("box"), None, {"ports": ["80:80"], "tmpfs": [], "disk": "1G"})
    assert {change.setting: (change.old, change.new) for change in plan.changes} == {
        "disk": (128, 1024),
        "tmpfs": ("/old", None),
        "ports": (None, "127.0.0.1:80:80/tcp"),
    }
    asyncio.run(apply_plan(registry, plan))
    config = lifecycle.config_of(registry.get("box"))
    assert (config.net, config.tmpfs, config.disk_mib) == ("user", (), 1024), "ports bring a network along"
    running = MachineNote(run_id="run1", process=ProcessId.current(), flags=("--name", "box"))
    (change,) = plan_changes(registry.get("box"), running, {"volumes": ["/a:/a"]}).changes
    assert change.when == "requires restart"
    with pytest.raises(ConfigError, match="the disk has 1024 MiB and can only grow"):
        plan_changes(registry.get("box"), None, {"disk": 512})
