"""Where a copy goes: the rules of "docker container cp", without a sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError
from ballonet.cli.cp import Place, _place_on_host, _Source, _split, place
from ballonet.guest.files import last_part

FILE = _Source("dir/file", "file", False)
TREE = _Source("dir/tree", "tree", True)
CONTENTS = _Source("dir/tree/.", "", True)


@pytest.mark.parametrize(
    ("source", "target", "kind", "expected"),
    [
        (FILE, "/to/new", None, Place("/to/new", False)),
        (FILE, "/to/old", "file", Place("/to/old", False)),
        (FILE, "/to", "directory", Place("/to/file", False)),
        (FILE, "/to/", "directory", Place("/to/file", False)),
        (TREE, "/to/new", None, Place("/to/new", False)),
        (TREE, "/to/new/", None, Place("/to/new", False)),
        (TREE, "/to/new/.", None, Place("/to/new", False)),
        (TREE, "/to", "directory", Place("/to/tree", False)),
        (CONTENTS, "/to", "directory", Place("/to", True)),
        (CONTENTS, "/to/new", None, Place("/to/new", False)),
    ],
)
def test_each_rule_of_docker_cp(source: _Source, target: str, kind: str | None, expected: Place) -> None:
    assert place(source, target, kind, True, "on the host") == expected


@pytest.mark.parametrize(
    ("source", "target", "kind", "parent", "said"),
    [
        (FILE, "/to/none/", None, True, "directory '/to/none/' does not exist on the host"),
        (FILE, "/to/none/.", None, True, "directory '/to/none/.' does not exist on the host"),
        (FILE, "/to/none/file", None, False, "directory '/to/none' does not exist on the host"),
        (TREE, "/to/none/new/", None, False, "directory '/to/none' does not exist on the host"),
        (FILE, "/to/old/", "file", True, "'/to/old/' on the host is a file and not a directory"),
        (TREE, "/to/old", "file", True, "a directory cannot be copied to a file"),
        (CONTENTS, "/to/old", "file", True, "a directory cannot be copied to a file"),
    ],
)
def test_what_docker_cp_refuses_is_refused(
    source: _Source, target: str, kind: str | None, parent: bool, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        place(source, target, kind, parent, "on the host")
    assert said in refused.value.message


def test_an_impossible_place_on_the_host_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match="points to itself"):
        _place_on_host(FILE, str(loop))
    with pytest.raises(ConfigError, match="cannot be accessed: File name too long"):
        _place_on_host(FILE, "x" * 5000)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/b", "b"), ("/a/b/", "b"), ("/a/b/.", ""), ("/", ""), ("/.", ""), ("/a/b/..", "a"), ("/..", "")],
)
def test_what_a_copy_is_called(path: str, name: str) -> None:
    assert last_part(path) == name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("box:/a", ("box", "/a")),
        ("box:a:b", ("box", "a:b")),
        ("./file:name", None),
        ("/abs:name", None),
        ("dir/file:name", None),
        ("plain", None),
        ("box:", ("box", "/")),
    ],
)
def test_a_colon_is_a_sandboxs_unless_the_path_is_explicit(text: str, parts: tuple[str, str] | None) -> None:
    assert _split(text) == parts
