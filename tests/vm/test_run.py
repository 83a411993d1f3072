"""``ballonet run`` as a person uses it: status, streams, signals, and nothing left behind, whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.guest.bundle import GuestBundle
from ballonet.sdk.sandbox import Sandbox
from tests.vm.processes import alive, children, descendants, wait_until

Call = Callable[..., subprocess.CompletedProcess[str]]


def test_output_streams_and_status_are_the_commands_own(ballonet: Call) -> None:
    done = ballonet("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_input_working_directory_and_environment_reach_the_command(ballonet: Call) -> None:
    command = ["sh", "-c", "pwd; echo $WORD; cat"]
    done = ballonet("run", "-i", "-w", "/tmp", "-e", "WORD=x y", "--", *command, stdin="from us\n")
    assert (done.returncode, done.stdout) == (0, "/tmp\nx y\nfrom us\n")


def test_a_missing_command_is_127_and_says_so(ballonet: Call) -> None:
    done = ballonet("run", "--", "no-such-thing")
    assert done.returncode == 127
    assert "no-such-thing" in done.stderr


def test_a_command_killed_by_a_signal_is_128_and_its_number(ballonet: Call) -> None:
    assert ballonet("run", "--", "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV


def test_the_root_is_busybox_and_memory_is_what_was_asked(ballonet: Call) -> None:
    done = ballonet(
        "run", "--memory", "256M", "--cpus", "2", "--", "sh", "-c", "nproc; grep MemTotal /proc/meminfo"
    )
    processors, total = done.stdout.splitlines()
    assert processors == "2"
    assert 256 * 1024 * 0.7 < int(total.split()[1]) < 256 * 1024


def test_the_guest_can_talk_to_itself_and_to_nobody_else(ballonet: Call) -> None:
    done = ballonet("run", "--", "sh", "-c", "ping -c 1 -W 5 127.0.0.1 >/dev/null && ls /sys/class/net")
    assert (done.returncode, done.stdout) == (0, "lo\n")


def test_a_guest_that_powers_off_ends_the_run_with_the_reason(ballonet: Call) -> None:
    done = ballonet("run", "--", "sh", "-c", "poweroff -f; sleep 1000")
    assert done.returncode == 125
    assert "the guest powered off" in done.stderr


def test_a_guest_that_panics_ends_the_run_with_the_panics_words(ballonet: Call) -> None:
    done = ballonet("run", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 1000")
    assert done.returncode == 125
    assert "kernel panicked: sysrq triggered crash" in done.stderr


class Running:
    """A ``ballonet run`` under way."""

    def __init__(self, run_directory: Path, *words: str) -> None:
        self.run_directory = run_directory
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ballonet", "run", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.all: list[int] = []

    def wait_for_line(self) -> str:
        """Wait until the command in the guest has said a line; remember the processes that exist then."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.all = [self.process.pid, *descendants(self.process.pid)]
        assert len(self.all) >= 3, "we, the sandbox's process, and the engine"
        return line.strip()

    @property
    def machine_pid(self) -> int:
        return children(self.process.pid)[0]

    @property
    def engine_pid(self) -> int:
        return children(self.machine_pid)[0]

    def kill_all(self) -> None:
        """Kill the sandbox's process, and the program that it belongs to before that one can clean up."""
        self.process.send_signal(signal.SIGSTOP)
        os.kill(self.machine_pid, signal.SIGKILL)
        self.process.kill()
        self.ended()

    def ended(self) -> tuple[int, str]:
        """Status and standard error, once it has ended and nothing of it lives."""
        _, err = self.process.communicate(timeout=120)
        wait_until(lambda: not any(map(alive, self.all)), f"the end of processes {self.all}")
        return self.process.returncode, err


@pytest.fixture
def running(guest: GuestBundle, run_directory: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*words: str) -> Running:
        started.append(Running(run_directory, *words))
        return started[-1]

    before = sorted(run_directory.rglob("*"))
    yield start
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
            run.process.communicate()
    wait_until(lambda: sorted(run_directory.rglob("*")) == before, f"{run_directory} to be as it was")


SLEEPER = ("--", "sh", "-c", "echo ready; exec sleep 1000")
STUBBORN = ("--", "sh", "-c", "trap '' INT TERM; echo ready; while :; do sleep 1; done")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_to_the_command(
    running: Callable[..., Running], number: signal.Signals
) -> None:
    run = running(*SLEEPER)
    assert run.wait_for_line() == "ready"
    run.process.send_signal(number)
    assert run.ended()[0] == 128 + number


def test_a_command_may_handle_the_signal_itself(running: Callable[..., Running]) -> None:
    run = running("--", "sh", "-c", "trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done")
    assert run.wait_for_line() == "ready"
    run.process.send_signal(signal.SIGINT)
    assert run.ended()[0] == 3


