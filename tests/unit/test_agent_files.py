"""The agent's own file programs, by the real agent on this host: through GuestFiles, and beside GNU tar and tarfile."""

from __future__ import annotations

import asyncio
import io
import os
import random
import socket
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError, GuestFileError
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.files import GuestFiles
from tests.unit.agent_program import DEADLINE_S, agent_client, built_agent, sanitized_agent, started_agent

pytestmark = pytest.mark.long

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@asynccontextmanager
async def guest_files(*, sanitized: bool = False) -> AsyncIterator[GuestFiles]:
    if not sanitized:
        async with agent_client() as (client, _):

            async def same() -> AgentClient:
                return client

            yield GuestFiles(same)
        return
    with started_agent(sanitized_agent()) as (ours, _process):
        client = AgentClient(ours.dup())
        ours.close()
        await client.wait_ready(DEADLINE_S)

        async def checked() -> AgentClient:
            return client

        try:
            yield GuestFiles(checked)
        finally:
            await client.close()


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def packed(fs: GuestFiles, path: Path | str) -> bytes:
    return b"".join([piece async for piece in fs.pack_stream(str(path))])


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """What is to be the same after a copy."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = path.read_bytes()
        # tarfile sets no times of links.
        changed = None if path.is_symlink() else int(info.st_mtime // 1)
        found[str(path.relative_to(top))] = (
            oct(info.st_mode),
            content,
            changed,
            info.st_nlink,
        )
    return found


def make_tree(top: Path) -> None:
    (top / "sub/empty").mkdir(parents=True)
    (top / "-odd \n name").write_bytes(b"\0\xff")
    (top / os.fsdecode(b"not-\xff-utf8")).write_bytes(b"x" * 511)
    (top / "sub/run").write_text("#!/bin/sh\n")
    (top / "sub/run").chmod(0o750)
    os.link(top / "sub/run", top / "twin")
    (top / "link").symlink_to("sub/run")
    (top / "sub/dangling").symlink_to("n" * 200)
    deep = top / ("d" * 99) / ("e" * 99) / ("f" * 200)
    deep.mkdir(parents=True)
    (deep / ("g" * 255)).write_bytes(os.urandom(70_000))
    (top / ("h" * 100)).write_bytes(b"just fits")
    (top / "big").write_bytes(os.urandom(3 << 20))
    (top / "before").write_bytes(b"old")
    os.utime(top / "before", (-86400 * 365, -86400 * 365))
    (top / "sub").chmod(0o2755)
    os.utime(top / "sub", (1000, 1000))


# --- the small programs ---


async def test_files_are_written_whole_read_listed_and_removed_without_any_program_of_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_agent()
    monkeypatch.setenv("PATH", "/nowhere")
    async with guest_files() as fs:
        odd = f"{tmp_path}/a/-odd\n \udcff'\"$(x)"
        await fs.write(odd, b"\0\xff", mode=0o640, parents=True)
        await fs.write(f"{tmp_path}/a/text", "grüße")
        assert await fs.read(odd) == b"\0\xff"
        first, second = await fs.list(f"{tmp_path}/a")
        assert (first.path, first.kind, first.size, first.mode) == (odd, "file", 2, 0o640)
        assert second == await fs.stat(f"{tmp_path}/a/text")
        # Nothing else is beside them.
        assert len(list((tmp_path / "a").iterdir())) == 2
        await fs.mkdir(f"{tmp_path}/a/b/c", parents=True)
        await fs.mkdir(f"{tmp_path}/a/b/c", parents=True)
        assert await fs.is_directory(f"{tmp_path}/a/b")
        assert not await fs.is_directory(odd)
        await fs.remove(odd)
        assert not await fs.exists(odd)
        with pytest.raises(GuestFileError, match="not empty"):
            await fs.remove(f"{tmp_path}/a")
        await fs.remove(f"{tmp_path}/a", recursive=True)
        assert list(tmp_path.iterdir()) == []


async def test_what_cannot_be_done_is_told_with_the_path_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    async with guest_files() as fs:
        for attempt, said in (
            (fs.read("/nothing"), "/nothing: No such file"),
            (fs.list("/nothing"), "/nothing: No such file"),
            (fs.list(f"{tmp_path}/file"), "Not a directory"),
            (fs.stat("/nothing"), "/nothing: No such file"),
            (fs.remove("/nothing", recursive=True), "/nothing: No such file"),
            (fs.read(str(tmp_path)), "Is a directory"),
            (fs.write(str(tmp_path), b""), "Is a directory"),
            (fs.write(f"{tmp_path}/none/file", b""), f"{tmp_path}/none: No such file"),
            (fs.write(f"{tmp_path}/file/below", b""), "Not a directory"),
            (fs.mkdir(str(tmp_path)), "File exists"),
            (fs.mkdir(f"{tmp_path}/file", parents=True), "File exists"),
            (fs.mkdir(f"{tmp_path}/a/b"), "No such file"),
            (fs.remove("/", recursive=True), "root directory"),
            (fs.remove("//", recursive=True), "root directory"),
            (fs.remove("/../..", recursive=True), "root directory"),
            (fs.stat("/" + "x" * 5000), "name too long"),
        ):
            with pytest.raises(GuestFileError, match=f"(?i){said}"):
                await attempt
        with pytest.raises(GuestFileError, match="more than 10 bytes"):
            await fs.read("/proc/self/status", limit=10)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_writing_goes_through_a_link_and_leaves_a_device_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "new-link").symlink_to(tmp_path / "new")
    (tmp_path / "loop").symlink_to("loop")
    async with guest_files() as fs:
        await fs.write(f"{tmp_path}/link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "new"
        await fs.write(f"{tmp_path}/new-link", "made")
        assert (tmp_path / "new").read_text() == "made"
        await fs.write("/dev/null", b"dropped")
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
        with pytest.raises(GuestFileError, match=r"(?i)symbolic link"):
            await fs.write(f"{tmp_path}/loop", "x")


async def test_a_write_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(1 << 20)
        raise ConfigError("the source failed")

    async with guest_files() as fs:
        with pytest.raises(ConfigError, match="the source failed"):
            await fs.write_stream(f"{tmp_path}/file", broken())
        # What was killed has ended when the next one has been answered.
        assert (await fs.stat(f"{tmp_path}/file")).size == 3
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("item", [5, None, ["a"]])
async def test_an_item_of_a_wrong_type_is_named_and_the_file_stays_as_it_was(
    tmp_path: Path, item: object
) -> None:
    (tmp_path / "file").write_text("old")

    async def mixed() -> AsyncIterator[bytes]:
        yield bytes(1 << 20)
        yield item  # type: ignore[misc]

    async with guest_files() as fs:
        with pytest.raises(
            ConfigError, match=f"each item of pieces must be bytes or text, not {type(item).__name__}"
        ):
            await fs.write_stream(f"{tmp_path}/file", mixed())
        assert (await fs.stat(f"{tmp_path}/file")).size == 3
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("item", ["text", 5, None])
async def test_an_item_of_a_wrong_type_in_a_tar_stream_is_named(tmp_path: Path, item: object) -> None:
    async def wrong() -> AsyncIterator[bytes]:
        yield item  # type: ignore[misc]

    async with guest_files() as fs:
        with pytest.raises(ConfigError, match=f"each item of tar must be bytes, not {type(item).__name__}"):
            await fs.unpack_stream(wrong(), str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


async def test_a_deep_tree_is_removed_and_a_link_in_it_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    top = deep = tmp_path / "tree"
    for _ in range(150):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "link").symlink_to(tmp_path / "kept")
    for i in range(1500):
        (top / f"file-{i}").touch()
    async with guest_files() as fs:
        await fs.remove(str(top), recursive=True)
    assert not top.exists()
    assert (tmp_path / "kept/file").exists()


async def test_nothing_of_the_agents_is_open_in_a_file_program() -> None:
    async with guest_files() as fs:
        # The program lists its own descriptors: standard ones, and the directory that it reads.
        assert [info.name for info in await fs.list("/proc/self/fd")] == ["0", "1", "2", "3"]


async def test_an_unknown_program_or_wrong_arguments_are_told() -> None:
    async with agent_client() as (client, _):
        for words in (["no-such"], ["stat"], ["stat", "/", "more"], ["pack"]):
            async with await client.exec(words, builtin=True) as process:
                _, said = await process.communicate()
                assert (await process.wait()).returncode == 127
                assert b"the agent has no such file program, or it takes other arguments" in said


# --- packing ---


async def test_what_is_packed_is_what_tarfile_and_gnu_tar_unpack(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tree(source)
    async with guest_files() as fs:
        data = await packed(fs, source)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        members = {member.name: member for member in tar}
    assert len(members) == 1 + len(list(source.rglob("*")))
    assert members["source/before"].mtime == -86400 * 365
    for which, command in (("gnu", ["tar", "-xpf", "-"]), ("python", None)):
        there = tmp_path / which
        there.mkdir()
        if command:
            subprocess.run([*command, "-C", there], input=data, check=True)
        else:
            with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
                # Python 3.11.2, which Debian 12 has, knows no filters, and trusts all.
                trust: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}
                tar.extractall(there, **trust)
        assert snapshot(there / "source") == snapshot(source)
        assert (there / "source/twin").samefile(there / "source/sub/run")


async def test_a_file_that_says_no_length_is_packed_with_its_content(tmp_path: Path) -> None:
    async with guest_files() as fs:
        for path in ("/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"):
            if not os.access(path, os.R_OK):
                continue
            with tarfile.open(fileobj=io.BytesIO(await packed(fs, path))) as tar:
                content = tar.extractfile(Path(path).name)
                assert content is not None
                assert content.read() == Path(path).read_bytes()
            await fs.copy_out(path, tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == Path(path).read_bytes()
        # And the other way.
        await fs.copy_in("/proc/version", f"{tmp_path}/in")
    assert (tmp_path / "in").read_bytes() == Path("/proc/version").read_bytes()


async def test_a_file_that_shrinks_while_it_is_read_breaks_no_stream(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x" * (8 << 20))
    (tree / "zlast").write_bytes(b"last")
    async with guest_files() as fs:
        got = bytearray()
        with pytest.raises(GuestFileError, match="became shorter while it was read"):
            async for piece in fs.pack_stream(str(tree / "file")):
                got += piece
                if len(got) < 1 << 20:
                    # Nothing beyond the windows can have been read yet.
                    os.truncate(tree / "file", 2 << 20)
    with tarfile.open(fileobj=io.BytesIO(bytes(got))) as tar:
        (member,) = tar.getmembers()
        assert member.size == 8 << 20


async def test_a_file_that_grows_is_cut_at_its_first_length(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (8 << 20))
    async with guest_files() as fs:
        got = bytearray()
        with (tmp_path / "file").open("ab") as file:
            async for piece in fs.pack_stream(str(tmp_path / "file")):
                got += piece
                file.write(b"more")
                file.flush()
    with tarfile.open(fileobj=io.BytesIO(bytes(got))) as tar:
        assert [member.size for member in tar] == [8 << 20]


async def test_sizes_and_owners_that_octal_cannot_say_are_right(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(9 << 30)
    if os.geteuid() == 0:
        os.chown(tmp_path / "huge", 3_000_000_000, 2_999_999_999)
    async with guest_files() as fs:
        stream = fs.pack_stream(str(tmp_path / "huge"))
        first = await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
    member = tarfile.TarInfo.frombuf(first[:512], "utf-8", "surrogateescape")
    assert member.size == 9 << 30
    if os.geteuid() == 0:
        assert (member.uid, member.gid) == (3_000_000_000, 2_999_999_999)


async def test_sockets_are_left_out_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    async with guest_files() as fs:
        with tarfile.open(fileobj=io.BytesIO(await packed(fs, tree))) as tar:
            assert sorted(tar.getnames()) == ["tree", "tree/pipe"]
        with pytest.raises(GuestFileError, match="socket, which cannot be copied"):
            await packed(fs, tree / "socket")
        with pytest.raises(ConfigError, match="socket, which cannot be copied"):
            await fs.copy_in(tree / "socket", f"{tmp_path}/x")
        await fs.copy_in(tree, f"{tmp_path}/in")
    assert stat.S_ISFIFO((tmp_path / "in/pipe").stat().st_mode)


# --- unpacking ---


def gnu_tar(top: Path, *options: str) -> bytes:
    return subprocess.run(
        ["tar", *options, "-cf", "-", "-C", top, "."], check=True, stdout=subprocess.PIPE
    ).stdout


def python_tar(top: Path, kind: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind, errors="surrogateescape") as tar:
        tar.add(top, ".")
    return out.getvalue()


@pytest.mark.parametrize("maker", ["gnu", "oldgnu", "posix", "python-gnu", "python-pax"])
async def test_what_gnu_tar_and_tarfile_pack_is_unpacked_as_it_was(tmp_path: Path, maker: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make_tree(source)
    target.mkdir()
    if maker.startswith("python"):
        data = python_tar(source, tarfile.PAX_FORMAT if maker.endswith("pax") else tarfile.GNU_FORMAT)
    else:
        data = gnu_tar(source, f"--format={maker}")
    async with guest_files(sanitized=True) as fs:
        await fs.unpack_stream(pieces(data, 4099), str(target))
        assert snapshot(target) == snapshot(source)
        # Once more, over what is there.
        await fs.unpack_stream(pieces(data, 65536), str(target))
        assert snapshot(target) == snapshot(source)
    assert (target / "twin").samefile(target / "sub/run")


@pytest.mark.parametrize("form", ["ustar", "v7"])
async def test_old_formats_are_unpacked(tmp_path: Path, form: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / ("d" * 90 if form == "ustar" else "d") / "e").mkdir(parents=True)
    ((source / ("d" * 90 if form == "ustar" else "d")) / "e/file").write_bytes(b"content")
    target.mkdir()
    async with guest_files() as fs:
        await fs.unpack_stream(pieces(gnu_tar(source, f"--format={form}")), str(target))
    assert snapshot(target) == snapshot(source)


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix", "--sparse-version=1.0"]])
async def test_sparse_files_are_unpacked_with_their_holes(tmp_path: Path, options: list[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with (source / "sparse").open("wb") as file:
        for i in range(60):
            file.seek(i << 18)
            file.write(b"%08d" % i * 512)
        file.truncate(64 << 20)
    (source / "zz").write_text("after it")
    async with guest_files(sanitized=True) as fs:
        await fs.unpack_stream(pieces(gnu_tar(source, "--sparse", *options), 10_000), str(target))
    assert snapshot(target) == snapshot(source)
    assert (target / "sparse").stat().st_blocks * 512 < 8 << 20


async def test_zeros_take_no_space(tmp_path: Path) -> None:
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(32 << 20)
    async with guest_files() as fs:
        await fs.copy_in(tmp_path / "zeros", f"{tmp_path}/in")
        await fs.copy_out(f"{tmp_path}/in", tmp_path / "out")
    for name in ("in", "out"):
        assert (tmp_path / name).read_bytes() == bytes(32 << 20)
        assert (tmp_path / name).stat().st_blocks * 512 < 1 << 20


@needs_root
async def test_owners_are_kept_when_asked_for_and_are_roots_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "setuid").touch()
    os.chown(source / "setuid", 1234, 5678)
    (source / "setuid").chmod(0o6755)
    (source / "own").touch()
    (source / "own").chmod(0o4755)
    async with guest_files() as fs:
        await fs.copy_in(source, f"{tmp_path}/plain")
        await fs.copy_in(source, f"{tmp_path}/kept", owners=True)
        await fs.copy_out(f"{tmp_path}/kept", tmp_path / "out")
        await fs.copy_out(f"{tmp_path}/kept", tmp_path / "out-kept", owners=True)
    plain, kept = (tmp_path / "plain/setuid").stat(), (tmp_path / "kept/setuid").stat()
    # A set-user-id bit that was not meant for root does not become one for root.
    assert (plain.st_uid, plain.st_gid, oct(plain.st_mode & 0o7777)) == (0, 0, "0o755")
    assert (kept.st_uid, kept.st_gid, oct(kept.st_mode & 0o7777)) == (1234, 5678, "0o6755")
    assert oct((tmp_path / "plain/own").stat().st_mode & 0o7777) == "0o4755"
    out, out_kept = (tmp_path / "out/setuid").stat(), (tmp_path / "out-kept/setuid").stat()
    assert (out.st_uid, out.st_gid, oct(out.st_mode & 0o7777)) == (0, 0, "0o755")
    assert (out_kept.st_uid, out_kept.st_gid, oct(out_kept.st_mode & 0o7777)) == (1234, 5678, "0o755")


def archive(*members: tuple[str, bytes, dict[str, object]], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


LINK = {"type": tarfile.SYMTYPE}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../evil", b"x", {})], 'contains "\\.\\."'),
        ([("a/../../evil", b"x", {})], 'contains "\\.\\."'),
        ([("l", b"", LINK | {"linkname": ".."}), ("l/evil", b"x", {})], "points outside of it"),
        ([("l", b"", LINK | {"linkname": "{outside}"}), ("l/evil", b"x", {})], "points outside of it"),
        ([("l", b"", LINK | {"linkname": "a/../.."}), ("l/evil", b"x", {})], "points outside of it"),
        ([("h", b"", {"type": tarfile.LNKTYPE, "linkname": "../outside/secret"})], 'contains "\\.\\."'),
        (
            [("h", b"", {"type": tarfile.LNKTYPE, "linkname": "none"})],
            "the target of this hard link does not exist",
        ),
        ([("x" * 40000, b"", {})], "too long"),
        ([("n", b"x" * 600, {"type": b"Z"})], "this kind of member is not supported"),
    ],
)
async def test_members_that_lead_out_are_refused_and_the_others_unpacked(
    tmp_path: Path, members: list[tuple[str, bytes, dict[str, object]]], said: str
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").touch()
    for _, _, fields in members:
        if fields.get("linkname") == "{outside}":
            fields["linkname"] = str(tmp_path / "outside")
    data = archive(("first", b"1", {}), *members, ("last", b"2", {}))
    async with guest_files(sanitized=True) as fs:
        with pytest.raises(GuestFileError, match=said):
            await fs.unpack_stream(pieces(data), str(tmp_path / "target"))
    assert (tmp_path / "target/first").read_bytes() == b"1"
    if "kind" not in said and "long" not in said:
        assert (tmp_path / "target/last").read_bytes() == b"2"
    assert [path for path in tmp_path.rglob("*") if path.name == "evil"] == []
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]
    assert (tmp_path / "outside/secret").stat().st_nlink == 1


async def test_a_leading_slash_is_dropped_and_the_directory_itself_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    data = archive(("./", b"", {"type": tarfile.DIRTYPE, "mode": 0o777}), ("/abs/file", b"x", {}))
    async with guest_files() as fs:
        await fs.unpack_stream(pieces(data), str(tmp_path))
    assert (tmp_path / "abs/file").read_bytes() == b"x"
    assert oct(tmp_path.stat().st_mode & 0o7777) == "0o711"


async def test_files_are_replaced_and_directories_and_files_do_not_replace_one_another(
    tmp_path: Path,
) -> None:
    (tmp_path / "directory/sub").mkdir(parents=True)
    (tmp_path / "file").write_text("old")
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "through").symlink_to("directory")
    os.link(tmp_path / "file", tmp_path / "twin")
    data = archive(
        ("directory", b"x", {}),
        ("victim", b"", {"type": tarfile.DIRTYPE}),
        ("file", b"new", {}),
        ("link", b"no link any more", {}),
        ("through", b"", {"type": tarfile.DIRTYPE}),
        ("through/in", b"went through", {}),
        ("twin", b"", {"type": tarfile.LNKTYPE, "linkname": "twin"}),
    )
    async with guest_files(sanitized=True) as fs:
        with pytest.raises(GuestFileError) as failure:
            await fs.unpack_stream(pieces(data), str(tmp_path))
    assert "directory: cannot replace a directory with a file" in failure.value.message
    assert "victim: cannot replace this file with a directory" in failure.value.message
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "twin").read_text() == "old"
    assert (tmp_path / "victim").read_text() == "kept"
    assert (tmp_path / "link").read_text() == "no link any more"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "directory/in").read_text() == "went through"


@pytest.mark.parametrize(
    "data", [b"", b"garbage" * 1000, b"\0" * 100, archive(("a", b"x" * 5000, {}))[:2000]]
)
async def test_what_is_no_whole_archive_is_told(tmp_path: Path, data: bytes) -> None:
    async with guest_files(sanitized=True) as fs:
        with pytest.raises(GuestFileError, match=r"not a tar archive|ends in the middle"):
            await fs.unpack_stream(pieces(data), str(tmp_path))


async def test_a_file_is_replaced_by_a_whole_one_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    for name in ("old", "new"):
        data = archive((name, b"x" * 500_000, {}))[:300_000]
        async with guest_files(sanitized=True) as fs:
            with pytest.raises(GuestFileError, match="ends in the middle"):
                await fs.unpack_stream(pieces(data, 50_000), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


async def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    for name in ("old", "new"):

        async def broken(name: str = name) -> AsyncIterator[bytes]:
            yield archive((name, b"x" * 5_000_000, {}))[:3_000_000]
            raise ConfigError("the source failed")

        async with guest_files() as fs:
            with pytest.raises(ConfigError, match="the source failed"):
                await fs.unpack_stream(broken(), str(tmp_path))
            # What was killed has ended when the next one has been answered.
            assert (await fs.stat(f"{tmp_path}/old")).size == 4
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "kept"


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz"])
async def test_a_compressed_archive_is_expanded_on_its_way(tmp_path: Path, program: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make_tree(source)
    (source / "zeros").write_bytes(bytes(10 << 20))
    target.mkdir()
    data = subprocess.run([program, "-c"], input=gnu_tar(source), check=True, stdout=subprocess.PIPE).stdout
    async with guest_files() as fs:
        await fs.unpack_stream(pieces(data, 50_001), str(target))
        assert snapshot(target) == snapshot(source)
        with pytest.raises(ConfigError, match=r"ends early|damaged"):
            await fs.unpack_stream(pieces(data[: len(data) // 2], 50_001), str(target))
        with pytest.raises(ConfigError, match="zstd"):
            await fs.unpack_stream(pieces(b"\x28\xb5\x2f\xfd" + data), str(target))


async def test_a_damaged_archive_never_crashes_or_hangs_the_agent(tmp_path: Path) -> None:
    """Every kind of member, with bytes changed, cut out and put in; by the agent with every check."""
    chance = random.Random(17)
    sources = []
    tree = tmp_path / "source"
    tree.mkdir()
    (tree / "sub").mkdir()
    (tree / "sub/file").write_bytes(b"x" * 2000)
    os.link(tree / "sub/file", tree / "twin")
    (tree / ("l" * 180)).symlink_to("m" * 180)
    (tree / "link").symlink_to("sub")
    os.mkfifo(tree / "pipe")
    with (tree / "sparse").open("wb") as file:
        for i in range(30):
            file.seek(i << 16)
            file.write(b"y" * 5000)
    left_out = [f"--exclude={'l' * 180}", "--exclude=pipe"]
    for options in (["--format=gnu", "-S"], ["--format=posix", "-S"], ["--format=ustar"], ["--format=v7"]):
        small = [] if options[0] in ("--format=gnu", "--format=posix") else left_out
        sources.append(gnu_tar(tree, *options, *small))
    async with guest_files(sanitized=True) as fs:
        for round_number in range(120):
            data = bytearray(sources[round_number % len(sources)])
            for _ in range(chance.choice([1, 2, 8])):
                at = chance.randrange(min(len(data), 12_000))
                what = chance.randrange(4)
                if what == 0:
                    data[at] = chance.randrange(256)
                elif what == 1:
                    del data[at : at + chance.choice([1, 7, 512])]
                elif what == 2:
                    data[at:at] = chance.randbytes(chance.choice([1, 512]))
                else:
                    # A field of a header, with its checksum made right again: it is believed.
                    header = at // 512 * 512
                    data[at] = chance.choice(b"\0 07/.\x80\xff9")
                    data[header + 148 : header + 156] = b" " * 8
                    total = sum(data[header : header + 512])
                    data[header + 148 : header + 156] = b"%06o\0 " % total
            target = tmp_path / f"target-{round_number}"
            target.mkdir()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await fs.unpack_stream(pieces(bytes(data), 20_000), str(target))
            except (GuestFileError, ConfigError) as error:
                assert "Sanitizer" not in error.message
                assert "runtime error" not in error.message
        assert await fs.exists("/")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(("target-", "source"))] == []


NAMES = st.lists(
    st.binary(min_size=1, max_size=255)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b"..")),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(names=NAMES, size=st.sampled_from([0, 1, 511, 512, 513, 4095, 4096, 262143, 262144, 262145, 300001]))
def test_any_name_and_size_goes_in_and_comes_out(tmp_path: Path, names: list[bytes], size: int) -> None:
    async def there_and_back() -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as directory:
            top = Path(directory)
            inner = top / "source" / os.fsdecode(b"/".join(names))
            inner.parent.mkdir(parents=True)
            inner.write_bytes(random.Random(size).randbytes(size))
            async with guest_files() as fs:
                await fs.copy_in(top / "source", f"{top}/in")
                await fs.copy_out(f"{top}/in", top / "out")
            assert snapshot(top / "out") == snapshot(top / "in") == snapshot(top / "source")

    asyncio.run(there_and_back())


async def test_memory_stays_flat_whatever_is_sent(tmp_path: Path) -> None:
    """A long name in an archive of many members, and large files: the program's peak stays what it is for one."""
    many = io.BytesIO()
    with tarfile.open(fileobj=many, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for i in range(5000):
            tar.addfile(tarfile.TarInfo(f"{'d' * 120}/{i}"))
    (tmp_path / "target").mkdir()
    async with agent_client() as (client, _):
        process = await client.exec(["unpack", str(tmp_path / "target")], stdin=True, builtin=True)
        peaks = []
        async with process:
            data = many.getvalue()[:-10240]
            for at in range(0, len(data), 1 << 20):
                await process.write_stdin(data[at : at + (1 << 20)])
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks.append(int(status.split("VmHWM:")[1].split()[0]))
            await process.close_stdin()
            await process.communicate()
    assert max(peaks) < 4096
