"""Files of a guest whose image has no program at all, and copies by the rules of ``docker cp``."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.errors import GuestFileError
from ballonet.sdk.sandbox import Sandbox
from tests.unit import oci

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bare_image(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of data alone, as the "distroless" ones are: no shell, no tar, no stat."""
    layout = oci.Layout(tmp_path_factory.mktemp("layout") / "bare")
    layout.add(
        oci.layer(
            oci.entry("data"),
            oci.entry("data/file", b"secret\n", mode=0o640),
            oci.entry("data/sub"),
            oci.entry("data/sub/run", b"#!\n", mode=0o755),
            oci.link("data/link", "file"),
            oci.link("data/twin", "data/file", hard=True),
            oci.link("data/absolute", "/data/file"),
            oci.entry("usr/lib"),
            oci.link("lib", "usr/lib"),
            oci.entry("given", b"x", uid=1234, gid=5678),
        ),
        config={"Cmd": ["/no/such/program"]},
    )
    return layout.reference()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bare(guest: object, bare_image: str) -> AsyncIterator[Sandbox]:
    async with await Sandbox.create("bare", image=bare_image, memory="160M") as running:
        yield running


async def test_files_of_an_image_without_programs_are_read_written_listed_and_removed(bare: Sandbox) -> None:
    fs = bare.fs
    odd = "/made/-odd\n \udcff'\"$(x)"
    await fs.write(odd, b"\0\xff", mode=0o640, parents=True)
    assert await fs.read(odd) == b"\0\xff"
    assert [info.path for info in await fs.list("/made")] == [odd], "nothing is left beside it"
    assert (await fs.stat("/data/link")).kind == "link"
    assert (await fs.stat("/data/file")).size == 7
    assert await fs.is_directory("/lib")
    assert not await fs.exists("/bin")
    await fs.write("/data/link", "through it")
    assert await fs.read("/data/file") == b"through it"
    await fs.write("/proc/sys/vm/swappiness", "17")
    assert await fs.read("/proc/sys/vm/swappiness") == b"17\n"
    await fs.remove("/made", recursive=True)
    assert not await fs.exists("/made")
    with pytest.raises(GuestFileError, match="root directory"):
        await fs.remove("/", recursive=True)
    with pytest.raises(GuestFileError, match="/none: No such file"):
        await fs.write("/none/file", b"")


async def test_a_tree_goes_into_an_image_without_programs_and_comes_out_again(
    bare: Sandbox, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / ("n" * 255)).write_bytes(os.urandom(5 << 20))
    (source / "link").symlink_to("sub")
    os.link(source / "sub" / ("n" * 255), source / "twin")
    (source / "sub").chmod(0o755)
    os.utime(source / "sub", (1000, 1000))
    await bare.fs.copy_in(source, "/tree")
    await bare.fs.copy_out("/tree", tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "twin").samefile(out / "sub" / ("n" * 255))
    assert (out / "twin").read_bytes() == (source / "twin").read_bytes()
    assert (out / "link").readlink() == Path("sub")
    assert (out / "sub").stat().st_mtime == 1000
    await bare.fs.remove("/tree", recursive=True)


async def test_the_whole_root_can_be_copied_without_what_the_kernel_makes_up(bare: Sandbox) -> None:
    stream = b"".join([piece async for piece in bare.fs.pack_stream("/")])
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        members = {member.name: member for member in tar}
    assert "./data/file" in members
    assert members["./given"].uid == 1234
    assert [name for name in members if name.startswith(("./proc/", "./sys/", "./dev/"))] == []
    assert {"./proc", "./sys", "./dev"} <= set(members)


async def test_files_of_proc_and_sys_come_out_with_their_content(bare: Sandbox, tmp_path: Path) -> None:
    await bare.fs.copy_out("/proc/version", tmp_path / "version")
    assert (tmp_path / "version").read_bytes().startswith(b"Linux version")
    await bare.fs.copy_out("/sys/class/net/lo/mtu", tmp_path / "mtu")
    assert (tmp_path / "mtu").read_bytes() == b"65536\n"
    await bare.fs.copy_out("/proc/sys/kernel", tmp_path / "kernel")
    assert (tmp_path / "kernel/ostype").read_bytes() == b"Linux\n"


