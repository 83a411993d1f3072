"""The modules that the build generates: current, formatted, and complete whatever an async class declares."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hatchling")
import hatch_build
from build_tools.generate import targets
from build_tools.python_source import Imports, Source, wrapped
from build_tools.sync_sdk import SdkClass, plain_doc

from ballonet.control.client import Client
from ballonet.control.sync_client import SyncClient

ROOT = Path(__file__).parents[2]
GENERATED = targets(ROOT / "src")


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_the_file_is_what_its_sources_make(path: Path) -> None:
    assert path.read_text() == GENERATED[path], f"{path} is out of date; to renew it: python hatch_build.py"
    assert "do not edit. To renew it: python hatch_build.py" in path.read_text().splitlines()[0]
    named = [line.removeprefix("#   ") for line in path.read_text().splitlines() if line.startswith("#   ")]
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_files_are_formatted_and_clean() -> None:
    """Not by the ruff of 'make lint', which leaves out what git ignores."""
    for words in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        argv = [sys.executable, "-m", "ruff", *words, *map(str, GENERATED)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_build_writes_them_and_leaves_current_ones_alone(tmp_path: Path) -> None:
    package = tmp_path / "src/ballonet"
    package.mkdir(parents=True)
    for path in (ROOT / "src/ballonet").iterdir():
        if path.name in ("sdk", "control"):
            ignored = shutil.ignore_patterns("__pycache__", "sync.py", "sync_client.py")
            shutil.copytree(path, package / path.name, ignore=ignored)
        else:
            (package / path.name).symlink_to(path)
    made = hatch_build.generate_modules(tmp_path)
    assert [path.relative_to(tmp_path) for path in made] == [path.relative_to(ROOT) for path in GENERATED]
    assert [path.read_text() for path in made] == list(GENERATED.values())
    before = [path.stat().st_ino for path in made]
    hatch_build.generate_modules(tmp_path)
    assert [path.stat().st_ino for path in made] == before
    made[0].write_text("stale")
    hatch_build.generate_modules(tmp_path)
    assert made[0].read_text() == GENERATED[next(iter(GENERATED))]
    assert [path.name for path in made[0].parent.iterdir() if path.name.startswith(".")] == []


EXAMPLE = '''
from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from ballonet.sdk.parts import Base, with_settings

if TYPE_CHECKING:
    from ballonet.sdk.kinds import Kind

LIMIT = 5


class Settings(TypedDict, total=False):
    memory: int


class Box(Base):
    """A box. ``async with await Box.create() as box: …``"""

    def __init__(self) -> None:
        #: How large
        #: it is.
        self.size: int = 0
        self._hidden: int = 0

    @classmethod
    @with_settings(Settings)
    async def create(cls, name: str, /, *names: Kind, limit: int = LIMIT, **settings: Unpack[Settings]) -> Self:
        """Create: ``await Box.create("a")``."""

    @staticmethod
    def builder(name: str) -> Kind: ...

    def plan(self, name: str = "a") -> Kind: ...

    async def feed(self, pieces: AsyncIterable[bytes], *, more: AsyncIterator[Kind]) -> None: ...

    def watch(self) -> AsyncIterator[Kind]: ...

    async def __aenter__(self) -> Self: ...

    async def _private(self) -> None: ...
'''

PARTS = '''
class Base:
    @property
    def fs(self) -> GuestFiles: ...

    async def long(
        self, the_first_parameter: int, *, the_second: str, the_third_and_longest_parameter: bytes
    ) -> None: ...

    def plan(self) -> int:
        """Hidden by that of the class itself."""
'''

EXPECTED = '''
class Box:
    """A box. ``with Box.create() as box: …``"""

    def __init__(self, inner: AsyncBox) -> None:
        self._inner = inner

    @property
    def size(self) -> int:
        """How large it is."""
        return self._inner.size

    @classmethod
    @with_settings(Settings)
    def create(cls, name: str, /, *names: Kind, limit: int = LIMIT, **settings: Unpack[Settings]) -> Self:
        """Create: ``Box.create("a")``."""
        return cls(LOOP.run(AsyncBox.create(name, *names, limit=limit, **settings)))

    @staticmethod
    def builder(name: str) -> Kind:
        return AsyncBox.builder(name)

    def plan(self, name: str = "a") -> Kind:
        return LOOP.call(lambda: self._inner.plan(name))

    def feed(self, pieces: Iterable[bytes], *, more: Iterator[Kind]) -> None:
        LOOP.run(self._inner.feed(read_in_threads("pieces", pieces), more=read_in_threads("more", more)))

    def watch(self) -> Iterator[Kind]:
        return iterate(self._inner.watch())

    @property
    def fs(self) -> GuestFiles:
        return GuestFiles(self._inner.fs)

    def long(
        self,
        the_first_parameter: int,
        *,
        the_second: str,
        the_third_and_longest_parameter: bytes,
    ) -> None:
        work = self._inner.long(
            the_first_parameter,
            the_second=the_second,
            the_third_and_longest_parameter=the_third_and_longest_parameter,
        )
        LOOP.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
'''

IMPORTS = """
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self, Unpack

