"""Renaming sandboxes: their files, their rows, and kills at every step; without a virtual machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import BallonetError, ConfigError, NameInUseError, StillRunningError
from ballonet.base.paths import state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.prune import prune
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.rename import rename_sandbox
from ballonet.lifecycle.stop import run_blocking
from ballonet.sdk import sync
from ballonet.settings.config import SandboxConfig

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("XDG_STATE_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    with Registry.open() as registry:
        lifecycle.create(registry, SandboxConfig(name="old", memory_mib=256, cpus=2), labels={"a": "1"})
    directory = state_dir_of("old")
    (directory / "disk.img").write_bytes(b"disk")
    (directory / "more").mkdir(mode=0o700)
    (directory / "more" / "file").write_text("x")
    return tmp_path


def assert_whole(name: str) -> None:
    """The only sandbox has this name, and its files; a prune leaves it alone and nothing else behind."""
    with Registry.open() as registry:
        run_blocking(prune(registry))
        (record,) = registry.list()
        config = lifecycle.config_of(record)
    assert (record.name, config.name, config.cpus, record.labels) == (name, name, 2, {"a": "1"})
    directory = state_dir_of(name)
    assert [path.name for path in directory.parent.iterdir()] == [name]
    assert (directory / "disk.img").read_bytes() == b"disk"
    assert (directory / "more" / "file").read_text() == "x"


def test_a_renamed_sandbox_has_its_files_and_its_configuration(home: Path) -> None:
    done = subprocess.run([*BALLONET, "rename", "old", "new"], capture_output=True, text=True, check=True)
    assert done.stdout == "new\n"
    assert [path.name for path in state_dir_of("new").parent.iterdir()] == ["new"], "nothing is left"
    assert_whole("new")
    box = sync.Sandbox.get("new")
    box.rename("newer")
    assert box.name == "newer"
    assert_whole("newer")


def test_what_cannot_be_renamed_stays_as_it_was(home: Path) -> None:
    with Registry.open() as registry:
        for name, new in (("nobody", "new"), ("old", "not a name"), ("old", "old")):
            with pytest.raises(ConfigError):
                rename_sandbox(registry, name, new)
        lifecycle.create(registry, SandboxConfig(name="other", memory_mib=256))
        with pytest.raises(NameInUseError):
            rename_sandbox(registry, "old", "other")
        registry.begin_run("old", "r1", ProcessId.current())
        with pytest.raises(StillRunningError, match="starting"):
            rename_sandbox(registry, "old", "new")
        registry.update("old", state=State.PAUSED)
        with pytest.raises(StillRunningError, match="paused"):
            rename_sandbox(registry, "old", "new")
        registry.update("old", state=State.STOPPED)
        lifecycle.forget(registry, registry.get("other"))
    assert_whole("old")


def test_a_file_that_cannot_be_linked_leaves_the_old_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object, **more: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Registry.open() as registry, pytest.raises(BallonetError, match="cannot be linked"):
        rename_sandbox(registry, "old", "new")
    assert_whole("old")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("ballonet.lifecycle.rename.os.link", "old"),
        ("ballonet.lifecycle.rename._link", "old"),
        ("ballonet.lifecycle.rename.remove_files", "old"),
        ("ballonet.lifecycle.registry.Registry.if_absent", "new"),
        ("ballonet.lifecycle.registry.Registry.get", "new"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_leaves_one_whole_sandbox(home: Path, function: str, name: str, after: bool) -> None:
    code = f"""
import os, pkgutil, signal, unittest.mock
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.rename import rename_sandbox

with Registry.open() as registry:
    registry.get("old")  # loads what a call needs
    original = pkgutil.resolve_name({function!r})
    def kill(*words, **more):
        if {after} and not (words and words[-1] == "old"):
            original(*words, **more)
        if not (words and words[-1] == "old"):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*words, **more)
    with unittest.mock.patch({function!r}, kill):
        rename_sandbox(registry, "old", "new")
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert_whole(name)
