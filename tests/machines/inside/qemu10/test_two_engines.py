"""QEMU 10 on a host that has another QEMU, too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.paths import cache_dir
from ballonet.machine.templates import templates_dir
from ballonet.vmm.default_engine import DefaultEngine

Call = Callable[..., subprocess.CompletedProcess[str]]
BOOTED, RESTORED = "is booted", "is restored from a start template"


@pytest.fixture
def own_cache(guest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache without templates; everything else in it is that of the other tests."""
    ignored = shutil.ignore_patterns("templates", "test-data*", "machines")
    shutil.copytree(cache_dir(), tmp_path / "cache/ballonet", copy_function=os.symlink, ignore=ignored)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield templates_dir()


def test_the_engine_is_qemu_10(ballonet: Call) -> None:
    done = ballonet("doctor", "--json")
    found = {finding["check"]: finding["detail"] for finding in json.loads(done.stdout)}
    assert found["engine"].startswith("QEMU 10.")


@pytest.mark.parametrize("machine", ["microvm", "q35"])
def test_a_guest_boots_and_runs_a_command(ballonet: Call, machine: str) -> None:
    done = ballonet("run", "--cold", "--machine", machine, "--", "sh", "-c", "echo out; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n"), done.stderr


@pytest.mark.parametrize("machine", ["microvm", "q35"])
def test_two_engines_have_templates_of_their_own_in_one_cache(
    ballonet: Call, own_cache: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    def start() -> str:
        done = ballonet("--debug", "run", "--machine", machine, "--", "true")
        assert done.returncode == 0, done.stderr
        return BOOTED if BOOTED in done.stderr else RESTORED if RESTORED in done.stderr else done.stderr

    own = shutil.which("qemu-system-x86_64")
    assert own is not None
    engines = [Path(os.environ["BALLONET_QEMU"]), Path(own)]
    versions = {DefaultEngine.find(own_cache.parent, binary=engine).version for engine in engines}
    if len(versions) < 2:
        pytest.skip("this host's own QEMU has the same version")
    for expected in (BOOTED, RESTORED):
        for engine in engines:
            monkeypatch.setenv("BALLONET_QEMU", str(engine))
            assert start() == expected
    assert len(list(own_cache.glob("*.state"))) == 2
