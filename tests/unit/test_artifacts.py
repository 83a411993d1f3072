from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.guest.artifacts import Artifact, Artifacts, Inputs, Product


class Copying:
    """Makes an artifact that is a copy of one file, and counts how often."""

    def __init__(self, cache: Path, source: Path) -> None:
        self.cache, self.source = cache, source
        self.made = self.written = 0

    def make(self) -> Product:
        self.made += 1
        inputs = Inputs()
        content = inputs.read(self.source)
        inputs.watch(self.source.with_name("absent"))

        def written() -> bytes:
            self.written += 1
            return content

        return Product(
            "copy-" + content.hex(), len(content), written, inputs, {"words": content.decode().split()}
        )

    def obtain(self, request: str = "copy") -> Artifact:
        return Artifacts(self.cache).obtain({"what": request, "list": ["a", "b"]}, self.make)


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    (tmp_path / "source").write_text("some words")
    (tmp_path / "cache").mkdir()
    return Copying(tmp_path / "cache", tmp_path / "source")


def test_second_request_finds_the_first_ones_file_and_facts(copying: Copying) -> None:
    first, second = copying.obtain(), copying.obtain()
    assert first == second
    assert first.path.read_text() == "some words"
    assert second.facts == {"words": ["some", "words"]}
    assert copying.made == 1


def test_other_request_is_another_artifact_of_the_same_file(copying: Copying) -> None:
    assert copying.obtain("copy").path == copying.obtain("again").path
    assert (copying.made, copying.written) == (2, 1)


def _edit(source: Path) -> None:
    source.write_text("more words")


def _edit_keeping_size_and_mtime(source: Path) -> None:
    before = source.stat()
    source.write_text("SOME WORDS")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap(source: Path) -> None:
    other = source.with_name("other")
    other.write_text("swap words")
    other.replace(source)


@pytest.mark.parametrize("change", [_edit, _edit_keeping_size_and_mtime, _swap])
def test_changed_input_makes_it_anew(change: Callable[[Path], None], copying: Copying) -> None:
    copying.obtain()
    change(copying.source)
    assert copying.obtain().path.read_text() == copying.source.read_text()
    assert copying.made == 2


def test_input_that_appears_makes_it_anew(copying: Copying) -> None:
    copying.obtain()
    copying.source.with_name("absent").write_text("here now")
    copying.obtain()
    assert copying.made == 2


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("some wor")])
def test_lost_or_cut_file_is_made_anew(damage: Callable[[Path], object], copying: Copying) -> None:
    damage(copying.obtain().path)
    assert copying.obtain().path.read_text() == "some words"


@pytest.mark.parametrize(
    "note", [b"", b"null", b"[1]", b'{"file": 3}', b"\xff", b'{"file":"x","size":1,"inputs":[]}']
)
def test_unreadable_note_is_as_none(note: bytes, copying: Copying) -> None:
    copying.obtain()
    (written,) = (copying.cache / "built/notes").glob("*.json")
    written.write_bytes(note)
    assert copying.obtain().path.read_text() == "some words"


def test_failure_leaves_nothing_and_is_not_remembered(copying: Copying) -> None:
    copying.source.rename(copying.source.with_name("elsewhere"))
    with pytest.raises(HostError, match="source cannot be read: No such file"):
        copying.obtain()
    copying.source.with_name("elsewhere").rename(copying.source)
    assert copying.obtain().path.read_text() == "some words"


def test_leftovers_of_killed_writers_are_removed(copying: Copying) -> None:
    path = copying.obtain().path
    leftover = path.with_name(".copy-x.1.2.tmp")
    leftover.write_text("ha")
    copying.obtain("again")
    assert not leftover.exists()
    assert path.exists()


def test_many_at_once_make_it_once(copying: Copying) -> None:
    results: list[Artifact] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        results.append(copying.obtain())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len({result.path for result in results}) == 1
    assert copying.made == 1
