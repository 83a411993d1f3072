"""Paused sandboxes in the registry, durations, and limits of a sandbox's lifetime; without a VM."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ballonet.base.duration import parse_duration, show_duration
from ballonet.base.errors import (
    ConfigError,
    NotRunningError,
    ResumeError,
    SandboxError,
    SettingError,
    StillRunningError,
)
from ballonet.base.paths import replace_file, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.modify import plan_changes
from ballonet.lifecycle.prune import prune
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.row_codec import to_json
from ballonet.lifecycle.start import start_sandbox
from ballonet.lifecycle.stop import remove_sandbox, stop_sandbox
from ballonet.lifecycle.wake import find_awake, is_being_resumed
from ballonet.machine import lifetime as lifetimes
from ballonet.machine.lifetime import Lifetime
from ballonet.machine.notes import EndNote
from ballonet.machine.paused_file import PAUSED_FILE, PENDING_SUFFIX
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import parse_config, render_flags, with_limits, with_rules_and_limits
from ballonet.vmm.attach import Net, Volume
from ballonet.vmm.config import OnIdle
from ballonet.vmm.net_rules import NetRule
from ballonet.vmm.qemu.ports import count_connections
from tests.unit.own_host import own_directories
from tests.unit.test_suspend import notes, save

DEAD = ProcessId(1, 1, "an earlier boot")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    own_directories(tmp_path, monkeypatch)
    return Registry.open()


def paused(registry: Registry, **how: Any) -> Path:
    """A sandbox whose process ended when it was paused; returns its saved state."""
    lifecycle.create(registry, SandboxConfig(name="box"), **how)
    assert registry.begin_run("box", "run1", DEAD)
    registry.update("box", state=State.RUNNING)
    save(state_dir_of("box"), notes())
    return state_dir_of("box") / PAUSED_FILE


def test_a_sandbox_is_paused_if_it_has_a_saved_state_and_no_process(registry: Registry) -> None:
    path = paused(registry, auto_remove=True)
    (path.parent / (PAUSED_FILE + PENDING_SUFFIX)).touch()
    record = lifecycle.find(registry, "box")
    assert (record.state, record.end_reason, record.end_detail) == (State.PAUSED, "paused", None)
    assert [each.name for each in path.parent.iterdir()] == [PAUSED_FILE], "what is incomplete is removed"
    with pytest.raises(NotRunningError, match="is paused") as refused:
        lifecycle.find_running(registry, "box")
    assert refused.value.hint == "resume it: ballonet resume box"


def test_a_resume_that_failed_leaves_it_paused_with_the_reason(registry: Registry) -> None:
    path = paused(registry)
    EndNote(run_id="run1", reason="failed", detail="the port is taken").write(path.parent)
    record = lifecycle.find(registry, "box")
    assert (record.state, record.end_detail) == (State.PAUSED, "the port is taken")
    path.write_bytes(b"damaged")
    with pytest.raises(ResumeError, match="not a saved state") as refused:
        asyncio.run(start_sandbox(registry, "box", detached=True))
    assert refused.value.hint == "boot it instead, which discards its processes: ballonet start --cold box"
    assert lifecycle.find(registry, "box").state is State.PAUSED


def test_stop_discards_the_memory_and_rm_removes_all(registry: Registry) -> None:
    path = paused(registry)
    record = asyncio.run(stop_sandbox(registry, "box"))
    assert record is not None
    assert (record.state, record.end_reason) == (State.STOPPED, "stopped")
    assert not path.exists()
    assert lifecycle.find(registry, "box").state is State.STOPPED
    asyncio.run(remove_sandbox(registry, "box"))
    path = paused(registry, auto_remove=True)
    assert asyncio.run(stop_sandbox(registry, "box")) is None
    assert registry.find("box") is None
    paused(registry)
    asyncio.run(remove_sandbox(registry, "box"))
    assert not state_dir_of("box").exists()


def test_a_paused_sandbox_that_is_being_resumed_is_neither_stopped_nor_waited_for_in_vain(
    registry: Registry,
) -> None:
    path = paused(registry)
    record = lifecycle.find(registry, "box")
    assert registry.begin_run("box", "run2", ProcessId.current())
    with pytest.raises(StillRunningError, match="resumed meanwhile"):
        from ballonet.lifecycle.stop import _discard_memory

        _discard_memory(registry, record)
    assert path.exists()
    assert is_being_resumed(lifecycle.find(registry, "box"))

    async def fail_meanwhile() -> None:
        finding = asyncio.create_task(find_awake(registry, "box"))
        await asyncio.sleep(0.1)
        assert not finding.done(), "it waits for the other program"
        path.unlink()
        registry.update("box", state=State.FAILED, end_detail="no memory")
        with pytest.raises(NotRunningError, match="failed: no memory"):
            await finding

    asyncio.run(fail_meanwhile())


def test_prune_registers_a_paused_sandbox_that_the_registry_does_not_know(registry: Registry) -> None:
    path = paused(registry)
    replace_file(path.parent / lifecycle.ROW_FILE, to_json(registry.get("box")))
    registry.remove_unread("box")
    assert asyncio.run(prune(registry)) == ["registered paused sandbox box, which the registry did not know"]
    assert lifecycle.find(registry, "box").state is State.PAUSED
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1d2h3m4s", 93_784), ("0", 0)],
)
def test_durations_are_read_and_written(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "h", "1x", "-1", "1.5h", "10m1h", "99999999999", "1 h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|is longer"):
        parse_duration(text)


def test_limits_are_settings_of_a_sandbox(registry: Registry) -> None:
    lifecycle.create(registry, SandboxConfig(name="box"))
    record = registry.get("box")
    plan = plan_changes(record, None, {"ttl": "1h", "idle_timeout": 90.5, "on_idle": "stop"})
    flags = plan.row["flags"]
    config = parse_config(flags)
    assert (config.ttl_s, config.idle_timeout_s, config.on_idle) == (3600, 91, OnIdle.STOP)
    without = plan_changes(dataclasses.replace(record, flags=flags), None, {"ttl": 0, "idle_timeout": "0"})
    assert parse_config(without.row["flags"]).ttl_s is None
    for bad in ("soon", -1, True, [1]):
        with pytest.raises(SettingError, match=r"ttl .* is not a duration"):
            plan_changes(record, None, {"ttl": bad})
    with pytest.raises(ConfigError, match="on_idle 'sleep' is unknown; choose one of pause, stop"):
        plan_changes(record, None, {"on_idle": "sleep"})
    volume = Volume(Path("/shared"), "/shared")
    with pytest.raises(ConfigError, match="cannot pause a sandbox with volumes"):
        SandboxConfig(name="box", volumes=(volume,), idle_timeout_s=60)
    SandboxConfig(name="box", volumes=(volume,), idle_timeout_s=60, on_idle=OnIdle.STOP)


def test_limits_are_replaced_in_flags_and_nothing_else() -> None:
    was = SandboxConfig(name="box", memory_mib=300, ttl_s=5)
    flags = with_limits(render_flags(was), SandboxConfig(name="other", idle_timeout_s=7))
    assert parse_config(flags) == dataclasses.replace(was, ttl_s=None, idle_timeout_s=7)


def test_rules_of_the_network_are_replaced_unless_one_of_both_has_none() -> None:
    was = SandboxConfig(name="box", net=Net.USER, net_allow=(NetRule("a.test"),), ttl_s=5)
    now = SandboxConfig(name="box", net=Net.USER, net_deny=(NetRule("9.9.9.9"),), memory_mib=300, ttl_s=7)
    changed = dataclasses.replace(was, net_allow=(), net_deny=(NetRule("9.9.9.9"),), ttl_s=7)
    assert parse_config(with_rules_and_limits(render_flags(was), now)) == changed
    without = SandboxConfig(name="box", ttl_s=7)
    kept = dataclasses.replace(was, ttl_s=7)
    assert parse_config(with_rules_and_limits(render_flags(was), without)) == kept
    assert parse_config(with_rules_and_limits(render_flags(without), was)) == dataclasses.replace(
        without, ttl_s=5
    )


USERNET = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   25       127.0.0.1 43210       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1  8080       10.0.2.15    80     0     0
  TCP[TIME_WAIT]     26       10.0.2.15 50000       127.0.0.1   443     0     0
  UDP[236 sec]       29       10.0.2.15 49744      10.0.2.3    53     0     0
"""


