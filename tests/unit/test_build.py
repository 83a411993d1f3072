from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.utils import parse_wheel_filename

from ballonet.guest.elf import PT_INTERP, Elf
from ballonet.host.tsc import PLAUSIBLE_KHZ

pytestmark = pytest.mark.long

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[2]
TSC = ROOT / "src/ballonet/guest/agent/tsc/tsckhz.c"


def _load() -> ModuleType:
    """As hatchling loads it: the module is not registered."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build: Any = _load()

needs_compiler = pytest.mark.skipif(not build.compilers(), reason="install musl-tools")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A small agent of two files and a header, and the real tsckhz."""
    agent = tmp_path / "agent"
    (agent / "tsc").mkdir(parents=True)
    shutil.copy(TSC, agent / "tsc")
    (agent / "answer.h").write_text("int answer(void);\n#define EXTRA 0\n")
    (agent / "answer.c").write_text('#include "answer.h"\nint answer(void) { return 42 + EXTRA; }\n')
    (agent / "main.c").write_text('#include "answer.h"\nint main(void) { return answer(); }\n')
    return agent


def status_of(program: Path) -> int:
    return subprocess.run([program], check=False).returncode


def age(directory: Path) -> None:
    """Make every file older than any that is written from now on."""
    for path in directory.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))


def edit_after(program: Path, source: Path, text: str) -> None:
    """Write ``source`` so that it is newer than ``program``, however coarse the file system's times are."""
    source.write_text(text)
    os.utime(source, ns=(0, program.stat().st_mtime_ns + 10**9))


@needs_compiler
def test_programs_are_static_and_run(sources: Path) -> None:
    agent, tsckhz = build.compile_all(sources)
    assert (agent, tsckhz) == (sources / "bin/agent", sources / "bin/tsckhz")
    assert status_of(agent) == 42
    for program in (agent, tsckhz):
        assert list(Elf(program.read_bytes(), program.name).segments(PT_INTERP)) == []
    assert sorted(path.name for path in (sources / "bin").iterdir()) == ["agent", "tsckhz"]


@needs_compiler
def test_real_tsckhz_measures_the_same_twice(sources: Path) -> None:
    program = build.compile_all(sources)[1]
    first, second = (int(subprocess.check_output([program], text=True)) for _ in range(2))
    assert first in PLAUSIBLE_KHZ
    assert abs(first - second) <= first // 100


@needs_compiler
def test_current_programs_are_left_alone_and_changed_ones_are_not(sources: Path) -> None:
    age(sources)
    agent, _ = build.compile_all(sources)
    before = agent.stat().st_ino
    build.compile_all(sources, [])  # would fail if there were anything to compile
    assert agent.stat().st_ino == before
    edit_after(agent, sources / "answer.h", "int answer(void);\n#define EXTRA 1\n")
    with pytest.raises(build.BuildError):
        build.compile_all(sources, [])
    build.compile_all(sources)
    assert status_of(agent) == 43


@needs_compiler
def test_next_compiler_is_tried_when_one_fails(sources: Path) -> None:
    assert status_of(build.compile_all(sources, [["false"], *build.compilers()])[0]) == 42


@needs_compiler
def test_error_in_the_sources_is_shown_and_the_old_program_kept(sources: Path) -> None:
    age(sources)
    agent, _ = build.compile_all(sources)
    edit_after(agent, sources / "main.c", "int main(void) { return nonsense; }\n")
    with pytest.raises(build.BuildError, match=r"agent cannot be compiled:(.|\n)*nonsense"):
        build.compile_all(sources)
    assert status_of(agent) == 42
    assert sorted(path.name for path in (sources / "bin").iterdir()) == ["agent", "tsckhz"]


def test_no_compiler_says_what_to_install(sources: Path) -> None:
    with pytest.raises(build.BuildError, match="install musl-tools"):
        build.compile_all(sources, [])


def test_missing_sources_are_said(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="C sources of the guest's programs are missing"):
        build.compile_all(tmp_path, [])


def test_other_machine_is_refused(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    with pytest.raises(build.BuildError, match="can only be built on x86-64 Linux, not on aarch64"):
        build.compile_all(sources, [])


def test_musl_comes_before_glibc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcc", "musl-gcc"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [Path(command[0]).name for command in build.compilers()][:2] == ["musl-gcc", "gcc"]


@needs_compiler
@pytest.mark.slow
def test_the_wheel_is_one_that_an_index_takes_and_runs_where_it_is_installed(tmp_path: Path) -> None:
    """Built, looked into, and installed into a fresh environment with nothing but what it says that it needs."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    tags = {str(tag) for tag in parse_wheel_filename(wheel.name)[3]}
    assert tags == {"py3-none-manylinux_2_17_x86_64", "py3-none-musllinux_1_1_x86_64"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for program in ("agent", "tsckhz"):
            content = archive.read(f"ballonet/guest/agent/bin/{program}")
            assert next(Elf(content, program).segments(PT_INTERP), None) is None  # no C library is needed
        (described,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        assert {f"Tag: {tag}" for tag in tags} <= set(archive.read(described).decode().splitlines())
    generated = ("sdk/sync.py", "control/sync_client.py")
    page = {
        path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/ballonet/serve/page").rglob("*.*")
    }
    assert {name for name in page if not Path(name).name.startswith(".")} <= names
    assert {"ballonet/serve/page/index.html", "ballonet/serve/page/vendor/xterm.js"} <= names
    for name in ("py.typed", "control/schema.json", "contrib/prometheus/ballonet.rules.yml", *generated):
        assert f"ballonet/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "build_tools/"))]
    assert not [name for name in names if name.endswith((".pyc", ".key"))]
    place = tmp_path / "environment"
    # What it needs is there already: it is lent, not fetched again.
    venv.create(place, with_pip=False)
    lent = sysconfig.get_path("purelib")
    (site,) = place.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    (site / "lent.pth").write_text(f"{lent}\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def ballonet(*words: str) -> str:
        argv = [str(place / "bin/ballonet"), *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout

    code = "import ballonet; from ballonet import Sandbox; print(ballonet.__file__)"
    done = subprocess.run(
        [place / "bin/python", "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(site))
    assert "control protocol" in ballonet("version")
    assert ballonet("metrics", "--rules") == (ROOT / "contrib/prometheus/ballonet.rules.yml").read_text()
    assert ballonet("metrics", "--dashboard") == (ROOT / "contrib/grafana/ballonet.json").read_text()
