"""Copies out of a guest: a hostile one cannot write outside of what was asked for."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError, GuestFileError, HostError
from ballonet.guest.archive import pack, unpack


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def pieces(data: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=to)


async def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "-odd \n name").write_bytes(b"\0\xff")
    (source / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"x")
    (source / "sub/run").write_text("#!/bin/sh\n")
    (source / "sub/run").chmod(0o750)
    (source / "link").symlink_to("sub/run")
    os.link(source / "sub/run", source / "twin")
    os.utime(source / "sub/run", (1000, 1000))
    packed = b"".join([piece async for piece in pack(source, "name")])
    await unpack(pieces(packed, 7000), tmp_path / "target", "./name", "/name")
    for path in (tmp_path / "target").rglob("*"):
        original = source / path.relative_to(tmp_path / "target")
        assert path.lstat().st_mode == original.lstat().st_mode
        if path.is_symlink():
            assert path.readlink() == original.readlink()
        elif path.is_file():
            assert path.read_bytes() == original.read_bytes()
    assert len(list((tmp_path / "target").rglob("*"))) == len(list(source.rglob("*"))) == 6
    assert (tmp_path / "target/sub/run").stat().st_mtime == 1000


async def test_a_single_file_takes_the_name_that_was_asked_for(tmp_path: Path) -> None:
    await unpack(pieces(archive(member("./a", b"content"))), tmp_path / "b", "./a", "/a")
    assert (tmp_path / "b").read_bytes() == b"content"
    await unpack(pieces(archive(member("./a", b"newer"))), tmp_path / "b", "./a", "/a")
    assert (tmp_path / "b").read_bytes() == b"newer"


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil", b"x")],
        [member("./a/../../evil", b"x")],
        [member("/evil", b"x")],
        [member("./b/evil", b"x")],
        [directory("./a"), link("./a/l", "../.."), member("./a/l/evil", b"x")],
        [directory("./a"), link("./a/l", "/")],
        [directory("./a"), link("./a/l", "x/../../../evil")],
        [link("./a", "..")],
        [directory("./a"), directory("./a/b"), link("./a/b/l", ".."), link("./a/b/m", "l/../../evil")],
        [directory("./a"), directory("./a/b"), link("./a/b/l", "../.."), link("./a/b/m", "l/../x")],
        [directory("./a"), link("./a/l", "x/../y")],
        [directory("./a"), link("./a/l", "../evil", tarfile.LNKTYPE)],
        [directory("./a"), member("./a/dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
        [directory("./a"), member("./a/pipe", type=tarfile.FIFOTYPE)],
    ],
)
async def test_what_leads_out_is_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    target = tmp_path / "in/target"
    target.parent.mkdir()
    with pytest.raises(GuestFileError, match="/a"):
        await unpack(pieces(archive(*members)), target, "./a", "/a")
    assert [path for path in tmp_path.rglob("*") if path.name in ("evil", "dev", "pipe")] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


async def test_a_link_that_is_there_already_is_not_followed(tmp_path: Path) -> None:
    """A guest that sends a link first and then a file below it; or a target that has been one before."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "sub").symlink_to(outside)
    data = archive(directory("./a"), member("./a/sub/file", b"x"))
    with pytest.raises(ConfigError):
        await unpack(pieces(data), target, "./a", "/a")
    assert list(outside.iterdir()) == []
    (target / "file").symlink_to(outside / "file")
    await unpack(pieces(archive(directory("./a"), member("./a/file", b"x"))), target, "./a", "/a")
    assert not (target / "file").is_symlink()
    assert list(outside.iterdir()) == []


async def test_a_link_may_go_up_as_far_as_the_top(tmp_path: Path) -> None:
    members = [directory("./a"), directory("./a/b"), link("./a/b/l", "../x/./y/"), link("./a/top", ".")]
    await unpack(pieces(archive(*members)), tmp_path / "target", "./a", "/a")
    assert os.readlink(tmp_path / "target/b/l") == "../x/./y/"  # noqa: PTH115 (Path changes it)


