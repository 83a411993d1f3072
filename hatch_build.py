"""Builds what is not in the repository: ``python hatch_build.py`` builds all of it in place; wheels and editable
installs do the same through hatchling's hook below.

**Generated modules.** ``build_tools/`` writes the synchronous part of the SDK from the async classes.

**The guest's programs**, compiled static with whichever C compiler there is.
``src/ballonet/guest/agent/*.c`` becomes ``agent/bin/agent``, the guest's PID 1; ``agent/tsc/tsckhz.c`` becomes
``agent/bin/tsckhz``, which runs on the host. The wheel is then good for x86-64 Linux, and for any Python.

**The wheel's tag.** Package indexes refuse ``linux_x86_64``, which promises nothing about the C library that is needed
(PEP 513). Both programs are linked statically: they need no C library at all, whichever compiler made them (the test
of the wheel looks for an ELF interpreter, and finds none). So the oldest tags that installers of Python 3.11 know are
true of them: ``manylinux_2_17`` (PEP 600) on systems with glibc, ``musllinux_1_1`` (PEP 656) on those with musl. One
file has both.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

AGENT_DIR = Path("src/ballonet/guest/agent")
FLAGS = ("-static", "-Os", "-s", "-Wall", "-Wextra")
PLATFORM_TAG = "py3-none-manylinux_2_17_x86_64.musllinux_1_1_x86_64"


class BuildError(Exception):
    """The guest's programs cannot be built; the message says why and what to install."""


# No dataclass: hatchling loads this file without registering it as a module, which dataclasses rely on.
class Program(NamedTuple):
    """A program to build: from which C files, with which headers looked at, into which file."""

    sources: tuple[Path, ...]
    headers: tuple[Path, ...]
    output: Path

    def is_current(self) -> bool:
        """Whether the output is there and newer than all it is built from (this file's flags included)."""
        inputs = (*self.sources, *self.headers, Path(__file__))
        try:
            built = self.output.stat().st_mtime_ns
            return all(path.stat().st_mtime_ns < built for path in inputs)
        except FileNotFoundError:
            return False


def programs(agent_dir: Path) -> list[Program]:
    """What is to be built in ``agent_dir``.

    :raises BuildError: the C sources are not there.
    """
    agent, tsckhz = sorted(agent_dir.glob("*.c")), agent_dir / "tsc" / "tsckhz.c"
    if not agent or not tsckhz.is_file():
        raise BuildError(f"the C sources of the guest's programs are missing in {agent_dir}")
    return [
        Program(tuple(agent), tuple(sorted(agent_dir.glob("*.h"))), agent_dir / "bin" / "agent"),
        Program((tsckhz,), (), agent_dir / "bin" / "tsckhz"),
    ]


def compilers() -> list[list[str]]:
    """The compilers that are here, as the beginning of a command line, the preferred one first."""
    found = []
    for name in ("musl-gcc", "gcc"):
        path = shutil.which(name)
        if path:
            found.append([path])
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl"])
    return found


def compile_program(program: Program, with_compilers: Sequence[Sequence[str]]) -> None:
    """Compile with the first of the compilers that can.

    A compiler may be there without what static linking needs (``gcc`` without a static C library), so that the
    next one is tried after any failure.

    :raises BuildError: none could; the message has what each of them said.
    """
    said = []
    program.output.parent.mkdir(exist_ok=True)
    # Written beside and renamed: a test or another build that runs meanwhile sees a whole program.
    temporary = program.output.with_name(f".{program.output.name}.{os.getpid()}")
    try:
        for compiler in with_compilers:
            command = [*compiler, *FLAGS, "-o", str(temporary), *map(str, program.sources)]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                if done.stderr:
                    print(done.stderr, file=sys.stderr)
                temporary.replace(program.output)
                return
            said.append(f"$ {' '.join(command)}\n{done.stderr.strip()[-4000:]}")
    finally:
        temporary.unlink(missing_ok=True)
    if not said:
        said.append(
            "there is no C compiler: install musl-tools (Debian, Ubuntu), or gcc with a static C library, "
        )
        said.append("or the Python package ziglang")
    raise BuildError(f"the guest's program {program.output.name} cannot be compiled:\n" + "\n".join(said))


def compile_all(agent_dir: Path, with_compilers: Sequence[Sequence[str]] | None = None) -> list[Path]:
    """Compile what is not current in ``agent_dir`` and return the paths of all the programs.

    :raises BuildError: not on x86-64 Linux, sources missing, no compiler, or it failed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise BuildError(
            f"the guest's programs are built on x86-64 Linux, not {platform.machine()} {sys.platform}"
        )
    wanted = programs(agent_dir)
    for program in wanted:
        if not program.is_current():
            compile_program(program, compilers() if with_compilers is None else with_compilers)
    return [program.output for program in wanted]


def generate_modules(root: Path) -> list[Path]:
    """Write the generated modules below ``root`` as far as they have changed, and return the paths of all."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # hatchling does not put it there
    try:
        from build_tools.generate import write
    finally:
        sys.path.pop(0)
    return write(root / "src")


def build_all(root: Path) -> list[Path]:
    """Build everything that is not in the repository, and return the paths of all that was built.

    :raises BuildError: a program cannot be built.
    """
    return [*generate_modules(root), *compile_all(root / AGENT_DIR)]


class BuildHook(BuildHookInterface[Any]):
    """Hatchling's entry point: builds before a wheel (also an editable one) is assembled, and sets its tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; hatchling passes ``standard`` or ``editable`` as ``version``."""
        build_all(Path(self.root))
        build_data["pure_python"] = False
        build_data["tag"] = PLATFORM_TAG


if __name__ == "__main__":
    try:
        build_all(Path(__file__).resolve().parent)
    except BuildError as error:
        sys.exit(f"error: {error}")
