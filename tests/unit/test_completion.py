"""Completion: what a shell is offered at each place of a command line."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.cli.commands import COMMANDS
from ballonet.images.store import ImageStore
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.volumes import create as create_volume
from ballonet.settings.config import SandboxConfig
from tests.unit.oci import Layout, entry, layer

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]
pytest.importorskip("argcomplete")


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two sandboxes that do not run, a volume, an image, two files; and the program on PATH."""
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    with Registry.open() as registry:
        for name in ("web", "worker"):
            lifecycle.create(registry, SandboxConfig(name=name))
    create_volume("cache")
    layout = Layout(tmp_path / "layout")
    layout.add(layer(entry("etc/hostname", b"x")))
    store = ImageStore.open()
    store.tag(store.resolve(f"oci:{layout.directory}").id, "python:3")
    work = tmp_path / "work"
    (work / "source").mkdir(parents=True)
    (work / "trace.csv").touch()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/ballonet"
    program.write_text(f'#!/bin/sh\nexec {" ".join(BALLONET)} "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "WORK": str(work)}


def offered(env: dict[str, str], line: str) -> set[str]:
    """What bash's completion function finds for ``line``, with the cursor at its end."""
    script = """
eval "$(ballonet completion bash)"
cd "$WORK"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
_python_argcomplete ballonet
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line], env=env, capture_output=True, text=True, check=True
    )
    return {word.rstrip() for word in done.stdout.splitlines() if word.strip()}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ballonet sta", {"start", "stats"}),
        ("ballonet image p", {"pull", "prune"}),
        ("ballonet balloon ", {"get", "set", "watch", "stats", "limit", "trim"}),
        ("ballonet start ", {"web", "worker"}),
        ("ballonet start web ", {"worker"}),
        ("ballonet stop ", set()),
        ("ballonet exec ", set()),
        ("ballonet rm we", {"web"}),
        ("ballonet run --image ", {"python:3"}),
        ("ballonet run --image=py", {"python:3"}),
        ("ballonet image rm ", {"python:3"}),
        ("ballonet run --net ", {"none", "user", "isolated"}),
        ("ballonet run --machine ", {"microvm", "q35"}),
        ("ballonet run -v c", {"cache:"}),
        ("ballonet run -v ", {"cache:", "source/"}),
        ("ballonet volume rm ", {"cache"}),
        ("ballonet run --rootfs ", {"source/"}),
        ("ballonet simulate --trace ", {"trace.csv", "source/"}),
        ("ballonet simulate --scenario a", {"agents", "adversarial"}),
        ("ballonet pilot --policy st", {"static"}),
        ("ballonet cp t", {"trace.csv"}),
        ("ballonet run --memory ", set()),
        ("ballonet stop --ti", {"--timeout"}),
        ("ballonet completion ", {"bash", "zsh", "fish"}),
        ("ballonet help image ta", {"tag"}),
    ],
)
def test_what_belongs_there_is_offered(env: dict[str, str], line: str, words: set[str]) -> None:
    assert offered(env, line) == words


def test_all_commands_are_offered(env: dict[str, str]) -> None:
    assert offered(env, "ballonet ") == set(COMMANDS)


def test_a_real_bash_completes_at_the_tab_key(env: dict[str, str], tmp_path: Path) -> None:
    """Typed into an interactive shell: what the line has become is run, and leaves a file of that name."""
    typed = tmp_path / "typed"
    program = tmp_path / "bin/show"
    program.write_text(f'#!/bin/sh\nprintf "%s " "$@" > {typed}.new && mv {typed}.new {typed}\n')
    program.chmod(0o755)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env={**env, "TERM": "dumb", "PS1": "", "HISTFILE": "/dev/null"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        os.write(ours, b'eval "$(ballonet completion bash)"\n')
        # The line is not run as a command of ballonet: Home, then another program before it, which shows its words.
        os.write(ours, b"ballonet start wo\t\x01show \n")
        os.write(ours, b"exit\n")
        while True:
            try:
                os.read(ours, 4096)
            except OSError:
                break
        shell.wait()
    os.close(ours)
    assert typed.read_text().split() == ["ballonet", "start", "worker"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shells_code_is_one_that_it_takes(env: dict[str, str], shell: str) -> None:
    done = subprocess.run(
        ["ballonet", "completion", shell], env=env, capture_output=True, text=True, check=True
    )
    assert "ballonet" in done.stdout
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_nothing_of_it_is_loaded_without_the_tab_key() -> None:
    code = (
        "import sys; from ballonet.cli.main import main; main(['help']); print('argcomplete' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
