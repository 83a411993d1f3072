"""Merging layers to a root: its content, and protection against malicious layers. No file system is mounted."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings, strategies

from ballonet.base.errors import HostError, ImageError
from ballonet.base.memory import MIB
from ballonet.images import layers, limits
from ballonet.images.flatten import plan_layers, write_layers
from ballonet.images.layers import Layer, check_digest
from ballonet.images.limits import Limits
from tests.unit.erofs_reader import Found, Reader
from tests.unit.oci import device, digest, entry, layer, link

pytestmark = pytest.mark.long


def root_of(
    tmp_path: Path, *streams: bytes, packed: bool = True, limits: Limits | None = None, files: bool = True
) -> dict[str, Found]:
    """The files of the root of these layers, by path."""
    layers = []
    for number, stream in enumerate(streams, 1):
        path = tmp_path / f"layer{number}"
        path.write_bytes(gzip.compress(stream, 1) if packed else stream)
        layers.append(Layer(number, path, digest(path.read_bytes()), digest(stream)))
    plan = plan_layers(layers, "test", limits or Limits())
    made = tmp_path / "made"
    made.mkdir()
    return Reader(write_layers(plan, layers, made)).files() if files else {}


def paths(found: dict[str, Found]) -> list[str]:
    return sorted(found)


# Valid layers


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    long = "n" * 255
    found = root_of(
        tmp_path,
        layer(
            entry("./", mode=0o711, uid=5),
            entry("bin/", uid=0, gid=0),
            entry(
                "bin/su",
                b"\x7fELF" * 5000,
                mode=0o4755,
                uid=0,
                gid=7,
                xattrs={"security.capability": "\x01\x02"},
            ),
            entry("empty", b"", uid=70_000, gid=80_000, xattrs={"user.note": "ä"}),
            entry(f"deep/{long}/x", b"x", mtime=1_600_000_000.75),
            link("sh", "/bin/dash"),
            link("up", "../../../etc/passwd"),
            link("bin/su2", "bin/su", hard=True),
            device("dev-null", 1, 3),
            device("disk", 259, 70_000, type=tarfile.BLKTYPE),
            entry("pipe", type=tarfile.FIFOTYPE, mode=0o600),
        ),
    )
    assert (found["/"].mode, found["/"].uid) == (stat.S_IFDIR | 0o711, 5)
    su = found["/bin/su"]
    assert (su.mode, su.gid, su.links, su.content) == (stat.S_IFREG | 0o4755, 7, 2, b"\x7fELF" * 5000)
    assert su.xattrs == {"security.capability": b"\x01\x02"}
    assert found["/bin/su2"].number == su.number
    empty = found["/empty"]
    assert (empty.uid, empty.gid, empty.content, empty.xattrs) == (
        70_000,
        80_000,
        b"",
        {"user.note": "ä".encode()},
    )
    assert (found[f"/deep/{long}/x"].content, found[f"/deep/{long}/x"].mtime) == (b"x", 1_600_000_000)
    assert (found["/sh"].content, found["/up"].content) == (b"/bin/dash", b"../../../etc/passwd")
    assert (found["/dev-null"].kind, found["/dev-null"].device) == (stat.S_IFCHR, 3 | 1 << 8)
    assert (found["/disk"].kind, found["/disk"].device) == (
        stat.S_IFBLK,
        (70_000 & 0xFF) | 259 << 8 | (70_000 >> 8) << 20,
    )
    assert found["/pipe"].kind == stat.S_IFIFO
    assert (found["/"].links, found["/bin"].links) == (4, 2)


def test_directories_of_any_size_and_long_links(tmp_path: Path) -> None:
    names = [f"{number:05}-{'x' * (number % 200)}" for number in range(1500)]
    target = "t" * 4095
    found = root_of(
        tmp_path,
        layer(
            *(entry(f"many/{name}", name.encode()) for name in names), link("long", target), entry("none/")
        ),
    )
    assert [path for path in paths(found) if path.startswith("/many/")] == sorted(
        f"/many/{name}" for name in names
    )
    assert all(found[f"/many/{name}"].content == name.encode() for name in names)
    assert found["/long"].content == target.encode()
    assert found["/none"].links == 2


@pytest.mark.parametrize("packing", ["none", "gzip", "gzip in two members", "zstd"])
def test_layers_may_be_packed_in_each_usual_way(tmp_path: Path, packing: str) -> None:
    stream = layer(entry("file", os.urandom(300_000)))
    pack = {
        "none": lambda data: data,
        "gzip": gzip.compress,
        "gzip in two members": lambda data: (
            gzip.compress(data[:777]) + gzip.compress(data[777:]) + bytes(512)
        ),
        "zstd": zstandard.ZstdCompressor().compress,
    }[packing]
    path = tmp_path / "layer"
    path.write_bytes(pack(stream))
    made = Layer(1, path, digest(path.read_bytes()), digest(stream))
    plan = plan_layers([made], "x", Limits())
    assert len(Reader(write_layers(plan, [made], tmp_path)).files()["/file"].content) == 300_000


def test_volumes_of_the_configuration_are_directories_even_if_no_layer_has_them(tmp_path: Path) -> None:
    stream = layer(
        entry("var", mode=0o700),
        entry("var/kept", mode=0o750, uid=7),
        link("lib", "usr/lib"),
        entry("file", b""),
    )
    path = tmp_path / "layer"
    path.write_bytes(stream)
    made = Layer(1, path, digest(stream), digest(stream))
    volumes = ["/data/deep/", "/var/kept", "relative", "/lib/../../lib/x", "/", "/var"]
    plan = plan_layers([made], "x", Limits(), volumes=volumes)
    with pytest.raises(ImageError, match="'/file/x' leads through 'file', which is not a directory"):
        plan_layers([made], "x", Limits(), volumes=["/file/x"])
    found = Reader(write_layers(plan, [made], tmp_path)).files()
    for name in ("/data/deep", "/relative", "/usr/lib/x"):
        assert (stat.S_ISDIR(found[name].mode), found[name].mode & 0o777, found[name].uid) == (True, 0o755, 0)
    assert (found["/var/kept"].mode & 0o777, found["/var/kept"].uid) == (0o750, 7), "a layer's own stays"
    assert stat.S_ISLNK(found["/lib"].mode)


def test_upper_layers_replace_hide_and_keep(tmp_path: Path) -> None:
    found = root_of(
        tmp_path,
        layer(
            entry("etc/"),
            entry("etc/one", b"1"),
            entry("etc/two", b"2"),
            entry("dir/"),
            entry("dir/old", b"old"),
            entry("gone/deep/file", b"x"),
            entry("was-dir/file", b"x"),
            entry("was-file", b"x"),
            entry("linked", b"kept"),
            link("other-name", "linked", hard=True),
        ),
        layer(
            entry("dir/new", b"new"),  # before the opaque mark, and kept
            link("dir/again", "etc/two", hard=True),  # likewise: the name is new, the file is not
            entry("dir/.wh..wh..opq", b""),
            entry("etc/.wh.one", b""),
            entry("etc/", mode=0o700),
            entry(".wh.gone", b""),
            entry("was-dir", b"now a file"),
            entry("was-file/"),
            entry("was-file/inside", b"y"),
            entry("linked", b"replaced"),
            entry(".wh..wh.plnk", b""),
            entry(".wh.never-was", b""),
        ),
    )
    assert paths(found) == sorted(
        [
            "/",
            "/dir",
            "/dir/again",
            "/dir/new",
            "/etc",
            "/etc/two",
            "/linked",
            "/other-name",
            "/was-dir",
            "/was-file",
            "/was-file/inside",
        ]
    )
    assert found["/etc"].mode == stat.S_IFDIR | 0o700
    assert (found["/linked"].content, found["/other-name"].content) == (b"replaced", b"kept")
    assert found["/other-name"].links == 1


def test_a_path_through_a_link_stays_in_the_root(tmp_path: Path) -> None:
    found = root_of(
        tmp_path,
        layer(
            entry("usr/lib/"), link("lib", "usr/lib"), link("out", "/../../../tmp"), link("up", "../../usr")
        ),
        layer(entry("lib/libc.so", b"c"), entry("out/file", b"o"), entry("up/lib/x", b"u")),
    )
    assert found["/usr/lib/libc.so"].content == b"c"
    assert found["/tmp/file"].content == b"o", "the root's own /tmp"
    assert found["/usr/lib/x"].content == b"u"
    assert found["/lib"].kind == stat.S_IFLNK
    assert not Path("/tmp/file").exists()


def test_only_what_is_in_the_root_is_written(tmp_path: Path) -> None:
    big = os.urandom(3 * MIB)
    root_of(tmp_path, layer(entry("big", big)), layer(entry(".wh.big", b""), entry("small", b"s")))
    assert (tmp_path / "made/root.erofs").stat().st_size < MIB


def test_the_same_layers_give_the_same_root(tmp_path: Path) -> None:
    stream = layer(entry("b", b"b"), entry("a", b"a"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        root_of(tmp_path / name, stream)
    assert (tmp_path / "one/made/root.erofs").read_bytes() == (tmp_path / "two/made/root.erofs").read_bytes()


def test_the_fields_own_reader_finds_no_fault(tmp_path: Path) -> None:
    fsck = shutil.which("fsck.erofs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if fsck is None:
        pytest.skip("erofs-utils is not installed")
    content = os.urandom(100_000)
    names = [f"many/{number}" for number in range(700)]
    root_of(
        tmp_path,
        layer(entry("a/b/file", content), link("a/l", "b/file"), *(entry(name, b"") for name in names)),
    )
    argv = [fsck, f"--extract={tmp_path / 'extracted'}", "--overwrite", str(tmp_path / "made/root.erofs")]
    subprocess.run(argv, check=True, capture_output=True)
    assert (tmp_path / "extracted/a/b/file").read_bytes() == content
    assert (tmp_path / "extracted/a/l").readlink() == Path("b/file")
    assert len(list((tmp_path / "extracted/many").iterdir())) == 700


def test_the_kernel_mounts_it(tmp_path: Path) -> None:
    root_of(
        tmp_path,
        layer(
            entry(
                "f",
                b"content",
                mode=0o4711,
                uid=70_000,
                gid=5,
                xattrs={"user.a": "b", "security.capability": "x"},
            ),
            device("null", 1, 3),
            link("f2", "f", hard=True),
            *(entry(f"many/{number}", b"%d" % number) for number in range(1000)),
        ),
    )
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    mount = [
        "mount",
        "-t",
        "erofs",
        "-o",
        "loop,ro,nosuid,nodev",
        str(tmp_path / "made/root.erofs"),
        str(mounted),
    ]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not permitted here, or the kernel has no erofs")
    try:
        status = (mounted / "f").stat()
        assert (status.st_mode, status.st_uid, status.st_gid, status.st_nlink) == (
            stat.S_IFREG | 0o4711,
            70_000,
            5,
            2,
        )
        assert os.getxattr(mounted / "f", "user.a") == b"b"
        assert (mounted / "null").stat().st_rdev == os.makedev(1, 3)
        assert sorted(int(path.read_text()) for path in (mounted / "many").iterdir()) == list(range(1000))
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


# Malicious layers


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "a/b/../../../evil"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"layer 1 .*leads out of the image's root"):
        root_of(tmp_path, layer(entry(name, b"x")))
    assert not (tmp_path / "made").exists()


def test_an_absolute_path_means_the_root(tmp_path: Path) -> None:
    assert root_of(tmp_path, layer(entry("/etc/evil", b"x")))["/etc/evil"].content == b"x"


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "missing", "dir"])
def test_a_hard_link_out_of_the_root_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ImageError, match=r"out of the image's root|is not in the root|is a directory"):
        root_of(tmp_path, layer(entry("dir/"), link("copy", target, hard=True)))


def test_a_hard_link_through_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not in the root"):
        root_of(tmp_path, layer(link("out", "/../../../../etc"), link("copy", "out/passwd", hard=True)))


def test_a_whiteout_outside_the_root_hides_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="leads out"):
        root_of(tmp_path, layer(entry("a", b"")), layer(entry("../.wh.a", b"")))


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="40 symbolic links"):
        root_of(tmp_path, layer(link("a", "b"), link("b", "a"), entry("a/file", b"x")))


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="'a/file' leads through 'a', which is not a directory"):
        root_of(tmp_path, layer(entry("a", b""), entry("a/file", b"x")))


def test_device_nodes_and_setuid_files_are_in_the_image_only(tmp_path: Path) -> None:
    root_of(tmp_path, layer(device("mem", 1, 1), entry("su", b"x", mode=0o6755)))
    for path in tmp_path.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        assert not mode & 0o7000


@pytest.mark.parametrize(
    ("tightened", "said"),
    [
        (Limits(entries=99), "more than 99 files"),
        (Limits(unpacked_bytes=10 * MIB), "unpacks to more than 10 MiB"),
    ],
)
def test_a_layer_bomb_is_refused_before_anything_is_written(
    tmp_path: Path, tightened: Limits, said: str
) -> None:
    bomb = layer(*(entry(f"f{number}", bytes(200_000)) for number in range(100)))
    with pytest.raises(ImageError, match=said) as caught:
        root_of(tmp_path, bomb, limits=tightened)
    assert "--max-" in str(caught.value.hint)
    assert not (tmp_path / "made").exists()


def test_a_file_that_only_claims_its_size_is_refused(tmp_path: Path) -> None:
    info, _ = entry("huge", b"")
    info.size = 1 << 50
    with pytest.raises(ImageError, match="unpacks to more than"):
        root_of(tmp_path, info.tobuf() + bytes(1024))


def test_a_compression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ballonet.images.layers.RATIO_FROM_BYTES", 4 * MIB)
    with pytest.raises(ImageError, match="more than 200 times its size") as caught:
        root_of(tmp_path, layer(entry("zeros", bytes(64 * MIB))))
    assert "--max-ratio" in str(caught.value.hint)


def test_too_many_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="3 layers; the limit is 2"):
        root_of(tmp_path, *[layer(entry("a", b""))] * 3, limits=Limits(layers=2))


def test_a_header_bomb_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    with pytest.raises(ImageError, match="header of 3221225472 bytes"):
        root_of(tmp_path, info.tobuf() + bytes(4096))


def test_no_image_is_read_with_a_python_that_knows_no_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "BoundedTarInfo", tarfile.TarInfo)
    layers.check_tarfile.cache_clear()
    with pytest.raises(ImageError, match="cannot be limited with Python 3"):
        root_of(tmp_path, layer(entry("f", b"x")))


def test_directories_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"more than {limits.MAX_DEPTH} directories deep"):
        root_of(tmp_path, layer(entry("d/" * 400 + "f", b"x")))


@pytest.mark.parametrize("name", ["n" * 256, "/".join(["n" * 100] * 50)])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"not a valid file name of at most 255 bytes|bytes exceeds 4096"):
        root_of(tmp_path, layer(entry(name, b"x")))


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    info, content = entry("x", b"x")
    info.pax_headers = {"path": "a\0b"}
    with pytest.raises(ImageError, match="not a valid file name"):
        root_of(tmp_path, layer((info, content)))


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    sparse = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "f",
        "GNU.sparse.realsize": "9",
    }
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info, content = entry("f", b"1\n0\n9\n".ljust(512, b"\0"))
        info.pax_headers = sparse
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(ImageError, match="sparse"):
        root_of(tmp_path, made.getvalue())
    old, _ = entry("f", b"", type=tarfile.GNUTYPE_SPARSE)
    with pytest.raises(ImageError, match="sparse"):
        root_of(tmp_path, old.tobuf() + bytes(1024))


def test_owners_that_no_kernel_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="'f' has the invalid owner 1099511627776:0"):
        root_of(tmp_path, layer(entry("f", b"", uid=2**40)))


def test_unknown_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="'f' has the unsupported file type b'Z'"):
        root_of(tmp_path, layer(entry("f", b"", type=b"Z")))


def test_overlay_marks_of_the_host_kind_are_left_out(tmp_path: Path) -> None:
    found = root_of(
        tmp_path, layer(entry("d/", xattrs={"trusted.overlay.opaque": "y", "trusted.other": "n"}))
    )
    assert found["/d"].xattrs == {"trusted.other": b"n"}


def test_the_name_of_an_extended_attribute_is_any_bytes(tmp_path: Path) -> None:
    whole = layer(entry("f", b"", xattrs={"user.name": "v"}))
    assert whole.count(b"user.name") == 1
    found = root_of(tmp_path, whole.replace(b"user.name", b"user.\x80\xffme"))
    assert found["/f"].xattrs == {"user.\udc80\udcffme": b"v"}


# Damaged layers


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda packed: packed[: len(packed) // 2], "its gzip stream is truncated"),
        (lambda packed: packed[:50] + b"\xff" * 20 + packed[70:], "damaged"),
        (lambda packed: b"no archive at all".ljust(600), "damaged header"),
        (
            lambda packed: gzip.compress(gzip.decompress(packed)[:-60_000]),
            "cannot be read as a tar archive|ends after",
        ),
    ],
)
def test_a_damaged_layer_with_a_right_digest_is_refused(tmp_path: Path, damage: object, said: str) -> None:
    stream = layer(entry("file", os.urandom(100_000)))
    path = tmp_path / "layer"
    path.write_bytes(damage(gzip.compress(stream)))  # type: ignore[operator]
    with pytest.raises(ImageError, match=f"layer 1 .*({said})"):
        plan_layers([Layer(1, path, digest(path.read_bytes()), digest(stream))], "x", Limits())


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    stream = bytearray(layer(entry("a", b""), entry("b", b""), entry("c", b"")))
    stream[512 + 148] ^= 1  # the checksum of the second header
    with pytest.raises(ImageError, match="damaged header"):
        root_of(tmp_path, bytes(stream))


def test_a_layer_whose_digest_does_not_match_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(layer(entry("a", b"")))
    with pytest.raises(
        ImageError, match=f"layer 1 is damaged: its digest is {digest(path.read_bytes())}, expected sha256:"
    ):
        check_digest(path, digest(b"other"), "layer 1")


def test_content_that_is_not_what_the_configuration_says_is_refused(tmp_path: Path) -> None:
    """Otherwise an image with the id of a trusted one could have other layers."""
    path = tmp_path / "layer"
    path.write_bytes(layer(entry("a", b"")))
    with pytest.raises(ImageError, match=r"its content has the digest sha256:\w+, expected sha256:"):
        plan_layers([Layer(1, path, digest(path.read_bytes()), digest(b"other"))], "x", Limits())


def test_a_layer_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        check_digest(tmp_path / "none", digest(b""), "layer 1")


def test_a_disk_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HostError, match="No space left") as caught:
        root_of(tmp_path, layer(entry("a", b"a")))
    assert f"on the file system of {tmp_path}" in str(caught.value.hint)


# Random bytes


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_a_layer_of_any_bytes_is_read_or_refused(tmp_path: Path, data: strategies.DataObject) -> None:
    """Changed bytes with matching digests: only the parser can detect them."""
    stream = bytearray(
        layer(
            entry("d/", xattrs={"user.a": "b"}),
            entry("d/" + "n" * 150, b"content" * 100),
            link("l", "d/x"),
            link("h", "d/" + "n" * 150, hard=True),
            device("null", 1, 3),
            entry(".wh.other", b""),
        )
    )
    for _ in range(data.draw(strategies.integers(1, 6))):
        at = data.draw(strategies.integers(0, len(stream) - 1))
        stream[at] = data.draw(strategies.integers(0, 255))
    if data.draw(strategies.booleans()):
        for at in range(0, len(stream) - 512, 512):  # headers whose checksums are right again
            if stream[at + 257 : at + 262] == b"ustar":
                total = sum(stream[at : at + 148]) + 8 * 32 + sum(stream[at + 156 : at + 512])
                stream[at + 148 : at + 156] = b"%06o\0 " % total
    path = tmp_path / "layer"
    path.write_bytes(stream)
    made = Layer(1, path, digest(bytes(stream)), digest(bytes(stream)))
    shutil.rmtree(tmp_path / "made", ignore_errors=True)
    (tmp_path / "made").mkdir()
    try:
        plan = plan_layers([made], "x", Limits(unpacked_bytes=MIB))
        Reader(write_layers(plan, [made], tmp_path / "made")).files()
    except ImageError:
        pass
