"""Admission control: decided from what the autopilot saw and from the sandboxes admitted since."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import AdmissionError
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.pilot import lock, state
from ballonet.pilot.admission_control import FRESH_S, admission_checked
from ballonet.pilot.model import HostView, SandboxView
from ballonet.settings.config import SandboxConfig
from tests.unit.own_host import own_directories

BUSY = SandboxView(
    name="busy",
    ceiling_mib=1024,
    floor_mib=128,
    target_mib=600,
    actual_mib=600,
    resident_mib=600,
    guest_ram_mib=510,
    guest_total_mib=560,
    guest_free_mib=20,
    guest_available_mib=100,
    guest_age_s=0.1,
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    own_directories(tmp_path, monkeypatch)
    with Registry.open() as opened:
        yield opened


def saw(*views: SandboxView, budget_mib: int, at: float | None = None, only: tuple[str, ...] = ()) -> None:
    """Write the status that the autopilot would have written."""
    state.write_status(
        {
            "at": time.time() if at is None else at,
            "settings": {"only": only, "budget_mib": budget_mib, "reserve_mib": 0, "dry_run": False},
            "host": HostView(1.0, budget_mib, budget_mib)._asdict(),
            "sandboxes": [view._asdict() for view in views],
        }
    )


def new(registry: Registry, name: str, mib: int = 512) -> Record:
    return lifecycle.create(registry, SandboxConfig(name=name, memory_mib=mib, balloon_initial_mib=mib))


def enter(registry: Registry, record: Record) -> None:
    with admission_checked(registry, record):
        registry.begin_run(record.name, "run", ProcessId.current())


def test_without_an_autopilot_nothing_is_checked(registry: Registry) -> None:
    saw(BUSY, budget_mib=1)
    enter(registry, new(registry, "box"))


def test_there_is_room_or_a_refusal_with_the_numbers(registry: Registry) -> None:
    with lock.PilotLock.acquire("ballonet"):
        saw(BUSY, budget_mib=1300)
        enter(registry, new(registry, "small", 512))
        saw(BUSY, budget_mib=700)
        with pytest.raises(
            AdmissionError,
            match=r"not enough memory for sandbox 'large': it needs 272 MiB.*but only 0 MiB are free",
        ) as refused:
            enter(registry, new(registry, "large", 512))
    assert "--no-admission" in str(refused.value.hint)


def test_those_that_were_let_in_since_count(registry: Registry) -> None:
    with lock.PilotLock.acquire("ballonet"):
        saw(BUSY, budget_mib=1400)
        enter(registry, new(registry, "first", 512))  # booting: the autopilot has not seen it yet
        enter(registry, new(registry, "second", 512))
        with pytest.raises(AdmissionError):
            enter(registry, new(registry, "third", 512))


def test_an_old_status_of_the_autopilot_is_not_used(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with lock.PilotLock.acquire("ballonet"):
        saw(BUSY, budget_mib=1, at=time.time() - FRESH_S - 1)
        enter(registry, new(registry, "box"))
    assert any("has not reported for 15 s: admission was not checked" in line for line in caplog.messages)


def test_a_sandbox_that_is_not_managed_is_not_checked(registry: Registry) -> None:
    with lock.PilotLock.acquire("ballonet", ("ci-*",)):
        saw(BUSY, budget_mib=1, only=("ci-*",))
        enter(registry, new(registry, "web"))
        with pytest.raises(AdmissionError):
            enter(registry, new(registry, "ci-1"))


def test_the_admission_lock_is_free_after_a_refusal(registry: Registry) -> None:
    with lock.PilotLock.acquire("ballonet"):
        saw(BUSY, budget_mib=1)
        with pytest.raises(AdmissionError):
            enter(registry, new(registry, "one"))
        saw(BUSY, budget_mib=4000)
        enter(registry, registry.get("one"))