def test_open_connections_are_counted() -> None:
    assert count_connections(USERNET) == 1
    assert count_connections("") == 0


class World:
    """A sandbox that is watched, in all its parts, with a clock and a processor of the test's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.now = self.cpu_s = 0.0
        self.did: list[str] = []
        self.refuses: Exception | None = None
        self.clients = self.opened = self.connections = self.checks_started = 0
        #: What happens in each look, after its pause.
        self.looks: list[dict[str, float]] = []
        monkeypatch.setattr(lifetimes, "read_cpu_s", lambda pid: self.cpu_s)
        self.config = SandboxConfig(name="box", net=cast(Any, "user"), **limits)

    async def watch(self, looks: list[dict[str, float]], ran_s: float = 0.0) -> list[str]:
        """What was done in these looks."""
        over = asyncio.Event()

        async def sleep(seconds: float) -> None:
            if not looks:
                over.set()
                await asyncio.get_running_loop().create_future()
            self.now += seconds
            for name, value in looks.pop(0).items():
                setattr(self, name, getattr(self, name) + value)
            await asyncio.sleep(0)

        life = self._lifetime(sleep, ran_s)
        waiting = asyncio.create_task(over.wait())
        assert life._watching is not None
        await asyncio.wait({waiting, life._watching}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await life.close()
        return self.did

    async def in_use(self, use: dict[str, float], after_s: float = 3600.0) -> str | None:
        """Why it is not paused because of others, if this happens while that is looked at."""

        async def sleep(seconds: float) -> None:
            for name, value in use.items():
                setattr(self, name, getattr(self, name) + value)

        life = self._lifetime(sleep)
        self.now += after_s
        return await life.in_use()

    def _lifetime(self, sleep: Callable[[float], Awaitable[None]], ran_s: float = 0.0) -> Lifetime:
        async def pause() -> None:
            self.did.append("pause")
            if self.refuses is not None:
                raise self.refuses

        async def open_connections() -> int:
            return int(self.connections)

        self.vm = SimpleNamespace(pid=1)
        self.open_connections = open_connections
        self.services = SimpleNamespace(agent=self)
        return Lifetime(
            cast(Any, self),
            self.config,
            ran_s,
            pause=pause,
            stop=self.did.append,
            clock=lambda: self.now,
            sleep=sleep,
        )


IDLE: dict[str, float] = {}


@pytest.mark.parametrize(
    "use",
    [{"cpu_s": 0.15}, {"opened": 1}, {"connections": 1}, {"clients": 1}],
    ids=lambda use: next(iter(use)),
)
def test_any_use_extends_the_idle_timeout(use: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout of 10 s is looked at each second."""
    world = World(monkeypatch, idle_timeout_s=10)
    over = (
        {name: -value for name, value in use.items()} if "cpu_s" not in use and "opened" not in use else IDLE
    )
    looks = [*[IDLE] * 8, use, over, *[IDLE] * 8]
    assert asyncio.run(world.watch([dict(look) for look in looks])) == []
    world = World(monkeypatch, idle_timeout_s=10)
    assert asyncio.run(world.watch([{"cpu_s": 0.05} for _ in range(11)])) == ["pause"], (
        "a guest that ticks is idle"
    )