async def test_cp_follows_the_rules_of_docker_cp(bare: Sandbox, ballonet: Call, tmp_path: Path) -> None:
    """docs.docker.com, "docker container cp", one rule after the other, in both directions."""
    fs = bare.fs
    box = bare.name
    here = tmp_path / "here"
    (here / "tree/sub").mkdir(parents=True)
    (here / "tree/a").write_text("a")
    (here / "tree/sub/b").write_text("b")
    (here / "file").write_text("content")
    (here / "link").symlink_to("file")
    (here / "link-to-tree").symlink_to("tree")

    def cp(*words: str, cwd: Path | None = None) -> None:
        before = Path.cwd()
        os.chdir(cwd or before)
        try:
            done = ballonet("cp", *words)
        finally:
            os.chdir(before)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words

    def refused(said: str, *words: str) -> None:
        done = ballonet("cp", *words)
        assert done.returncode == 2, (words, done)
        assert said in done.stderr, done.stderr

    async def names(path: str) -> list[str]:
        return [info.name for info in await fs.list(path)]

    await fs.mkdir("/to")
    # A file: a new name, an existing file, a directory.
    cp(f"{here}/file", f"{box}:/to/new")
    cp(f"{here}/file", f"{box}:to/new")
    cp("-q", f"{here}/file", f"{box}:/to/")
    cp(f"{here}/tree/a", f"{box}:/to/new")
    assert await names("/to") == ["file", "new"]
    assert await fs.read("/to/new") == b"a"
    refused("directory '/to/none/' does not exist", f"{here}/file", f"{box}:/to/none/")
    refused("directory '/to/none' does not exist", f"{here}/file", f"{box}:/to/none/file")
    refused("not a directory", f"{here}/file", f"{box}:/to/new/")
    refused("Not a directory", f"{here}/file/", f"{box}:/to")
    # A directory: a new name, a file, a directory, its contents.
    cp(f"{here}/tree", f"{box}:/to/renamed")
    assert await names("/to/renamed") == ["a", "sub"]
    cp(f"{here}/tree/", f"{box}:/to")
    assert await names("/to/tree") == ["a", "sub"]
    refused("cannot be copied to a file", f"{here}/tree", f"{box}:/to/new")
    refused("directory '/to/none' does not exist", f"{here}/tree", f"{box}:/to/none/more")
    await fs.mkdir("/to/inner")
    cp(f"{here}/tree/.", f"{box}:/to/inner")
    assert await names("/to/inner") == ["a", "sub"]
    cp(".", f"{box}:/to/from-dot", cwd=here / "tree")
    assert await names("/to/from-dot") == ["a", "sub"]
    cp("..", f"{box}:/to/inner", cwd=here / "tree/sub")
    assert await names("/to/inner") == ["a", "sub", "tree"]
    # Links: themselves, unless asked for, and what is put into one goes where it leads.
    cp(f"{here}/link", f"{box}:/to/link")
    assert (await fs.stat("/to/link")).kind == "link"
    cp("-L", f"{here}/link", f"{box}:/to/followed")
    assert await fs.read("/to/followed") == b"content"
    cp(f"{here}/link-to-tree/", f"{box}:/to/slash")
    assert await names("/to/slash") == ["a", "sub"]
    cp(f"{here}/tree/a", f"{box}:/to/link")
    assert (await fs.stat("/to/link")).kind == "link"
    assert await fs.read("/to/file") == b"a"
    cp(f"{here}/file", f"{box}:/lib")
    assert await fs.read("/usr/lib/file") == b"content"
    refused("'nothing' does not exist on the host", "nothing", f"{box}:/to")
    refused("must be in a sandbox", f"{box}:/to", f"{box}:/other")
    refused("must be in a sandbox", str(here), str(tmp_path))
    # Owners.
    os.chown(here / "file", 1234, 5678)
    cp(f"{here}/file", f"{box}:/to/plain")
    cp("-a", f"{here}/file", f"{box}:/to/kept")
    stream = b"".join([piece async for piece in fs.pack_stream("/to")])
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        assert (tar.getmember("to/plain").uid, tar.getmember("to/plain").gid) == (0, 0)
        if os.geteuid() == 0:
            assert (tar.getmember("to/kept").uid, tar.getmember("to/kept").gid) == (1234, 5678)

    # And out.
    out = tmp_path / "out"
    out.mkdir()
    cp(f"{box}:/data/file", f"{out}/new")
    cp(f"{box}:data/sub/run", f"{out}/new")
    cp(f"{box}:/data/file", str(out))
    assert (out / "new").read_text() == "#!\n"
    refused(f"directory '{out}/none/' does not exist", f"{box}:/data/file", f"{out}/none/")
    refused(f"directory '{out}/none' does not exist", f"{box}:/data/file", f"{out}/none/file")
    refused("is a file", f"{box}:/data/sub", f"{out}/new")
    cp(f"{box}:/data/sub", f"{out}/renamed")
    cp(f"{box}:/data/sub/", str(out))
    assert (out / "sub/run").stat().st_mode & 0o777 == 0o755
    (out / "inner").mkdir(mode=0o711)
    cp(f"{box}:/data/sub/.", f"{out}/inner")
    assert [path.name for path in (out / "inner").iterdir()] == ["run"]
    assert stat.S_IMODE((out / "inner").stat().st_mode) == 0o711
    cp(f"{box}:/data/sub/.", ".", cwd=out / "renamed")
    cp(f"{box}:/data/link", f"{out}/link")
    assert (out / "link").is_symlink()
    cp("-L", f"{box}:/data/absolute", f"{out}/followed")
    assert (out / "followed").read_bytes() == await fs.read("/data/file")
    done = ballonet("cp", f"{box}:/data/absolute", str(out))
    assert (done.returncode, "--follow-link" in done.stderr) == (125, True)
    cp(f"{box}:/data/file", "/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    done = ballonet("cp", f"{box}:/data/file", "/dev/stdout")
    assert done.stdout.encode() == await fs.read("/data/file")
    await fs.remove("/to", recursive=True)


async def test_cp_takes_and_gives_tar_streams(bare: Sandbox, tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        info = tarfile.TarInfo("dir/file")
        info.size, info.uid = 4, 4321
        tar.addfile(info, io.BytesIO(b"text"))

    def cp(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-P", "-m", "ballonet", "cp", *words]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=200, check=False)

    await bare.fs.mkdir("/stream")
    done = cp("-", f"{bare.name}:/stream", stdin=made.getvalue())
    assert (done.returncode, done.stderr) == (0, b"")
    for path, expected in (
        ("/stream/dir", ["dir", "dir/file"]),
        ("/stream/dir/.", [".", "./file"]),
        ("/stream/dir/file", ["file"]),
    ):
        done = cp(f"{bare.name}:{path}", "-")
        assert (done.returncode, done.stderr) == (0, b"")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            assert tar.getnames() == expected
            assert tar.getmembers()[-1].uid == 4321
    for words, stdin, said in (
        (
            ["-", f"{bare.name}:/stream/dir/file"],
            made.getvalue(),
            b"directory '/stream/dir/file' does not exist",
        ),
        (["-", f"{bare.name}:/none"], made.getvalue(), b"directory '/none' does not exist"),
        (["-", f"{bare.name}:/stream"], b"garbage" * 200, b"not a tar archive"),
        (["-", f"{bare.name}:/stream"], b"", b"not a tar archive"),
        (["-", f"{bare.name}:/stream"], made.getvalue()[:60], b"ends early"),
        ([f"{bare.name}:/none", "-"], b"", b"No such file"),
    ):
        done = cp(*words, stdin=stdin)
        assert done.returncode in (2, 125)
        assert said in done.stderr
        assert b"Traceback" not in done.stderr
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-P", "-m", "ballonet", "cp", f"{bare.name}:/stream", "-"]
        broken = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=200, check=False)
    assert broken.returncode == 125
    assert b"standard output: No space left on device" in broken.stderr
