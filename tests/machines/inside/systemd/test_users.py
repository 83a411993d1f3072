"""Plain users on a host that runs systemd: one who lingers, one who does not, and one who may not use KVM."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.inside.users import BALLONET, engine_pid, findings, listed, login, uid, wait_until

LINGERING, PASSING, WITHOUT_KVM = "alice", "carol", "bob"


@pytest.fixture
def removed() -> Iterator[list[tuple[str, str]]]:
    """Sandboxes (user, name) that are removed at the end."""
    sandboxes: list[tuple[str, str]] = []
    yield sandboxes
    for user, name in sandboxes:
        login(user, f"{BALLONET} rm -f {name}", status=None)


def test_a_user_in_group_kvm_gets_kvm_and_a_hard_cap() -> None:
    found = findings(LINGERING)
    assert found["accelerator"][0] == "ok"
    assert found["accelerator"][1].startswith("KVM: ")
    result, detail = found["hard cap"]
    assert result == "ok", detail
    assert f"/user@{uid(LINGERING)}.service/" in detail
    assert ".scope" in detail


def test_a_user_who_is_not_in_group_kvm_is_told_so_and_emulates() -> None:
    result, detail = findings(WITHOUT_KVM)["accelerator"]
    assert result == "warning"
    assert (
        detail
        == "emulation: the processor has hardware virtualisation, but /dev/kvm cannot be opened read-write"
    )


def test_the_hard_cap_of_a_plain_user_holds_by_a_scope(removed: list[tuple[str, str]]) -> None:
    removed.append((LINGERING, "capped"))
    options = "--memory 1G --balloon-initial 256M --balloon-min 256M --no-pressure-relief --hard-cap"
    login(LINGERING, f"{BALLONET} run -d --name capped {options}")
    engine = engine_pid(LINGERING, "capped")
    group = Path(f"/proc/{engine}/cgroup").read_text()
    assert f"/user@{uid(LINGERING)}.service/" in group
    unbind = "cd /sys/bus/virtio/drivers/virtio_balloon; for d in virtio*; do echo $d >unbind; done"
    login(LINGERING, f"{BALLONET} exec capped sh -c '{unbind}'")
    touch = "dd if=/dev/zero of=/dev/null bs=800M count=1"
    login(LINGERING, f"{BALLONET} exec capped {touch}", status=None)
    assert "host-oom" in login(LINGERING, f"{BALLONET} wait capped")


def test_the_processor_quota_of_a_plain_user_holds_by_a_scope(removed: list[tuple[str, str]]) -> None:
    assert findings(LINGERING)["cpu quota"][0] == "ok"
    removed.append((LINGERING, "slow"))
    options = "--memory 256M --cpu-quota 0.2"
    login(LINGERING, f"{BALLONET} run -d --name slow {options} -- sh -c 'while :; do :; done'")
    path = Path(f"/proc/{engine_pid(LINGERING, 'slow')}/cgroup").read_text().strip().partition("::")[2]
    assert f"/user@{uid(LINGERING)}.service/" in path
    group = Path("/sys/fs/cgroup") / path.lstrip("/")
    quota, period = map(int, (group / "cpu.max").read_text().split())
    assert quota / period == 0.2

    def throttled() -> int:
        fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return int(fields["nr_throttled"])

    before = throttled()
    wait_until(lambda: throttled() > before, "the kernel holds it back")
    login(LINGERING, f"{BALLONET} modify slow --cpu-quota 0.5")
    assert (group / "cpu.max").read_text().split() == [str(period // 2), str(period)]


def pilot_runs() -> bool:
    running: bool = json.loads(login(LINGERING, f"{BALLONET} pilot status --json"))["running"]
    return running


def test_the_autopilot_runs_as_a_users_service() -> None:
    place = "~/.config/systemd/user"
    unit = "ballonet-pilot.service"
    login(LINGERING, f"mkdir -p {place} && {BALLONET} pilot unit >{place}/{unit}")
    login(LINGERING, f"systemctl --user daemon-reload && systemctl --user enable --now {unit}")
    try:
        wait_until(pilot_runs, "the autopilot does not run")
        assert login(LINGERING, f"systemctl --user is-active {unit}") == "active\n"
        assert login(LINGERING, f"systemctl --user is-enabled {unit}") == "enabled\n"
    finally:
        login(LINGERING, f"systemctl --user disable --now {unit}", status=None)


def session_state(user: str) -> str:
    """What logind says of the user: ``closing`` while processes of ended sessions live; empty once it forgot them."""
    words = ["loginctl", "show-user", user, "--property", "State", "--value"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def test_a_sandbox_is_found_again_at_the_next_login(removed: list[tuple[str, str]]) -> None:
    removed.append((PASSING, "kept"))
    login(PASSING, f"{BALLONET} run -d --name kept --memory 256M")
    engine = engine_pid(PASSING, "kept")
    wait_until(lambda: session_state(PASSING) in ("closing", ""), "the login has not ended")
    assert Path(f"/proc/{engine}").exists(), "the logout ended the sandbox"
    assert listed(PASSING) == {"kept": "running"}
    assert login(PASSING, f"{BALLONET} exec kept echo here") == "here\n"
    login(PASSING, f"{BALLONET} stop kept")
    assert listed(PASSING) == {"kept": "stopped"}
    assert not Path(f"/proc/{engine}").exists()
