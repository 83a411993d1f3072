"""``ballonet top`` always ends, at any moment, and gives the terminal back as it was."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.sdk.sandbox import Sandbox
from tests.vm.terminal import TOP, Terminal, terminal

#: So often Ctrl-C is pressed at a random moment.
TIMES = 50


@pytest.fixture
def busy_processors() -> Iterator[None]:
    """Two processes that use all the processor time that they get."""
    spin = [sys.executable, "-c", "while True: pass"]
    words = [["stress-ng", "--quiet", "--cpu", "2"]] if shutil.which("stress-ng") else [spin, spin]
    started = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for argv in words]
    yield
    for process in started:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ctrl_c_ends_it_at_any_moment_on_a_busy_machine(sandbox: Sandbox, busy_processors: None) -> None:
    seed = int(os.environ.get("BALLONET_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"BALLONET_TEST_SEED={seed}")
    chance = random.Random(seed)
    for turn in range(TIMES):
        with terminal(80, 24, "--interval", "0.2") as top:
            # From its very first instruction to well after several frames, resized and with keys under way.
            moment = time.monotonic() + chance.uniform(0, 2)
            resized = time.monotonic() + chance.uniform(0, 2)
            while time.monotonic() < moment:
                top.read(0.01)
                if time.monotonic() > resized:
                    resized = moment
                    top.resize(chance.choice((60, 80, 200)), chance.choice((20, 24, 50)))
                    top.press(chance.choice("h>r -+"))
            drawn = b"\x1b[?1049h" in top.written
            top.press("\x03")
            status = top.wait_end()
            # Before Python has begun, and while it begins, the status is the kernel's or Python's own.
            assert status == 130 or (not drawn and status in (-signal.SIGINT, 1)), f"{turn}: {top.written!r}"
            assert top.given_back(), f"{turn}: {top.written[-300:]!r}"


def test_ctrl_c_ends_it_where_its_parent_ignored_interrupts(sandbox: Sandbox) -> None:
    # As a shell's background job does, such as a test suite that was started by one.
    with terminal(80, 24, ignored=(signal.SIGINT,)) as top:
        top.wait(lambda: top.row("shared"), "the sandbox")
        top.press("\x03")
        assert top.wait_end() == 130
        assert top.given_back()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_it_and_the_terminal_is_as_it_was(sandbox: Sandbox, number: signal.Signals) -> None:
    with terminal(80, 24) as top:
        top.wait(lambda: top.row("shared"), "the sandbox")
        top.process.send_signal(number)
        assert top.wait_end() == 128 + number
        assert top.given_back()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_that_takes_no_output_does_not_hold_it_up(
    sandbox: Sandbox, number: signal.Signals
) -> None:
    with terminal(200, 50, "--interval", "0.2") as top:
        top.wait(lambda: top.row("shared"), "the sandbox")
        top.fill()
        top.press("h")
        _wait_until_it_waits_to_write(top)
        top.process.send_signal(number)
        assert top.process.wait(60) == 128 + number
        # Of the screen nothing can be asked: what was written last may be lost with all that was never read.
        assert termios.tcgetattr(top.slave) == top.settings


def _wait_until_it_waits_to_write(top: Terminal) -> None:
    write = {"1", "20"}  # write and writev on x86-64
    syscall = Path(f"/proc/{top.process.pid}/syscall")
    deadline = time.monotonic() + 60
    looks = 0
    while syscall.read_text().split()[0] not in write:
        assert time.monotonic() < deadline, syscall.read_text()
        time.sleep(0.02)
        looks += 1
        if looks % 50 == 0:
            top.press("h")  # another screen: a small change may have found room in the terminal


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,)])
def test_a_terminal_that_is_closed_ends_it(sandbox: Sandbox, ignored: tuple[int, ...]) -> None:
    with terminal(80, 24, ignored=ignored) as top:
        top.wait(lambda: top.row("shared"), "the sandbox")
        top.hang_up()
        assert top.process.wait(60) == 128 + signal.SIGHUP


def test_ctrl_c_ends_it_while_a_sandbox_is_stuck(sandbox: Sandbox) -> None:
    os.kill(sandbox.pid, signal.SIGSTOP)
    try:
        with terminal(80, 24) as top:
            top.wait(lambda: b"collecting figures" in top.written, "its first line")
            top.press("\x03")
            assert top.wait_end() == 130
            assert top.given_back()
    finally:
        os.kill(sandbox.pid, signal.SIGCONT)


def test_ctrl_z_gives_the_terminal_back_and_fg_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    command = " ".join(TOP) + " --interval 0.5"
    bash = ["bash", "--norc", "--noprofile", "-i"]
    with terminal(100, 30, argv=bash, env={"PS1": "ready> "}) as shell:

        def prompts() -> int:
            return shell.written.count(b"ready> ")

        def type_in(line: str) -> None:
            """Type a command, and wait until the shell has done it."""
            before = prompts()
            shell.press(line + "\n")
            shell.wait(lambda: prompts() > before, f"the prompt after {line}")

        def says(line: str) -> str:
            type_in(f"{line} >{tmp_path}/said")
            return (tmp_path / "said").read_text()

        def watches() -> bool:
            return bool(shell.row("shared")) and "q quit" in shell.screen.display[-1]

        def stop() -> None:
            before = prompts()
            shell.press("\x1a")
            shell.wait(lambda: prompts() > before, "the shell again")
            assert "Stopped" in shell.text
            type_in("clear")

        shell.wait(prompts, "the shell")
        settings = says("stty -g")
        shell.press(f"clear; {command}\n")
        shell.wait(watches, "the sandbox")
        stop()
        assert says("stty -g") == settings
        shell.resize(80, 24)
        shell.press("fg\n")
        shell.wait(watches, "that it goes on, in its new size")
        shell.press("h")
        shell.wait(lambda: "top: help" in shell.text, "that it hears keys")
        shell.press("h")
        shell.wait(watches, "the sandbox again")
        stop()
        type_in("bg")
        assert says("stty -g") == settings
        shell.press("clear; fg\n")
        shell.wait(watches, "that it goes on from the background")
        before = prompts()
        shell.press("\x03")
        shell.wait(lambda: prompts() > before, "the shell, as it has ended")
        assert says("echo $?") == "130\n"
        assert says("stty -g") == settings

        shell.press(f"clear; {command}\n")
        shell.wait(watches, "another one")
        stop()
        pid = int(says("jobs -p"))
        type_in("kill %1")
        # Until the shell has taken its status, "wait" tells that of a stopped job: 148.
        shell.wait(lambda: not Path(f"/proc/{pid}").exists(), "that a stopped one ends, too")
        # The shell may have told its end already: then it does not know the job any more.
        assert says("wait %1; echo $?") == "143\n" or b"Exit 143" in shell.written
        assert says("stty -g") == settings
