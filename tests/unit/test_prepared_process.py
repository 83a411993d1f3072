"""The process that a command line forks for the sandbox that it starts."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ballonet.host.proc import read_environment, read_words

DEADLINE_S = 60.0
#: Prepares a process, prints its pid and the descriptor of its line, and waits.
PREPARE = """
import os, sys
from ballonet.machine import launch, prepared_process
launch.prepare()
prepared = prepared_process.take_prepared()
print(prepared.child.pid, prepared.owner_fd, flush=True)
"""


def program(code: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )


def prepared_in(parent: subprocess.Popen[str]) -> tuple[int, int]:
    assert parent.stdout is not None
    pid, fd = parent.stdout.readline().split()
    return int(pid), int(fd)


def ended(pidfd: int) -> bool:
    ready, _, _ = select.select([pidfd], [], [], DEADLINE_S)
    return bool(ready)


def test_it_ends_with_its_parent_however_that_ends() -> None:
    with program(PREPARE + "sys.stdin.read()") as parent:
        pidfd = os.pidfd_open(prepared_in(parent)[0])
        parent.send_signal(signal.SIGKILL)
        assert ended(pidfd)
    os.close(pidfd)


def test_an_unused_one_is_ended_before_the_command_returns() -> None:
    code = "prepared.discard()\nprint('discarded', flush=True); sys.stdin.read()"
    with program(PREPARE + code) as parent:
        pid, _ = prepared_in(parent)
        assert parent.stdout is not None
        assert parent.stdout.readline() == "discarded\n"
        assert not Path(f"/proc/{pid}").exists()
        parent.terminate()


def test_it_keeps_no_descriptor_of_its_parent_and_has_a_session_of_its_own() -> None:
    read, write = os.pipe()
    with program(PREPARE + "sys.stdin.read()", pass_fds=[write]) as parent:
        os.close(write)
        pid, line = prepared_in(parent)
        deadline = time.monotonic() + DEADLINE_S
        while {int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()} != {0, 1, 2, line}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.getsid(pid) == pid
        assert {str(Path(f"/proc/{pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)} == {"/dev/null"}
        parent.terminate()
    assert os.read(read, 1) == b""
    os.close(read)


#: What the child is told to run in place of a sandbox: it writes what it sees of itself to its standard error.
SEEN = """
import os, sys
from ballonet.machine import launch, main, prepared_process
def show(words):
    cmdline = open("/proc/self/cmdline").read().split(chr(0))
    variable = open("/proc/self/environ").read().count("ODD=a b")
    print(words, cmdline[-3:-1], variable, os.environ["ODD"], file=sys.stderr)
    return 7
main.main = show
launch.prepare()
prepared = prepared_process.take_prepared()
log = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
prepared.begin([sys.executable, "-P", "-m", "ballonet", "sandbox", "--one", "x y"], {"ODD": "a b"}, log)
print(prepared.child.wait())
"""


def test_it_becomes_what_it_is_told_to_be(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", SEEN, str(log)], capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    assert done.stdout == "7\n"
    assert log.read_text() == "['--one', 'x y'] ['--one', 'x y'] 1 a b\n"


#: On a kernel that does not let a process say what /proc shows of it.
REFUSED = """
import os, sys
from ballonet.host import process_words
from ballonet.machine import launch, prepared_process
process_words.show_words = lambda *_: False
launch.prepare()
prepared = prepared_process.take_prepared()
log = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
code = "import os; os.write(2, os.environb[b'ODD'] + b' in another interpreter')"
prepared.begin([sys.executable, "-c", code, "sandbox"], {"ODD": "a"}, log)
print(prepared.child.wait())
"""


def test_it_executes_another_interpreter_where_proc_would_show_its_parent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(log)],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout == "0\n"
    assert log.read_text() == "a in another interpreter"


def test_proc_shows_the_words_and_the_memory_can_still_grow() -> None:
    code = (
        "import sys; from ballonet.host.process_words import show_words\n"
        "print(show_words(['/opt/program', 'a b', '\\udcff', ''], {'A': 'b', 'C': ''}), flush=True)\n"
        "kept = [bytes(900) for _ in range(100_000)]\n"
        "print(len(kept), flush=True); sys.stdin.read()"
    )
    with program(code) as shown:
        assert shown.stdout is not None
        assert shown.stdout.readline() == "True\n"
        assert shown.stdout.readline() == "100000\n"
        assert read_words(shown.pid) == ["/opt/program", "a b", "\udcff", ""]
        assert read_environment(shown.pid) == {"A": "b", "C": ""}
        assert Path(f"/proc/{shown.pid}/comm").read_text() == "program\n"
        shown.terminate()
