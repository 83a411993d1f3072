"""What lives is never taken for dead: from another environment, without its run directory, its note or its registry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import MACHINE_NOTE
from tests.vm.processes import alive, wait_until


class Host:
    """The command line with a state, data and run directory of its own."""

    def __init__(self, top: Path) -> None:
        self.run_dir = top / "run"
        self.elsewhere = top / "elsewhere"
        for directory in (self.run_dir, self.elsewhere):
            directory.mkdir(mode=0o700)
        self.env = {
            **os.environ,
            "XDG_STATE_HOME": str(top / "state"),
            "XDG_DATA_HOME": str(top / "data"),
            "BALLONET_RUN_DIR": str(self.run_dir),
        }

    def run(self, *words: str, elsewhere: bool = False) -> subprocess.CompletedProcess[str]:
        """:param elsewhere: as from another login: with another run directory, and the same registry."""
        env = {**self.env, "BALLONET_RUN_DIR": str(self.elsewhere)} if elsewhere else self.env
        return subprocess.run(
            [sys.executable, "-P", "-m", "ballonet", *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def __call__(self, *words: str, elsewhere: bool = False, status: int = 0) -> str:
        done = self.run(*words, elsewhere=elsewhere)
        assert done.returncode == status, (words, done)
        return done.stdout

    def inspect(self, name: str, *, elsewhere: bool = False) -> Any:
        return json.loads(self("inspect", name, elsewhere=elsewhere))[0]


@pytest.fixture
def host(guest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(tmp_path)
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, host.env[variable])
    yield host
    host.run_dir.mkdir(mode=0o700, exist_ok=True)
    host.run("prune")
    for name in host("ls", "-q").split():
        host("rm", "--force", name)
    assert list(host.run_dir.iterdir()) == []
    assert list(host.elsewhere.iterdir()) == []


def start(host: Host, name: str, *options: str) -> Any:
    host("run", "-d", "--name", name, "--memory", "160M", "--balloon-min", "128M", *options)
    return host.inspect(name)


def test_a_look_with_another_run_directory_harms_nothing(host: Host) -> None:
    """As by ssh and by sudo, from cron, under systemd: XDG_RUNTIME_DIR is another, the registry is the same."""
    host("volume", "create", "vol")
    seen = start(host, "box", "-v", "vol:/vol")
    disk = state_dir_of("box") / "disk.img"
    disk.write_bytes(b"what the guest wrote")
    for elsewhere in (True, False):
        assert host.inspect("box", elsewhere=elsewhere)["pid"] == seen["pid"]
        assert "box" in host("ps", "-q", elsewhere=elsewhere).split()
        assert "is running" in host.run("rm", "box", elsewhere=elsewhere).stderr
        assert host("start", "box", elsewhere=elsewhere) == "box\n", "it runs: nothing is started"
        assert "is used by 'box'" in host.run("volume", "rm", "vol", elsewhere=elsewhere).stderr
        assert host("volume", "prune", elsewhere=elsewhere).count("vol") == 0
        assert "nothing to remove" in host("prune", elsewhere=elsewhere)
        assert "already" in host.run("create", "--name", "box", elsewhere=elsewhere).stderr
        # What reaches it does so from everywhere.
        assert host("exec", "box", "echo", "here", elsewhere=elsewhere) == "here\n"
        assert json.loads(host("balloon", "get", "box", "--json", elsewhere=elsewhere))["ceiling_mib"] == 160
    assert disk.read_bytes() == b"what the guest wrote"
    host("stop", "box", elsewhere=True)
    assert not alive(seen["pid"])
    assert not alive(seen["engine_pid"])
    assert host.inspect("box")["end_reason"] == "stopped"


def test_an_owned_sandbox_is_not_disowned_by_a_look_from_elsewhere(host: Host) -> None:
    code = (
        "import sys; from ballonet.sdk.sync import Sandbox\n"
        "with Sandbox.create('owned', memory='160M') as box:\n"
        "    print('up', flush=True); sys.stdin.readline()\n"
        "    print(box.exec(['echo', 'still']).stdout.decode().strip(), flush=True)\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=host.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "up\n"
    assert "owned" in host("ls", "-q", elsewhere=True).split()
    assert program.communicate("\n", timeout=100)[0] == "still\n"
    assert host("ls", "-q") == ""


@pytest.mark.parametrize("control", ["default", "chosen"])
def test_sockets_come_back_when_the_run_directory_was_removed(
    host: Host, tmp_path: Path, control: str
) -> None:
    chosen = tmp_path / "chosen.sock"
    seen = start(host, "box", *(["--balloon-control-socket", str(chosen)] if control == "chosen" else []))
    shutil.rmtree(host.run_dir)
    chosen.unlink(missing_ok=True)
    assert host.inspect("box")["pid"] == seen["pid"]
    assert "is running" in host.run("rm", "box").stderr
    wait_until(lambda: host.run("exec", "box", "true").returncode == 0, "its agent is reached again")
    wait_until(lambda: host.run("balloon", "get", "box").returncode == 0, "its control socket is back")
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(host.run_dir / "box" / "control.sock"))
        plain.sendall(b"150\n")
        assert plain.makefile().readline() == f"OK {10 * 256}\n"
    host("rm", "--force", "box")
    assert not alive(seen["engine_pid"])


def test_one_without_its_run_directory_can_be_stopped_and_removed(host: Host) -> None:
    seen = start(host, "box")
    os.kill(seen["pid"], signal.SIGSTOP)  # so that nothing is mended meanwhile
    shutil.rmtree(host.run_dir)
    assert host.inspect("box")["state"] == "running"
    os.kill(seen["pid"], signal.SIGCONT)
    host("rm", "--force", "box")
    assert not alive(seen["pid"])
    assert not alive(seen["engine_pid"])
    assert not state_dir_of("box").exists()


@pytest.mark.parametrize("left", [None, b"", b"{", b'{"run_id": "another", "process": [1, 1, "x"]}'])
def test_a_damaged_note_is_no_death_and_is_mended(host: Host, left: bytes | None) -> None:
    seen = start(host, "box")
    note = state_dir_of("box") / MACHINE_NOTE
    written = note.read_bytes()
    os.kill(seen["pid"], signal.SIGSTOP)
    note.unlink()
    if left is not None:
        note.write_bytes(left)
    # A row of an earlier version does not know its process either.
    for process in ("keep", None):
        if process is None:
            with Registry.open() as registry:
                registry.update("box", process=None)
        assert "box" in host("ps", "-q").split()
        assert "is running" in host.run("rm", "box").stderr
    os.kill(seen["pid"], signal.SIGCONT)
    wait_until(lambda: note.is_file() and note.read_bytes() == written, "its note is mended")
    assert host("exec", "box", "echo", "here") == "here\n"


def test_a_lost_registry_is_made_again_from_what_runs(host: Host) -> None:
    seen = start(host, "box", "-e", "A=told", "-u", "1000:1000", "--", "sleep", "600")
    for file in state_dir_of("box").parent.parent.glob("registry.db*"):
        file.unlink()
    assert host("ls", "-q") == ""
    assert "that is not in the registry" in host.run("run", "-d", "--name", "box").stderr
    assert f"registered sandbox box (pid {seen['pid']})" in host("prune")
    again = host.inspect("box")
    assert (again["pid"], again["state"], again["command"]) == (
        seen["pid"],
        "running",
        ["sleep", "600"],
    )
    assert host("exec", "box", "sh", "-c", "echo $A $(id -u)") == "told 1000\n", "nobody is root by accident"
    assert "nothing to remove" in host("prune")


def test_prune_ends_a_sandbox_that_the_registry_does_not_know_only_when_forced(host: Host) -> None:
    seen = start(host, "box")
    for file in state_dir_of("box").parent.parent.glob("registry.db*"):
        file.unlink()
    assert f"ended sandbox box (pid {seen['pid']})" in host("prune", "--force")
    assert not alive(seen["pid"])
    assert not alive(seen["engine_pid"])
    assert host("ls", "-q") == ""
    assert not state_dir_of("box").exists()


def test_a_row_that_cannot_be_read_can_be_removed_with_what_runs(host: Host) -> None:
    seen = start(host, "box")
    with Registry.open() as registry:
        registry.update("box", flags="not JSON")
    assert "cannot be read" in host.run("inspect", "box").stderr
    host("rm", "--force", "box")
    assert not alive(seen["engine_pid"])
    assert host("ls", "-q") == ""


def test_what_a_killed_sandbox_left_goes_with_the_next_look(host: Host) -> None:
    """Its run directory, too: nobody has to prune."""
    boxes = [start(host, name) for name in ("one", "two")]
    for seen in boxes:
        os.kill(seen["pid"], signal.SIGKILL)
    wait_until(lambda: not any(alive(seen["engine_pid"]) for seen in boxes), "the engines are gone")
    assert "killed" in host("ls", elsewhere=True)
    assert list(host.run_dir.iterdir()) == []


def test_a_frozen_sandbox_can_be_stopped_in_order(host: Host) -> None:
    seen = start(host, "box")
    os.kill(seen["pid"], signal.SIGSTOP)
    assert "box" in host("ps", "-q").split()
    assert "is running" in host.run("rm", "box").stderr
    host("stop", "box")
    assert host.inspect("box")["end_reason"] == "stopped", "it was resumed, and not killed"
    assert not alive(seen["engine_pid"])


def test_a_sandbox_killed_while_it_boots_leaves_no_sockets(host: Host) -> None:
    """Its starter sees it end, and cleans up."""
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", "ballonet", "run", "-d", "--name", "box", "--memory", "160M"],
        env=host.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    note = state_dir_of("box") / MACHINE_NOTE
    wait_until(note.exists, "its process has begun")
    os.kill(json.loads(note.read_bytes())["process"][0], signal.SIGKILL)
    assert "ended while it was booting" in program.communicate(timeout=100)[1]
    assert list(host.run_dir.iterdir()) == []


def test_what_is_in_the_way_of_a_socket_is_gone_around(host: Host) -> None:
    seen = start(host, "box")
    run_dir = host.run_dir / "box"
    (run_dir / "agent.sock").unlink()
    (run_dir / "agent.sock").mkdir()
    wait_until(lambda: host.run("exec", "box", "true").returncode == 0, "its agent is reached elsewhere")
    assert host("balloon", "get", "box", "--json")
    host("rm", "--force", "box")
    assert not alive(seen["engine_pid"])
    assert [path.name for path in run_dir.iterdir()] == ["agent.sock"]
    shutil.rmtree(run_dir)


def test_an_owned_sandbox_whose_object_was_dropped_goes_on_quietly(host: Host) -> None:
    """And connections that nobody holds are closed without a word of asyncio's."""
    code = (
        "import gc; from ballonet.sdk.sync import Sandbox\n"
        "Sandbox.create('owned', memory='160M'); gc.collect()\n"
        "command = Sandbox.get('owned').exec_stream(['sh', '-c', 'read line; echo $line'], stdin=True)\n"
        "for _ in range(3):\n"
        "    gc.collect(); box = Sandbox.get('owned'); box.balloon.get()\n"
        "    assert box.exec(['echo', 'still']).stdout == b'still\\n'; del box\n"
        "gc.collect(); command.write_stdin(b'there\\n')\n"
        "assert b''.join(command) == b'there\\n'; assert command.wait().returncode == 0\n"
        "del command; gc.collect(); Sandbox.list(); gc.collect()\n"
        "print(*(f'{record.name} {record.state}' for record in Sandbox.list()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=host.env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "owned running\n", "")
    wait_until(lambda: host("ls", "-q") == "", "it ends with its program")
