"""The work of the guests of :mod:`bench.fleet`: a timeline of timed jobs. Runs in a guest that has only Python.

``python3 fleet_work.py ROLE [SCALE]`` prints one JSON object per job, ``{"job": …, "at": …, "took": …}``. Times are
seconds since the start of the program; SCALE multiplies the start times of the jobs. A job that is late because the
previous one took long starts immediately.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
#: Length of a timeline, independent of the duration of its jobs (seconds).
LENGTH_S = 150


def build() -> None:
    """Copy some hundred source files, compile them, write object files, and link: a large temporary allocation.

    As published for a build of Clang in 16 GiB, a build leaves a quarter of the guest's memory as page cache (12.2 GiB
    used afterwards, 8.0 without caches).
    """
    library = Path(sysconfig.get_path("stdlib"))
    tree = Path("/var/tmp/build")
    shutil.rmtree(tree, ignore_errors=True)
    for package in ("asyncio", "email", "json", "logging", "unittest"):
        shutil.copytree(library / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(tree, force=True, quiet=2)
    write(tree / "objects", 160)
    in_child(lambda: touch(220))


def numbers() -> None:
    """Allocate, compute, free."""
    in_child(lambda: compute(360))


def read_once() -> None:
    """Write a large file and read it once: its cache is useless afterwards."""
    path = Path("/var/tmp/large")
    if not path.exists():
        write(path, 240)
    read(path)


def read_hot() -> None:
    """Read a small file repeatedly: its cache is part of the working set."""
    path = Path("/var/tmp/hot")
    if not path.exists():
        write(path, 48)
    for _ in range(4):
        read(path)


def warm_up() -> None:
    """What an agent's sandbox does before it waits for a user: install packages, and run a large program once."""
    write(Path("/var/tmp/packages"), 120)
    in_child(lambda: touch(300))


def write(path: Path, mib: int) -> None:
    """Write a file, which is on the disk and in the page cache afterwards."""
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def touch(mib: int) -> bytearray:
    held = bytearray(mib * MIB)
    for at in range(0, len(held), 4096):
        held[at] = 1
    return held


def compute(mib: int) -> None:
    held = touch(mib)
    view = memoryview(held)
    for _ in range(2):
        hashlib.blake2b(view[: 96 * MIB]).digest()


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def in_child(work: Callable[[], object]) -> None:
    """Run ``work`` in a child process, so that all its memory is freed afterwards.

    :raises RuntimeError: the child was killed or failed.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    if ended != 0:
        raise RuntimeError(f"a job's process ended with wait status {ended}")


#: Jobs by role, with their start times (seconds).
TIMELINES: dict[str, list[tuple[float, Callable[[], None]]]] = {
    "build-1": [(3, build), (62, build), (118, build)],
    "build-2": [(30, build), (92, build)],
    "numbers-1": [(12, numbers), (50, numbers), (104, numbers)],
    "numbers-2": [(40, numbers), (82, numbers), (132, numbers)],
    "reader": [(6, read_once), (26, read_hot), (56, read_hot), (72, read_once), (112, read_hot)],
    "idle-1": [(1, warm_up)],
    "idle-2": [(18, warm_up)],
}


def main() -> None:
    began = time.monotonic()
    scale = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    for at, job in TIMELINES[sys.argv[1]]:
        time.sleep(max(0.0, began + at * scale - time.monotonic()))
        start = time.monotonic()
        try:
            job()
            failed = None
        except (RuntimeError, MemoryError, OSError) as error:
            failed = f"{type(error).__name__}: {error}"
        took = time.monotonic() - start
        print(
            json.dumps({"job": job.__name__, "at": start - began, "took": took, "failed": failed}), flush=True
        )
    time.sleep(max(0.0, began + LENGTH_S * scale - time.monotonic()))


if __name__ == "__main__":
    main()
