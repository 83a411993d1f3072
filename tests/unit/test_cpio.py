from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError
from ballonet.guest.cpio import MAX_NAME_BYTES, Archive


def entries(archive: bytes) -> dict[str, tuple[list[int], bytes]]:
    """Read back an archive, checking its alignment on the way: name → (the 13 numbers, content)."""
    found: dict[str, tuple[list[int], bytes]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_at, size = at + 110, numbers[6]
        name = archive[name_at : name_at + numbers[11]]
        assert name.endswith(b"\0")
        body_at = -(-(name_at + len(name)) // 4) * 4
        at = body_at + -(-size // 4) * 4
        if name == b"TRAILER!!!\0":
            assert at == len(archive)
            return found
        found[os.fsdecode(name[:-1])] = (numbers, archive[body_at : body_at + size])


def sample() -> Archive:
    archive = Archive()
    archive.directories("usr/bin")
    archive.directory("tmp", 0o1777)
    archive.file("usr/bin/tool", b"#!/bin/sh\n", 0o755)
    archive.file("empty", b"")
    archive.file("odd", b"12345")
    archive.symlink("usr/bin/other", "/usr/bin/tool")
    return archive


UNPACKERS = [
    command for command in (["cpio", "-idm"], ["busybox", "cpio", "-idm"]) if shutil.which(command[0])
]


def test_an_unpacker_is_there_to_test_with() -> None:
    assert UNPACKERS, "install busybox-static or cpio"


@pytest.mark.parametrize("unpacker", UNPACKERS, ids=lambda command: str(command[0]))
def test_real_unpackers_read_it(unpacker: list[str], tmp_path: Path) -> None:
    archive = sample()
    if os.geteuid() == 0:  # only root makes device nodes
        archive.directory("dev")
        archive.character_device("dev/console", 5, 1)
    subprocess.run(unpacker, input=archive.to_bytes(), cwd=tmp_path, check=True, capture_output=True)
    tool = tmp_path / "usr/bin/tool"
    assert tool.read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE(tool.stat().st_mode) == 0o755
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "odd").read_bytes() == b"12345"
    assert (tmp_path / "usr/bin/other").readlink() == Path("/usr/bin/tool")
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert tool.stat().st_mtime == 0
    if os.geteuid() == 0:
        console = (tmp_path / "dev/console").stat()
        assert stat.S_ISCHR(console.st_mode)
        assert (os.major(console.st_rdev), os.minor(console.st_rdev)) == (5, 1)


def test_same_calls_give_the_same_bytes() -> None:
    assert sample().to_bytes() == sample().to_bytes()


def test_entries_have_their_own_inodes_and_no_times() -> None:
    found = entries(sample().to_bytes())
    numbers = [numbers for numbers, _ in found.values()]
    assert len({fields[0] for fields in numbers}) == len(numbers)
    assert {fields[5] for fields in numbers} == {0}
    assert {(fields[2], fields[3]) for fields in numbers} == {(0, 0)}


@given(
    st.dictionaries(
        st.text("abcé ", min_size=1, max_size=9).filter(lambda n: n.strip()), st.binary(max_size=9)
    )
)
def test_any_files_come_back_as_they_went_in(files: dict[str, bytes]) -> None:
    archive = Archive()
    for name, content in files.items():
        archive.file(name, content)
    assert {name: content for name, (_, content) in entries(archive.to_bytes()).items()} == files


@pytest.mark.parametrize("name", ["", "/etc", "etc/", "a//b", "../x", "a/../b", ".", "a\0b", "TRAILER!!!"])
def test_names_that_are_not_plain_are_refused(name: str) -> None:
    archive = Archive()
    archive.directory("a")
    archive.directory("etc")
    with pytest.raises(ConfigError, match="is not a valid name in a cpio archive"):
        archive.file(name, b"")


def test_name_twice_is_refused() -> None:
    archive = sample()
    with pytest.raises(ConfigError, match="odd is already in the archive"):
        archive.symlink("odd", "even")


@pytest.mark.parametrize("name", ["nowhere/x", "odd/x"])
def test_entry_without_its_directory_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a directory in the archive"):
        sample().file(name, b"")


def test_longest_name_is_the_kernels() -> None:
    archive = Archive()
    archive.file("x" * (MAX_NAME_BYTES - 1), b"")
    with pytest.raises(
        ConfigError, match="a name of 4096 bytes exceeds the limit of a cpio archive \\(4095\\)"
    ):
        archive.file("y" * MAX_NAME_BYTES, b"")
    with pytest.raises(ConfigError, match="cannot point to"):
        archive.symlink("link", "z" * MAX_NAME_BYTES)


def test_mode_is_permissions_only() -> None:
    with pytest.raises(ConfigError, match="cannot have the mode 100644"):
        Archive().file("x", b"", stat.S_IFREG | 0o644)