async def test_times_of_directories_are_kept_and_their_owner_can_always_remove_them(tmp_path: Path) -> None:
    members = [
        member("./a", type=tarfile.DIRTYPE, mode=0o500, mtime=1000),
        member("./a/b", type=tarfile.DIRTYPE, mode=0o2755, mtime=2000),
        member("./a/b/file", b"x", mtime=-3000),
        member("./a/c", b"x"),
    ]
    await unpack(pieces(archive(*members)), tmp_path / "target", "./a", "/a")
    found = {path.name: path.stat() for path in [tmp_path / "target", *(tmp_path / "target").rglob("*")]}
    assert [int(found[name].st_mtime) for name in ("target", "b", "file")] == [1000, 2000, -3000]
    assert [oct(found[name].st_mode & 0o7777) for name in ("target", "b")] == ["0o700", "0o755"]


async def test_a_directory_that_gets_contents_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    members = [member("./a", type=tarfile.DIRTYPE, mode=0o777), member("./a/file", b"x")]
    await unpack(pieces(archive(*members)), tmp_path, "./a", "/a", keep_top=True)
    assert oct(tmp_path.stat().st_mode & 0o7777) == "0o711"
    assert (tmp_path / "file").read_bytes() == b"x"


async def test_what_cannot_be_read_in_a_tree_is_told_and_the_rest_is_packed() -> None:
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        tree.chmod(0o755)
        for name in ("a", "closed", "z"):
            (tree / name).write_bytes(b"x")
        (tree / "closed").chmod(0)
        problems: list[str] = []
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            packed = b"".join([piece async for piece in pack(tree, "name", problems=problems)])
        finally:
            os.seteuid(before)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            assert sorted(tar.getnames()) == ["name", "name/a", "name/z"]
        assert problems == [f"{tree}/closed cannot be read: Permission denied"]


async def test_setuid_is_dropped(tmp_path: Path) -> None:
    await unpack(pieces(archive(member("./a", b"x", mode=0o6755))), tmp_path / "a", "./a", "/a")
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, archive(member("./a", b"x" * 5000))[:2000]])
async def test_what_is_no_archive_is_told(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(GuestFileError, match="the guest sent an invalid archive"):
        await unpack(pieces(data), tmp_path / "a", "./a", "/a")


async def test_what_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        async for _ in pack(tmp_path / "nothing", "x"):
            pass
    with pytest.raises(ConfigError, match="cannot be written"):
        await unpack(pieces(archive(member("./a", b"x"))), tmp_path / "none/a", "./a", "/a")


async def test_a_reader_that_leaves_ends_the_packing(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(10 << 20))
    stream = pack(tmp_path / "big", "big")
    assert await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("unnamed", [True, False])
async def test_a_file_here_is_replaced_by_a_whole_one_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
) -> None:
    if not unnamed:  # a file system that has no files without a name says so
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    for name in ("old", "new"):
        (tmp_path / "old").write_text("kept")
        data = archive(member("./a", bytes(range(250)) * 2000))
        with pytest.raises(GuestFileError, match="the guest sent an invalid archive"):
            await unpack(pieces(data[:300_000], 50_000), tmp_path / name, "./a", "/a")
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert (tmp_path / "old").read_text() == "kept"
        await unpack(pieces(data, 50_000), tmp_path / name, "./a", "/a")
        assert (tmp_path / name).stat().st_size == 500_000
        (tmp_path / name).unlink()


async def test_a_link_replaces_a_file_and_another_name_of_itself(tmp_path: Path) -> None:
    data = archive(
        directory("./t"), member("./t/a", b"new"), link("./t/b", "./t/a", tarfile.LNKTYPE), link("./t/c", "a")
    )
    for _ in range(2):
        await unpack(pieces(data), tmp_path / "t", "./t", "/t")
        assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a", "b", "c"]
        assert (tmp_path / "t/a").samefile(tmp_path / "t/b")
        assert (tmp_path / "t/c").read_bytes() == b"new"


async def test_a_host_without_room_is_no_bad_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("kept")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(HostError, match="a cannot be written: No space left on device"):
        await unpack(pieces(archive(member("./a", b"x"))), tmp_path / "a", "./a", "/a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "kept"
