"""What the autopilot keeps on disk: the lock, the pause switch, decisions, and the systemd unit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import PilotBusyError
from ballonet.cli.main import main
from ballonet.pilot import lock, state
from ballonet.pilot.journal import Journal, read_decisions
from ballonet.pilot.systemd_unit import render_unit
from tests.unit.own_host import own_directories


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_directories(tmp_path, monkeypatch)


def test_two_autopilots_never_drive_at_once_and_the_second_is_told_who_does() -> None:
    with lock.PilotLock.acquire("ballonet") as first:
        with pytest.raises(PilotBusyError, match=f"pid {first.owner.pid}, policy ballonet"):
            lock.PilotLock.acquire("mom")
        found = lock.find_owner()
        assert found is not None
        assert (found.pid, found.policy) == (first.owner.pid, "ballonet")
    assert lock.find_owner() is None
    lock.PilotLock.acquire("mom").close()


def test_the_claim_of_a_killed_autopilot_is_free() -> None:
    program = "from ballonet.pilot.lock import PilotLock; PilotLock.acquire('mom'); print('taken', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "taken\n"
    owner = lock.find_owner()
    assert owner is not None
    assert owner.pid == child.pid
    child.kill()
    child.communicate()
    assert lock.find_owner() is None
    lock.PilotLock.acquire("ballonet").close()


def test_pause_and_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert state.paused_since() is None
    assert main(["pilot", "pause"]) == 0
    assert state.paused_since() is not None
    assert main(["pilot", "resume"]) == 0
    assert main(["pilot", "resume"]) == 0
    assert "the autopilot was not paused" in capsys.readouterr().out
    assert state.paused_since() is None


def entry(name: str, old: int, target: int | None) -> dict[str, object]:
    return {"sandbox": name, "old_mib": old, "target_mib": target, "reason": f"{old} to {target}"}


def test_moves_are_recorded_and_standing_still_only_now_and_then(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(0, [entry("a", 512, 300)])
    for at in range(1, 50):
        journal.add(at, [entry("a", 300, 300)])
    journal.add(70, [entry("a", 300, 300)])
    journal.add(71, [entry("a", 300, None)])
    told = [(line["at"], line["target_mib"]) for line in read_decisions(tmp_path, "a", 99)]
    assert told == [(0, 300), (70, 300), (71, None)]
    assert [line["at"] for line in read_decisions(tmp_path, "a", 2)] == [70, 71]
    assert read_decisions(tmp_path, "b", 9) == []


def test_the_record_is_bounded_and_torn_lines_are_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=2000)
    for at in range(200):
        journal.add(at, [entry("a", at, at + 1)])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * 2000
    with (tmp_path / "decisions.jsonl").open("a") as file:
        file.write('{"sandbox": "a", "torn')
    Journal(tmp_path, segment_bytes=2000).add(500, [entry("a", 1, 2)])
    told = read_decisions(tmp_path, "a", 999)
    assert told[-1]["at"] == 500
    assert told[-2]["at"] == 199


def test_explain_without_a_record_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pilot", "explain", "box"]) == 2
    assert "no decisions are recorded for a sandbox named 'box'" in capsys.readouterr().err


def test_bad_settings_are_refused_before_the_lock_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--budget", "lots"],
        ["--budget", "1G", "--reserve", "2G"],
        ["--policy", "none-such"],
        ["--ticks", "0"],
    ):
        assert main(["pilot", *words]) == 2
        assert "error:" in capsys.readouterr().err
    assert lock.find_owner() is None


def test_the_unit_quotes_what_systemd_would_read_otherwise() -> None:
    text = render_unit(["/opt/my python/bin/python", "-m", "x", "--only", "50%$x"], [("A", "b c")])
    assert 'ExecStart="/opt/my python/bin/python" -m x --only 50%%$$x\n' in text
    assert 'Environment="A=b c"\n' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pilot", "--budget", "8G", "unit", "--only", "ci-*"]) == 0
    text = capsys.readouterr().out
    assert "--budget 8G --only ci-*" in text
    unit = tmp_path / "ballonet-pilot.service"
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
