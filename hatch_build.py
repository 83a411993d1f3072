"""Builds what is not in the repository: ``python hatch_build.py`` builds all of it in place; wheels and editable
installs do the same through hatchling's hook below.

**Generated modules.** ``build_tools/`` writes the synchronous part of the SDK from the async classes.

**The page.** ``build_tools/page_files.py`` fetches the libraries of the page of ``ballonet serve`` with npm, into
``src/ballonet/serve/page/vendor/``. ``BALLONET_WITHOUT_PAGE=1`` leaves them out.

**The guest's programs**, compiled static with whichever C compiler there is.
``src/ballonet/guest/agent/*.c`` is compiled to ``agent/bin/agent``, the guest's PID 1; ``agent/tsc/tsckhz.c`` to
``agent/bin/tsckhz``, which runs on the host. The wheel works on x86-64 Linux with any supported Python.

**The wheel's tag.** Package indexes reject ``linux_x86_64``, which does not say which C library is needed (PEP 513).
Both programs are linked statically and need no C library (the test of the wheel checks that they have no ELF
interpreter). Therefore the oldest tags that installers of Python 3.11 know apply: ``manylinux_2_17`` (PEP 600) on
systems with glibc and ``musllinux_1_1`` (PEP 656) on systems with musl. The wheel has both.
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
from types import ModuleType
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

AGENT_DIR = Path("src/ballonet/guest/agent")
FLAGS = ("-static", "-Os", "-s", "-Wall", "-Wextra")
PLATFORM_TAG = "py3-none-manylinux_2_17_x86_64.musllinux_1_1_x86_64"


class BuildError(Exception):
    """The guest's programs cannot be built. The message has the reason and what to install."""


# Not a dataclass: these need a registered module, and hatchling loads this file without registering it.
class Program(NamedTuple):
    """A program to build: its C files, the headers that it depends on, and the output file."""

    sources: tuple[Path, ...]
    headers: tuple[Path, ...]
    output: Path

    def is_current(self) -> bool:
        """Whether the output exists and is newer than its inputs, including this file with its flags."""
        inputs = (*self.sources, *self.headers, Path(__file__))
        try:
            built = self.output.stat().st_mtime_ns
            return all(path.stat().st_mtime_ns < built for path in inputs)
        except FileNotFoundError:
            return False


def programs(agent_dir: Path) -> list[Program]:
    """The programs to build in ``agent_dir``.

    :raises BuildError: the C sources are missing.
    """
    agent, tsckhz = sorted(agent_dir.glob("*.c")), agent_dir / "tsc" / "tsckhz.c"
    if not agent or not tsckhz.is_file():
        raise BuildError(f"the C sources of the guest's programs are missing in {agent_dir}")
    return [
        Program(tuple(agent), tuple(sorted(agent_dir.glob("*.h"))), agent_dir / "bin" / "agent"),
        Program((tsckhz,), (), agent_dir / "bin" / "tsckhz"),
    ]


def compilers() -> list[list[str]]:
    """The installed compilers, as the start of a command line, in order of preference."""
    found = []
    for name in ("musl-gcc", "gcc"):
        path = shutil.which(name)
        if path:
            found.append([path])
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl"])
    return found


def compile_program(program: Program, with_compilers: Sequence[Sequence[str]]) -> None:
    """Compile with the first compiler that succeeds.

    A compiler may lack what static linking needs (``gcc`` without a static C library), so the next one is tried after
    any failure.

    :raises BuildError: all failed; the message has the output of each.
    """
    outputs = []
    program.output.parent.mkdir(exist_ok=True)
    # Write to a temporary file and rename it: a test or build at the same time then never sees a partial program.
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
            outputs.append(f"$ {' '.join(command)}\n{done.stderr.strip()[-4000:]}")
    finally:
        temporary.unlink(missing_ok=True)
    if not outputs:
        outputs.append(
            "no C compiler found: install musl-tools (Debian, Ubuntu), gcc with a static C library, "
            "or the Python package ziglang"
        )
    raise BuildError(f"the guest's program {program.output.name} cannot be compiled:\n" + "\n".join(outputs))


def compile_all(agent_dir: Path, with_compilers: Sequence[Sequence[str]] | None = None) -> list[Path]:
    """Compile programs in ``agent_dir`` that are out of date, and return the paths of all programs.

    :raises BuildError: the host is not x86-64 Linux, sources or a compiler are missing, or compilation failed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise BuildError(
            f"the guest's programs can only be built on x86-64 Linux, not on {platform.machine()} {sys.platform}"
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


def page_files() -> ModuleType:
    """``build_tools/page_files.py``."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    try:
        from build_tools import page_files
    finally:
        sys.path.pop(0)
    return page_files


def fetch_page_files(root: Path) -> list[Path]:
    """Fetch the libraries of the page below ``root`` unless they are current, and return their paths.

    :raises BuildError: they cannot be fetched.
    """
    module = page_files()
    if os.environ.get(module.WITHOUT) == "1":
        return []
    try:
        paths: list[Path] = module.fetch(root / module.PAGE_FILES)
    except module.PageFilesError as error:
        raise BuildError(str(error)) from error
    return paths


def build_all(root: Path) -> list[Path]:
    """Build everything that is not in the repository, and return the paths of all that was built.

    :raises BuildError: a program cannot be built, or a file of the page cannot be fetched.
    """
    return [*generate_modules(root), *compile_all(root / AGENT_DIR), *fetch_page_files(root)]


class BuildHook(BuildHookInterface[Any]):
    """Hatchling's entry point: builds before a wheel (also an editable one) is assembled, and sets its tag."""

    def dependencies(self) -> list[str]:
        """npm for an isolated build, if it needs npm and the machine has none."""
        module = page_files()
        needed = os.environ.get(module.WITHOUT) != "1" and not module.is_current(
            Path(self.root) / module.PAGE_FILES
        )
        return [module.NPM_PACKAGE] if needed and module.find_npm() is None else []

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