def test_a_second_signal_ends_a_command_that_ignores_the_first(running: Callable[..., Running]) -> None:
    run = running(*STUBBORN)
    assert run.wait_for_line() == "ready"
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGTERM)
    status, _ = run.ended()
    assert status in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def test_ctrl_c_while_booting_leaves_nothing(running: Callable[..., Running]) -> None:
    run = running(*SLEEPER)
    wait_until(lambda: len(descendants(run.process.pid)) >= 2, "the engine to be started")
    run.all = [run.process.pid, *descendants(run.process.pid)]
    run.process.send_signal(signal.SIGINT)
    assert run.ended()[0] == 128 + signal.SIGINT


def test_when_run_is_killed_its_sandbox_ends_too(running: Callable[..., Running]) -> None:
    run = running(*SLEEPER)
    run.wait_for_line()
    run.process.kill()
    assert run.ended()[0] == -signal.SIGKILL


def test_when_the_engine_is_killed_the_run_says_so(running: Callable[..., Running]) -> None:
    run = running(*SLEEPER)
    run.wait_for_line()
    os.kill(run.engine_pid, signal.SIGKILL)
    status, err = run.ended()
    assert status == 125
    assert "QEMU was killed by SIGKILL" in err


def test_when_the_sandboxs_process_is_killed_the_engine_dies_and_prune_cleans_up(
    running: Callable[..., Running], run_directory: Path
) -> None:
    run = running("--name", "reborn", *SLEEPER)
    run.wait_for_line()
    run.kill_all()
    assert (run_directory / "reborn").is_dir(), "what SIGKILL leaves when nobody has looked since"
    subprocess.run([sys.executable, "-P", "-m", "ballonet", "prune"], check=True)
    assert not (run_directory / "reborn").exists()


def test_when_the_sandboxs_process_is_killed_the_run_says_so_and_leaves_nothing(
    running: Callable[..., Running], run_directory: Path
) -> None:
    run = running("--name", "reborn", *SLEEPER)
    run.wait_for_line()
    os.kill(run.machine_pid, signal.SIGKILL)
    status, err = run.ended()
    assert status == 125
    assert "ended" in err
    assert not (run_directory / "reborn").exists()


def test_the_next_start_of_a_name_replaces_what_a_killed_one_left(
    running: Callable[..., Running], run_directory: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "control.sock"
    options = ("--name", "reborn", "--balloon-control-socket", str(elsewhere))
    run = running(*options, *SLEEPER)
    run.wait_for_line()
    assert (run_directory / "reborn" / "control.sock").readlink() == elsewhere
    run.kill_all()
    assert elsewhere.exists(), "what SIGKILL leaves"
    # It waits for our word, so that its processes are still there to be counted.
    again = running("-i", "--name", "reborn", "--", "sh", "-c", "echo again; read end")
    assert again.wait_for_line() == "again"
    again.process.communicate("end\n", timeout=120)
    assert again.ended()[0] == 0
    assert not (run_directory / "reborn").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_running_is_refused_and_left_alone(ballonet: Call, sandbox: Sandbox) -> None:
    done = ballonet("run", "--name", sandbox.config.name, "--", "true")
    assert done.returncode == 2
    assert f"there is a sandbox named {sandbox.config.name!r} already" in done.stderr
    assert alive(sandbox.engine_pid)


def test_a_bind_failure_stops_start_up_and_names_path_and_cause(ballonet: Call) -> None:
    # Even root, who may write in every directory, cannot bind in this one.
    done = ballonet("run", "--balloon-control-socket", "/proc/x.sock", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot bind the control socket '/proc/x.sock'" in done.stderr
    assert "No such file or directory" in done.stderr


def test_a_live_control_socket_is_never_stolen(ballonet: Call, sandbox: Sandbox) -> None:
    assert sandbox.control_socket is not None
    done = ballonet("run", "--balloon-control-socket", str(sandbox.control_socket), "--", "true")
    assert done.returncode == 2
    assert str(sandbox.control_socket) in done.stderr
    assert sandbox.control_socket.is_socket()


def test_a_stale_control_socket_is_replaced_and_removed_at_the_end(ballonet: Call, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    done = ballonet("run", "--balloon-control-socket", str(path), "--", "true")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_control_socket_and_its_directory_are_private(sandbox: Sandbox, run_directory: Path) -> None:
    assert sandbox.control_socket is not None
    assert sandbox.control_socket.stat().st_mode & 0o777 == 0o600
    assert sandbox.control_socket.parent.stat().st_mode & 0o777 == 0o700
    assert sandbox.agent_socket.stat().st_mode & 0o777 == 0o600


def test_the_engines_command_line_is_printed_without_starting_it(ballonet: Call) -> None:
    done = ballonet("run", "--dry-run", "--memory", "1G", "--balloon-initial", "512M", "--", "true")
    assert done.returncode == 0
    for word in ("qemu-system-x86_64", "-sandbox on", "size=1024M,share=on", "virtio-balloon-device"):
        assert word in done.stdout