def test_a_pause_that_is_refused_is_tried_again_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, idle_timeout_s=10)
    world.refuses = SandboxError("the disk is full")
    assert asyncio.run(world.watch([{} for _ in range(25)])) == ["pause", "pause"]


def test_a_sandbox_is_stopped_when_it_is_idle_or_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, idle_timeout_s=600, on_idle=OnIdle.STOP)
    assert asyncio.run(world.watch([{} for _ in range(120)])) == ["it was idle for 10m"]
    world = World(monkeypatch, ttl_s=3600)
    did = asyncio.run(world.watch([{"cpu_s": 5.0} for _ in range(100)], ran_s=3500.0))
    assert did == ["it had run for 1h, its time to live"]
    assert world.now == pytest.approx(100.0), "neither sooner nor later"


@pytest.mark.parametrize(
    ("use", "after_s", "said"),
    [
        (IDLE, 3600.0, None),
        ({"cpu_s": 0.02}, 3600.0, None),
        ({"cpu_s": 0.1}, 3600.0, "its guest is at work"),
        ({"opened": 1}, 3600.0, "a command is running in it"),
        ({"clients": 1}, 3600.0, "a command is running in it"),
        ({"connections": 1}, 3600.0, "a network connection is open"),
        (IDLE, 59.0, "it was started, touched or changed in the last 60 s"),
    ],
)
def test_a_sandbox_in_use_is_not_paused_because_of_others(
    use: dict[str, float], after_s: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asyncio.run(World(monkeypatch).in_use(use, after_s)) == said
