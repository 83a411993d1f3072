"""Starting programs: found, run to their end, waited for, and ended with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.errors import HostError, ProcessError
from ballonet.base.process import find_program, run, show_command, spawn, wait_exit


def test_a_program_is_found_and_a_missing_one_comes_with_its_hint(tmp_path: Path) -> None:
    assert find_program("sh", hint="").is_absolute()
    with pytest.raises(HostError, match="nope is not installed") as caught:
        find_program("nope", hint="install nope", search=[str(tmp_path)])
    assert caught.value.hint == "install nope"


def test_directories_of_the_search_path_that_cannot_be_entered_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(tmp_path / "closed")
    is_file = Path.is_file

    def refusing(path: Path) -> bool:
        if str(path).startswith(closed):
            raise PermissionError(13, "Permission denied")  # what stat(2) says to a user who is not root
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refusing)
    assert find_program("sh", hint="", search=[closed, "relative", "/bin"]) == Path("/bin/sh")


def test_run_returns_output_and_passes_input() -> None:
    assert run(["tr", "a", "b"], input_text="banana") == "bbnbnb"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sh", "-c", "echo reason >&2; exit 3"], "sh exited with status 3: reason"),
        (["/nonexistent/program"], "could not be started"),
        (["/etc/passwd"], "could not be started"),
    ],
)
def test_a_failing_program_is_an_error_with_its_last_words(argv: list[str], message: str) -> None:
    with pytest.raises(ProcessError, match=message):
        run(argv)


def test_a_program_that_does_not_end_is_ended() -> None:
    with pytest.raises(ProcessError, match="did not finish within"):
        run(["sleep", "1000"], timeout_s=0.05)


def test_a_command_is_shown_as_a_shell_would_read_it() -> None:
    assert show_command(["a b", Path("c"), "$d"]) == "'a b' c '$d'"


async def test_an_exit_is_noticed_with_its_status_or_signal() -> None:
    assert await wait_exit(spawn(["sh", "-c", "exit 7"])) == 7
    child = spawn(["sleep", "1000"])
    os.kill(child.pid, signal.SIGTERM)
    assert await wait_exit(child) == -signal.SIGTERM


def test_a_child_that_is_to_die_with_its_parent_does() -> None:
    program = (
        "import os, signal; from ballonet.base.process import spawn\n"
        "child = spawn(['sleep', '1000'], die_with_parent=True); print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    pidfd = None
    try:
        pidfd = os.pidfd_open(child)
        import select

        assert select.select([pidfd], [], [], 60)[0], "the child outlived its parent"
    except ProcessLookupError:
        pass  # gone already, and reaped
    finally:
        if pidfd is not None:
            os.close(pidfd)


def test_what_prevents_a_start_in_the_child_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=rf"true could not be started: .*No such file.*{tmp_path}/gone"):
        spawn(["true"], cgroup_procs=[f"{tmp_path}/gone"])


def test_a_start_without_a_free_descriptor_is_an_error_of_ours() -> None:
    program = (
        "import os, resource\n"
        "from ballonet.base.errors import ProcessError\n"
        "from ballonet.base.process import spawn\n"
        "spawn(['true'], cgroup_procs=['/dev/null']).wait()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1,) * 2)\n"
        "try:\n"
        "    spawn(['true'], cgroup_procs=['/dev/null'])\n"
        "except ProcessError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "true could not be started: [Errno 24] Too many open files\n", done.stderr
