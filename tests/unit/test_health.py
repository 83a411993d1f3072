"""The rules of health checks, and what is refused; without a virtual machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.lifecycle.registry import Registry
from ballonet.machine.health import HEALTHY, STARTING, UNHEALTHY, Health, listens
from ballonet.metrics.exposition import Exporter
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot
from ballonet.sdk import sync
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import parse_config, render_flags

BALLONET = [sys.executable, "-P", "-m", "ballonet"]
#: As a kernel shows it: port 8080 listens, port 22 of the same number of digits is connected.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1
   1: 0100007F:0016 0100007F:A001 01 00000000:00000000 00:00000000 00000000     0        0 13 1
"""
TABLE6 = TABLE.replace("00000000:1F90 00000000:0000", "0" * 32 + ":1F91 " + "0" * 32 + ":0000")


def test_a_guest_is_starting_until_its_first_success_or_too_many_intervals() -> None:
    health = Health(3, 10.0, now=100.0)
    assert health.state == STARTING
    for now in (101.0, 105.0, 129.9):
        health.failed(now)
        assert health.state == STARTING
    health.failed(130.0)
    assert health.state == UNHEALTHY
    health.passed()
    assert health.state == HEALTHY


def test_failures_count_in_a_row() -> None:
    health = Health(3, 10.0, now=100.0)
    health.passed()
    for _ in range(5):
        health.failed(200.0)
        health.failed(210.0)
        assert health.state == HEALTHY
        health.passed()
    for _ in range(3):
        health.failed(220.0)
    assert health.state == UNHEALTHY
    health.failed(250.0)
    assert health.state == UNHEALTHY


def test_a_listening_port_is_found_in_the_kernels_table() -> None:
    assert listens(TABLE, 8080)
    assert not listens(TABLE, 22), "connected, not listening"
    assert not listens(TABLE, 8081)
    assert listens(TABLE6, 8081)
    for odd in ("", "header\n", "header\n a b\n", "h\n 0: x y 0A\n", "\0"):
        assert not listens(odd, 8080)


@pytest.mark.parametrize(
    "wrong",
    [
        {"wait_port": 0},
        {"wait_port": 65536},
        {"wait_port": "80"},
        {"health_cmd": 5},
        {"health_cmd": "a\0b"},
        {"health_interval_s": 0},
        {"health_timeout_s": -1},
        {"health_retries": 0},
        {"health_retries": True},
    ],
)
def test_what_cannot_be_checked_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SandboxConfig(name="box", **wrong)  # type: ignore[arg-type]


def test_flags_carry_the_checks() -> None:
    config = SandboxConfig(name="box", wait_port=80, health_cmd="curl -f 'x y'", health_interval_s=5)
    assert parse_config(render_flags(config)) == config
    assert config.has_health_check
    assert not SandboxConfig(name="box", health_cmd="").has_health_check


def test_health_is_a_metric_of_guests_that_are_checked() -> None:
    samples = [
        SandboxSample(name="web", state="running", at=1.0, health=UNHEALTHY),
        SandboxSample(name="api", state="running", at=1.0),
    ]
    text = Exporter().render(lambda: Snapshot(HostSample(at=1.0, total=1, available=1), samples)).decode()
    lines = [line for line in text.splitlines() if line.startswith("ballonet_sandbox_health{")]
    assert lines == [
        f'ballonet_sandbox_health{{sandbox="web",state="{state}"}} {float(state == UNHEALTHY)}'
        for state in (STARTING, HEALTHY, UNHEALTHY)
    ]


def test_waiting_needs_a_running_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Registry.open():
        pass

    def ballonet(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*BALLONET, *words], capture_output=True, text=True, check=False)

    assert ballonet("create", "--name", "box", "--wait-port", "80", "--health-interval", "5s").returncode == 0
    assert ballonet("wait", "--healthy", "box").returncode == 2
    for words in (
        ["wait", "--timeout", "1", "box"],
        ["wait", "--healthy", "--timeout", "-1", "box"],
        ["create", "--wait-port", "x"],
        ["create", "--wait-port", "70000"],
        ["create", "--health-interval", "0"],
    ):
        done = ballonet(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
    with pytest.raises(ConfigError):
        sync.Sandbox.get("box").wait_healthy(timeout=1)
    with pytest.raises(ConfigError, match="timeout"):
        sync.Sandbox.get("box").wait_healthy(timeout=-1)
