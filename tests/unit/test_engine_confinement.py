"""A program in the engine's place tries what an engine that was taken over might, with its confinement; and without, to
show that each try would work."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ballonet.host import landlock, system_calls
from ballonet.machine.engine_confinement import confinement_of
from ballonet.vmm.attach import Net
from ballonet.vmm.config import Accel, DiskSpec, Machine, VmSpec

#: The system's Python: its files are where an engine's are.
PYTHON = Path("/usr/bin/python3")
pytestmark = pytest.mark.skipif(
    landlock.landlock_version() < 6 or not system_calls.can_filter() or not PYTHON.exists(),
    reason="this kernel has no Landlock 6, or this host no /usr/bin/python3",
)

#: Prints what each try said, as JSON: "done", or the error.
_TRIES = r"""
import ctypes, json, os, resource, socket, sys
facts = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(address)
def send():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", facts["datagrams"])
def memory():
    with open(f"/proc/{facts['victim']}/mem", "rb") as file:
        file.read(0)
def write(path):
    os.close(os.open(path, os.O_WRONLY))
tries = {
    "read a file": lambda: open(facts["secret"]).read(),
    "write a file": lambda: write(facts["secret"]),
    "truncate a file": lambda: os.truncate(facts["truncated"], 0),
    "list a directory": lambda: os.listdir(os.path.dirname(facts["secret"])),
    "make a file": lambda: open(facts["secret"] + ".new", "w").close(),
    "remove a file": lambda: os.unlink(facts["removed"]),
    "rename a file": lambda: os.rename(facts["renamed"], facts["renamed"] + ".new"),
    "change a mode": lambda: os.chmod(facts["secret"], 0o644),
    "change times": lambda: os.utime(facts["secret"]),
    "read another disk": lambda: open(facts["other_disk"], "rb").read(1),
    "write its root": lambda: write(facts["root"]),
    "connect to a socket": lambda: connect(socket.AF_UNIX, facts["socket"]),
    "connect to an abstract socket": lambda: connect(socket.AF_UNIX, "\0" + facts["abstract"]),
    "send a datagram": send,
    "connect over TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", facts["port"])),
    "signal a process": lambda: os.kill(facts["victim"], 0),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "signal its group": lambda: os.kill(0, 0),
    "open a process": lambda: os.close(checked(libc.syscall(434, facts["victim"], 0))),
    "read a process's memory": memory,
    "read a process's environment": lambda: open(f"/proc/{facts['victim']}/environ").read(),
    "limit a process": lambda: resource.prlimit(facts["victim"], resource.RLIMIT_NOFILE, (64, 64)),
    "slow a process down": lambda: os.setpriority(os.PRIO_PROCESS, facts["victim"], 1),
    "trace a process": lambda: checked(libc.ptrace(16, facts["victim"], 0, 0)),
}
needed = {
    "its disk": lambda: write(facts["disk"]),
    "read its root": lambda: open(facts["root"], "rb").read(1),
    "its kernel": lambda: open(facts["kernel"], "rb").read(1),
    "random numbers": lambda: open("/dev/urandom", "rb").read(1),
    "signal itself": lambda: os.kill(os.getpid(), 0),
    "its own limits": lambda: resource.prlimit(0, resource.RLIMIT_NOFILE, (64, 64)),
}
said = {}
for name, attempt in (tries | needed).items():
    try:
        attempt()
        said[name] = "done"
    except OSError as error:
        said[name] = os.strerror(error.errno) if error.errno else str(error)
    except ValueError:
        said[name] = "done"
