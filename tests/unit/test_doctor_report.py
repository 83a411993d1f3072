"""What ``doctor --report`` says, and what it leaves out."""

from __future__ import annotations

import json
from datetime import date

import pytest

from ballonet.cli import doctor
from ballonet.cli.doctor import Finding
from ballonet.cli.doctor_report import report, without_directories
from ballonet.cli.main import main


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("QEMU 7.2.0 (/home/ada/qemu/bin/qemu-system-x86_64)", "QEMU 7.2.0 (qemu-system-x86_64)"),
        ("KVM: /dev/kvm opens", "KVM: /dev/kvm opens"),
        ("cgroup v2 at /sys/fs/cgroup/a", "cgroup v2 at /sys/fs/cgroup/a"),
        ("12/34 of 56 MiB", "12/34 of 56 MiB"),
    ],
)
def test_paths_lose_their_directories(text: str, shown: str) -> None:
    assert without_directories(text) == shown


def test_a_report_has_versions_and_findings_and_no_directories() -> None:
    findings = [
        Finding("directories", "ok", "cache /home/ada/.cache/ballonet"),
        Finding("engine", "ok", "QEMU 7.2.0 (/home/ada/bin/qemu)"),
    ]
    document = report([finding._asdict() for finding in findings], engine="7.2.0")
    assert date.fromisoformat(document["date"])
    assert set(document["versions"]) == {"ballonet", "system", "kernel", "python", "qemu"}
    assert document["findings"] == [{"check": "engine", "result": "ok", "detail": "QEMU 7.2.0 (qemu)"}]
    assert "ada" not in json.dumps(document)


def test_the_command_prints_it_with_the_boots(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_boots", lambda: [Finding("boot", "ok", "tcg: booted 6.12 in 2.0 s")])
    main(["doctor", "--report"])
    document = json.loads(capsys.readouterr().out)
    assert document["findings"][-1]["detail"] == "tcg: booted 6.12 in 2.0 s"
