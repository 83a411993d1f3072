from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError, HostError
from ballonet.guest.bundle import GuestBundle, find_busybox, guest_program, prepare_guest
from tests.unit import images
from tests.unit.test_cpio import entries


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("ballonet.guest.initramfs.busybox_applets", lambda path: ["bin/sh"])
    for name in ("agent", "busybox"):
        (tmp_path / name).write_bytes(images.elf([(1, name.encode())]))
    return {
        "cache": tmp_path / "cache",
        "kernel": images.install_kernel(tmp_path / "host"),
        "agent": tmp_path / "agent",
        "busybox": tmp_path / "busybox",
        "env": {},
    }


def test_bundle_has_all_that_a_guest_boots_from(inputs: dict[str, Any]) -> None:
    bundle = prepare_guest(**inputs)
    assert bundle.release == images.RELEASE
    assert bundle.vmlinuz == inputs["kernel"]
    assert bundle.vmlinux.read_bytes() == images.vmlinux(padding=10_000)
    assert entries(bundle.initramfs.read_bytes())["init"][1] == inputs["agent"].read_bytes()
    assert bundle.modules == ("virtio_ring", "virtio", "virtio_mmio", "virtio_pci", "virtio_balloon")


def test_second_call_makes_nothing(inputs: dict[str, Any]) -> None:
    said: list[str] = []
    first = prepare_guest(**inputs, report=said.append)
    assert len(said) == 2
    assert prepare_guest(**inputs, report=said.append) == first
    assert len(said) == 2


def test_module_can_be_left_out(inputs: dict[str, Any]) -> None:
    bundle = prepare_guest(**inputs, without_modules=["virtio-balloon"])
    assert "virtio_balloon" not in bundle.modules
    assert b"balloon.ko" not in entries(bundle.initramfs.read_bytes())["etc/ballonet/modules"][1]
    assert "virtio_balloon" in prepare_guest(**inputs).modules


def test_module_that_is_not_there_by_default_cannot_be_left_out(inputs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="balloon cannot be left out: the modules are virtio_mmio"):
        prepare_guest(**inputs, without_modules=["balloon"])


def test_extra_modules_come_last(inputs: dict[str, Any]) -> None:
    directory = Path(inputs["kernel"]).parents[1] / "lib/modules" / images.RELEASE / "kernel"
    (directory / "overlay.ko").write_bytes(images.module())
    assert prepare_guest(**inputs, extra_modules=["overlay"]).modules[-1] == "overlay"


def test_cache_is_the_users_by_default(inputs: dict[str, Any], tmp_path: Path) -> None:
    del inputs["cache"]
    inputs["env"] = {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    bundle = prepare_guest(**inputs)
    assert isinstance(bundle, GuestBundle)
    assert bundle.vmlinux.is_relative_to(tmp_path / "xdg/ballonet")


def test_known_inputs_need_neither_decompressors_nor_processes(inputs: dict[str, Any]) -> None:
    prepare_guest(**inputs)
    program = (
        "import sys; from pathlib import Path; from ballonet.guest.bundle import prepare_guest\n"
        "cache, kernel, agent, busybox = map(Path, sys.argv[1:])\n"
        "prepare_guest(cache=cache, kernel=kernel, agent=agent, busybox=busybox, env={})\n"
        "print([name for name in ('lz4', 'zstandard', 'lzma', 'subprocess') if name in sys.modules])"
    )
    words = [str(inputs[name]) for name in ("cache", "kernel", "agent", "busybox")]
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.strip() == "[]"


def test_program_that_was_not_built_is_said_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="program agent was not built") as caught:
        guest_program("agent", tmp_path)
    assert "pip install" in str(caught.value.hint)
    (tmp_path / "agent").write_bytes(b"")
    assert guest_program("agent", tmp_path) == tmp_path / "agent"


def test_busybox_is_the_first_on_path_that_can_be_run(tmp_path: Path) -> None:
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "busybox").write_bytes(b"")
        (tmp_path / name / "busybox").chmod(mode)
    env = {"PATH": ":".join(str(tmp_path / name) for name in ("none", "a", "b", "c"))}
    assert find_busybox(env) == tmp_path / "b/busybox"


def test_missing_busybox_is_said_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="busybox is not installed") as caught:
        find_busybox({"PATH": str(tmp_path)}, also_in=())
    assert "busybox-static" in str(caught.value.hint)