print(json.dumps([{name: said[name] for name in part} for part in (tries, needed)]))
"""


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[dict[str, object]]:
    """What there is to reach."""
    files = ("secret", "truncated", "removed", "renamed", "other_disk", "root", "kernel", "disk")
    for name in files:
        (tmp_path / name).write_bytes(bytes(4096))
    with (
        socket.socket(socket.AF_UNIX) as control,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        subprocess.Popen(["sleep", "1000"]) as victim,
    ):
        control.bind(str(tmp_path / "control"))
        datagrams.bind(str(tmp_path / "datagrams"))
        abstract.bind(f"\0ballonet-{os.getpid()}")
        for listener in (control, abstract):
            listener.listen()
        yield {
            **{name: str(tmp_path / name) for name in files},
            "socket": str(tmp_path / "control"),
            "datagrams": str(tmp_path / "datagrams"),
            "abstract": f"ballonet-{os.getpid()}",
            "port": tcp.getsockname()[1],
            "victim": victim.pid,
        }
        victim.kill()


def spec_of(directory: Path) -> VmSpec:
    return VmSpec(
        name="box",
        cpus=1,
        memory_mib=128,
        machine=Machine.MICROVM,
        accel=Accel.TCG,
        kernel=directory / "kernel",
        initramfs=directory / "missing",
        disks=(
            DiskSpec("root", directory / "root", read_only=True),
            DiskSpec("disk", directory / "disk"),
        ),
    )


def run(script: str, *words: str, confine: Callable[[], None] | None) -> str:
    done = subprocess.run(
        [PYTHON, "-I", "-c", script, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        preexec_fn=confine,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_engine_that_was_taken_over_reaches_nothing_but_its_own_files(
    facts: dict[str, object], tmp_path: Path
) -> None:
    confinement = confinement_of(spec_of(tmp_path), PYTHON)
    assert confinement.landlock == landlock.landlock_version()
    tried, needed = json.loads(run(_TRIES, json.dumps(facts), confine=confinement.in_child))
    assert [name for name, said in tried.items() if said == "done"] == []
    assert set(tried.values()) <= {"Permission denied", "Operation not permitted"}, tried
    assert [name for name, said in needed.items() if said != "done"] == []
    # Each of the tries would have worked.
    tried, needed = json.loads(run(_TRIES, json.dumps(facts), confine=None))
    assert [name for name, said in (tried | needed).items() if said != "done"] == []


def test_each_part_holds_without_the_other(
    facts: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel without Landlock, and on a processor without our filter."""
    by_calls = {
        "connect over TCP",
        "connect to a socket",
        "send a datagram",
        "signal a process",
        "trace a process",
    }
    by_calls |= {"change a mode", "open a process"}
    by_files = {"read a file", "make a file", "remove a file", "read another disk", "read a process's memory"}
    by_files |= {"signal a process", "connect over TCP"}
    with monkeypatch.context() as patch:
        patch.setattr("ballonet.machine.engine_confinement.landlock_version", lambda: 0)
        confinement = confinement_of(spec_of(tmp_path), PYTHON)
        tried, _ = json.loads(run(_TRIES, json.dumps(facts), confine=confinement.in_child))
        assert {name for name in by_calls if tried[name] == "done"} == set()
        assert confinement.landlock == 0
    for name in ("removed", "renamed"):
        (tmp_path / name).write_bytes(bytes(4096))
    monkeypatch.setattr("ballonet.machine.engine_confinement.can_filter", lambda: False)
    confinement = confinement_of(spec_of(tmp_path), PYTHON)
    tried, _ = json.loads(run(_TRIES, json.dumps(facts), confine=confinement.in_child))
    assert {name for name in by_files if tried[name] == "done"} == set()


def test_an_isolated_guests_engine_may_listen(tmp_path: Path, facts: dict[str, object]) -> None:
    spec = replace(spec_of(tmp_path), net=Net.ISOLATED)
    listens = "import socket; socket.create_server(('127.0.0.1', 0)); print('listens')"
    assert run(listens, confine=confinement_of(spec, PYTHON).in_child) == "listens\n"


def test_limits_of_descriptors_files_and_core_dumps(tmp_path: Path, facts: dict[str, object]) -> None:
    script = "import resource, sys; print([resource.getrlimit(int(each)) for each in sys.argv[1:]])"
    which = (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
    said = run(script, *map(str, which), confine=confinement_of(spec_of(tmp_path), PYTHON).in_child)
    assert said == f"[(0, 0), {(64 << 20, 64 << 20)}, (1024, 1024)]\n"


def test_a_script_in_the_engines_place_may_read_what_it_needs(tmp_path: Path) -> None:
    script = tmp_path / "qemu"
    script.write_text(f"#!{sys.executable}\n")
    confinement = confinement_of(replace(spec_of(tmp_path), disks=()), script)
    assert confinement.landlock == 0
    reads = "import sys; print(open(sys.argv[1]).read()[:2])"
    assert run(reads, str(script), confine=confinement.in_child) == "#!\n"