from ballonet.sdk.box import LIMIT, Settings
from ballonet.sdk.box import Box as AsyncBox
from ballonet.sdk.parts import with_settings
from ballonet.sdk.sync_calls import iterate, read_in_threads
from ballonet.sdk.sync_loop import LOOP

if TYPE_CHECKING:
    from ballonet.sdk.kinds import Kind
"""


def test_a_class_is_taken_over_with_all_that_it_declares(tmp_path: Path) -> None:
    """Settings as ``**kwargs``, decorators, bases, attributes; lines that fit and lines that do not."""
    (tmp_path / "ballonet/sdk").mkdir(parents=True)
    for name, text in {"box": EXAMPLE, "parts": PARTS, "kinds": "class Kind: ..."}.items():
        (tmp_path / f"ballonet/sdk/{name}.py").write_text(text)
    imports = Imports()
    made = SdkClass(Source(tmp_path, "ballonet.sdk.box"), "Box", imports).lines()
    assert "\n".join(made) == EXPECTED.strip("\n")
    assert "\n".join(imports.lines()) == IMPORTS.strip("\n")


def test_an_attribute_without_a_type_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ballonet").mkdir()
    text = 'class Box:\n    """A box."""\n    def __init__(self) -> None:\n        self.size = 0\n'
    (tmp_path / "ballonet/box.py").write_text(text)
    with pytest.raises(ValueError, match=r"self\.size needs an annotation"):
        SdkClass(Source(tmp_path, "ballonet.box"), "Box", Imports()).lines()


def test_documentation_loses_the_words_of_asyncio() -> None:
    said = "``async for x in await box.watch():``, asynchronous or awaited"
    assert plain_doc(said) == "``for x in box.watch():``, asynchronous or awaited"


def test_a_line_is_wrapped_only_where_it_does_not_fit() -> None:
    assert wrapped("    f", ["a", "b"], "", width=11) == ["    f(a, b)"]
    assert wrapped("    f", ["a", "b"], ":", width=11) == ["    f(", "        a,", "        b,", "    ):"]


def test_both_clients_have_the_same_calls_with_the_same_arguments() -> None:
    def calls(cls: type) -> dict[str, Any]:
        return {name: member for name, member in vars(cls).items() if not name.startswith("_")}

    assert calls(Client).keys() == calls(SyncClient).keys() >= {"get", "set", "watch"}
    for name, call in calls(Client).items():
        other = calls(SyncClient)[name]
        assert inspect.signature(call).parameters == inspect.signature(other).parameters
        assert inspect.getdoc(call) == inspect.getdoc(other)
        assert not inspect.iscoroutinefunction(other)
