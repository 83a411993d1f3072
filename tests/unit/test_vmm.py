"""The engine's edges that need no VM: probing, choosing the accelerator, explaining an end, statistics."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError, EngineMissingError
from ballonet.base.memory import mib_to_bytes
from ballonet.vmm.accel import AccelChoice, choose_accel, detect_accel, read_cpu_flags, usable_accels
from ballonet.vmm.builder import VmBuilder
from ballonet.vmm.config import Accel, Machine
from ballonet.vmm.default_engine import DefaultEngine
from ballonet.vmm.engine import ExitReason
from ballonet.vmm.qemu.exit import explain_exit, start_hint
from ballonet.vmm.qemu.statistics import UNKNOWN, parse_statistics


@pytest.mark.parametrize(
    ("kvm_opens", "flags", "accel"),
    [
        (True, {"vmx"}, Accel.KVM),
        (True, {"svm", "sse"}, Accel.KVM),
        (True, {"sse"}, Accel.TCG),
        (False, {"vmx"}, Accel.TCG),
        (False, set(), Accel.TCG),
    ],
)
def test_kvm_needs_the_device_and_the_processor(kvm_opens: bool, flags: set[str], accel: Accel) -> None:
    choice = choose_accel(Accel.AUTO, kvm_opens=kvm_opens, cpu_flags=frozenset(flags))
    assert choice.accel is accel
    assert choice.reason


def test_an_explicit_accelerator_is_obeyed() -> None:
    assert choose_accel(Accel.KVM, kvm_opens=False, cpu_flags=frozenset()).accel is Accel.KVM


def test_the_environment_chooses_for_those_who_do_not() -> None:
    env = {"BALLONET_ACCEL": "kvm"}
    assert detect_accel(Accel.AUTO, env) == AccelChoice(Accel.KVM, "BALLONET_ACCEL is set")
    assert detect_accel(Accel.TCG, env).accel is Accel.TCG
    assert detect_accel(Accel.AUTO, {"BALLONET_ACCEL": "auto"}) == detect_accel(Accel.AUTO, {})
    assert detect_accel(Accel.AUTO, {"BALLONET_ACCEL": ""}) == detect_accel(Accel.AUTO, {})
    with pytest.raises(ConfigError, match="BALLONET_ACCEL 'xen' is unknown") as caught:
        detect_accel(Accel.AUTO, {"BALLONET_ACCEL": "xen"})
    assert caught.value.hint == "choose one of auto, kvm, tcg"


def test_usable_accelerators_are_those_of_host_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BALLONET_ACCEL", raising=False)
    monkeypatch.setattr("ballonet.vmm.accel.read_cpu_flags", lambda: frozenset({"svm"}))
    monkeypatch.setattr("ballonet.vmm.accel._opens_read_write", lambda device: True)
    assert usable_accels(("kvm", "tcg")) == [Accel.KVM, Accel.TCG]
    assert usable_accels(("tcg",)) == [Accel.TCG]
    monkeypatch.setenv("BALLONET_ACCEL", "tcg")
    assert usable_accels(("kvm", "tcg")) == [Accel.TCG, Accel.KVM]
    monkeypatch.setattr("ballonet.vmm.accel._opens_read_write", lambda device: False)
    assert usable_accels(("kvm", "tcg")) == [Accel.TCG]


def test_an_unreadable_cpuinfo_has_no_flags(tmp_path: Path) -> None:
    assert read_cpu_flags(tmp_path / "none") == frozenset()


def test_the_real_engine_is_probed_and_remembered(tmp_path: Path) -> None:
    engine = DefaultEngine.find(tmp_path)
    assert engine.version >= (7, 2, 0)
    assert "microvm" in engine.machines
    assert "tcg" in engine.accelerators
    kept = (tmp_path / "engine.json").read_bytes()
    assert DefaultEngine.find(tmp_path) == engine
    assert (tmp_path / "engine.json").read_bytes() == kept


def test_a_damaged_cache_is_probed_again(tmp_path: Path) -> None:
    engine = DefaultEngine.find(tmp_path)
    (tmp_path / "engine.json").write_text("{")
    assert DefaultEngine.find(tmp_path) == engine


def test_a_missing_engine_is_a_clear_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError, match="no usable QEMU") as caught:
        DefaultEngine.find(tmp_path, binary=tmp_path / "absent")
    assert "apt-get install" in str(caught.value.hint)


def test_a_program_that_is_not_qemu_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError, match="does not answer like QEMU"):
        DefaultEngine.find(tmp_path, binary=Path("/bin/true"))


def test_a_qemu_that_is_too_old_is_a_clear_error(tmp_path: Path) -> None:
    old = tmp_path / "qemu"
    version = '{"return": {"qemu": {"major": 5, "minor": 2, "micro": 0}}}'
    answers = ['{"QMP": {}}', '{"return": {}}', version, '{"return": []}', '{"return": []}', '{"return": {}}']
    old.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(answers) + "\nEND\n")
    old.chmod(0o755)
    with pytest.raises(EngineMissingError, match=r"is QEMU 5\.2\.0; ballonet needs 7\.2 or newer"):
        DefaultEngine.find(tmp_path, binary=old)


def test_the_engine_named_by_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALLONET_QEMU", os.fspath(tmp_path / "mine"))
    with pytest.raises(EngineMissingError, match="mine"):
        DefaultEngine.find(tmp_path)


def test_an_engine_without_the_machine_type_is_refused_by_name(tmp_path: Path) -> None:
    engine = DefaultEngine.find(tmp_path)
    with pytest.raises(EngineMissingError, match="no accelerator auto"):
        engine.require(Machine.MICROVM, Accel.AUTO)


@pytest.mark.parametrize(
    ("status", "reason", "stopping", "console", "expected"),
    [
        (0, "guest-shutdown", False, "", ExitReason.GUEST_POWEROFF),
        (0, "guest-reset", False, "", ExitReason.GUEST_REBOOT),
        (0, "guest-reset", False, "Kernel panic - not syncing: no init", ExitReason.GUEST_PANIC),
        (0, "host-qmp-quit", True, "", ExitReason.STOPPED),
        (-9, None, True, "", ExitReason.STOPPED),
        (-9, None, False, "", ExitReason.ENGINE_KILLED),
        (1, None, False, "", ExitReason.ENGINE_FAILED),
    ],
)
def test_an_end_is_explained(
    status: int, reason: str | None, stopping: bool, console: str, expected: ExitReason
) -> None:
    assert explain_exit(status, reason, stopping, console, "last words").reason is expected


@pytest.mark.parametrize("machine", list(Machine))
def test_missing_firmware_is_recognised_in_what_the_real_engine_says(
    tmp_path: Path, machine: Machine
) -> None:
    program = str(DefaultEngine.find(tmp_path).binary)
    argv = [program, "-nodefaults", "-display", "none", "-S", "-machine", machine, "-bios", "no-such.rom"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "firmware" in str(start_hint(ended.stderr))
    assert start_hint("last words") is None


def test_statistics_that_the_guest_never_told_are_unknown() -> None:
    answer = {"stats": {"stat-free-memory": UNKNOWN, "stat-major-faults": UNKNOWN}, "last-update": 0}
    parsed = parse_statistics(answer, 1024)
    assert parsed.free_bytes is None
    assert parsed.major_faults is None
    assert parsed.reported_at is None


def test_statistics_that_cannot_be_true_are_unknown() -> None:
    answer = {
        "stats": {
            "stat-total-memory": mib_to_bytes(900),
            "stat-available-memory": mib_to_bytes(901),
            "stat-free-memory": 2**64 - 2,
            "stat-disk-caches": -1,
            "stat-major-faults": 7,
        },
        "last-update": 12,
    }
    parsed = parse_statistics(answer, 1024)
    assert parsed.total_bytes == mib_to_bytes(900)
    assert (parsed.available_bytes, parsed.free_bytes, parsed.disk_caches_bytes) == (None, None, None)
    assert parsed.major_faults == 7


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_no_answer_of_the_engine_breaks_the_parser(answer: Any) -> None:
    parse_statistics(answer, 1024)


def test_the_builder_clamps_as_the_last_line_of_defence() -> None:
    spec = VmBuilder("x").memory(512).boot(Path("k"), Path("i")).balloon(9999, 700).build()
    assert spec.balloon is not None
    assert (spec.balloon.initial_mib, spec.balloon.floor_mib) == (512, 512)


def test_the_builder_refuses_what_is_incomplete() -> None:
    with pytest.raises(ConfigError, match="no kernel"):
        VmBuilder("x").build()
