"""The image store: importing from layouts and archives with the real ``skopeo``, naming and removing images."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError, HostError, ImageError, ImageInUseError, UnknownImageError
from ballonet.images.archive import find_archive, names_in
from ballonet.images.limits import Limits
from ballonet.images.store import ImageStore
from tests.unit.disks import mounted_disk
from tests.unit.erofs_reader import Found, Reader
from tests.unit.oci import Layout, device, digest, entry, layer, link

pytestmark = pytest.mark.long

PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:1000:100::/srv:\n"
BASE = layer(entry("etc/passwd", PASSWD), entry("bin/su", b"su", mode=0o4755), device("dev/null", 1, 3))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images: mine")  # skopeo takes a colon for the end of a path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def files(image: Any) -> dict[str, Found]:
    return Reader(image.root).files()


def left_over(store: ImageStore) -> list[str]:
    """Files in the store other than complete images, names and locks."""
    return sorted(map(str, (store.directory / "work").rglob("*")))


def blobs(store: ImageStore) -> set[str]:
    return {path.name for path in (store.directory / "blobs/sha256").glob("*")}


def test_a_layout_becomes_an_image(store: ImageStore, layout: Layout) -> None:
    layout.add(BASE, layer(entry("srv/", uid=1000)), config={"Cmd": ["su"], "User": "web", "Env": ["A=b"]})
    said: list[str] = []
    image = store.resolve(layout.reference(), report=said.append)
    assert said == [f"fetching {layout.reference()}"]
    assert paths(image) == ["/", "/bin", "/bin/su", "/dev", "/dev/null", "/etc", "/etc/passwd", "/srv"]
    assert (image.config.cmd, image.config.user, image.config.env) == (("su",), "web", {"A": "b"})
    assert image.size_bytes == image.root.stat().st_size
    assert store.list() == [image]
    assert store.resolve(image.id[7:19]) == store.resolve(image.id) == image
    assert left_over(store) == []


def paths(image: Any) -> list[str]:
    return sorted(files(image))


def test_what_is_here_is_not_made_again_until_its_source_changes(store: ImageStore, layout: Layout) -> None:
    layout.add(BASE)
    image = store.resolve(layout.reference())
    said: list[str] = []
    assert store.resolve(layout.reference(), report=said.append) == image
    assert store.resolve(layout.reference(), pull="always", report=said.append) == image
    assert said == []
    layout.manifests.clear()
    layout.add(layer(entry("new", b"n")))
    assert paths(store.resolve(layout.reference())) == ["/", "/new"]


def test_never_and_absent_are_told(store: ImageStore, layout: Layout, tmp_path: Path) -> None:
    layout.add(BASE)
    for reference in ("debian", layout.reference(), "0123456789abcdef"):
        with pytest.raises(UnknownImageError, match="there is no local image") as caught:
            store.resolve(reference, pull="never")
        assert "image pull" in str(caught.value.hint)
    for absent in (layout.reference("other"), f"oci:{tmp_path}/none", f"docker-archive:{tmp_path}/none.tar"):
        with pytest.raises(UnknownImageError, match="cannot be read"):
            store.resolve(absent)
    assert store.list() == []


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_become_images(store: ImageStore, layout: Layout, tmp_path: Path, kind: str) -> None:
    layout.add(BASE, config={"Cmd": ["x"]})
    archive = tmp_path / "a.tar"
    subprocess.run(
        ["skopeo", "copy", "-q", layout.reference(), f"{kind}:{archive}:docker.io/me/app:1"], check=True
    )
    source = find_archive(str(archive))
    assert source.transport == kind
    assert names_in(source) == ["docker.io/me/app:1"]
    image = store.resolve(str(source))
    assert "/bin/su" in files(image)
    assert image.config.cmd == ("x",)
    assert store.resolve(f"{kind}:{archive}") == image


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "dir").mkdir()
    for name in ("text", "dir", "none"):
        with pytest.raises((ConfigError, ImageError), match=name):
            find_archive(str(tmp_path / name))


def test_what_is_no_archive_of_images_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no archive " * 1000)
    for name in ("empty", "text"):
        with pytest.raises(ImageError, match=r"it is not a tar archive|damaged header") as told:
            find_archive(str(tmp_path / name))
        assert "\n" not in told.value.message
        assert "ReadError" not in told.value.message


def test_layers_are_kept_once(store: ImageStore, layout: Layout) -> None:
    one = layout.add(BASE, name="one")
    two = layout.add(BASE, layer(entry("two", b"")), name="two")
    store.resolve(layout.reference("one"))
    before = blobs(store)
    store.resolve(layout.reference("two"))
    assert layout.layers_of(one)[0].name == layout.layers_of(two)[0].name
    assert len(blobs(store) - before) == 3  # a manifest, a configuration, a layer


def test_another_architecture_is_refused_with_both_named(store: ImageStore, layout: Layout) -> None:
    arm = layout.add(BASE, name="arm", architecture="arm64")
    layout.add_index({"arm64": arm, "s390x": arm}, name="list")
    with pytest.raises(ImageError, match=r"is for linux/arm64; sandboxes are linux/amd64"):
        store.resolve(layout.reference("arm"))
    with pytest.raises(ImageError, match=r"is for linux/arm64, linux/s390x; sandboxes are linux/amd64"):
        store.resolve(layout.reference("list"))
    assert store.list() == []


@pytest.mark.parametrize("damage", ["changed", "cut short", "gone"])
def test_a_damaged_layer_is_refused_and_nothing_of_it_kept(
    store: ImageStore, layout: Layout, damage: str
) -> None:
    path = layout.layers_of(layout.add(BASE, layer(entry("x", os.urandom(50_000)))))[1]
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-100] if damage == "cut short" else content[:-100] + bytes(100))
    with pytest.raises((ImageError, UnknownImageError), match="cannot be read"):
        store.resolve(layout.reference())
    assert (store.list(), left_over(store)) == ([], [])
    path.write_bytes(content)
    assert "/x" in files(store.resolve(layout.reference()))


def test_a_layer_that_was_damaged_here_is_refused_and_fetched_again(
    store: ImageStore, layout: Layout
) -> None:
    one = layout.add(BASE, name="one")
    layout.add(BASE, layer(entry("two", b"")), name="two")
    store.resolve(layout.reference("one"))
    blob = store.directory / "blobs/sha256" / layout.layers_of(one)[0].name
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(ImageError, match=r"layer 1 .* is damaged: its digest is") as caught:
        store.resolve(layout.reference("two"))
    assert "pull it again" in str(caught.value.hint)
    assert "/two" in files(store.resolve(layout.reference("two")))


def test_a_configuration_that_lies_about_its_layers_is_refused(store: ImageStore, layout: Layout) -> None:
    """It has the id of another image, which it must not replace."""
    layout.add(layer(entry("evil", b"")), diff_ids=[digest(BASE)])
    with pytest.raises(ImageError, match="its content has the digest"):
        store.resolve(layout.reference())
    layout.add(BASE, name="two", diff_ids=[digest(BASE), digest(BASE)])
    with pytest.raises(ImageError, match="has 1 layers, but its configuration has 2"):
        store.resolve(layout.reference("two"))
    assert store.list() == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (entry("../../evil", b"x"), "leads out of the image's root"),
        (link("copy", "../../../etc/shadow", hard=True), "leads out of the image's root"),
        (link("copy", "/etc/shadow", hard=True), "is not in the root"),
    ],
)
def test_a_hostile_layer_is_refused_and_nothing_of_it_kept(
    store: ImageStore, layout: Layout, tmp_path: Path, bad: Any, said: str
) -> None:
    layout.add(layer(bad))
    with pytest.raises(ImageError, match=said):
        store.resolve(layout.reference())
    assert (store.list(), left_over(store)) == ([], [])
    assert not list(tmp_path.rglob("evil"))


def test_devices_setuid_files_and_links_out_are_in_the_image_and_never_on_the_host(
    store: ImageStore, layout: Layout
) -> None:
    layout.add(
        layer(
            device("mem", 1, 1),
            entry("su", b"su", mode=0o6755),
            link("out", "/etc/shadow"),
            link("up", "../../x"),
        )
    )
    found = files(store.resolve(layout.reference()))
    assert (found["/mem"].kind, found["/su"].mode & 0o7777) == (stat.S_IFCHR, 0o6755)
    assert (found["/out"].content, found["/up"].content) == (b"/etc/shadow", b"../../x")
    for path in store.directory.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        assert not mode & 0o7000


def test_limits_are_told_with_the_option_that_raises_them(store: ImageStore, layout: Layout) -> None:
    layout.add(layer(*(entry(f"f{number}", b"") for number in range(50))))
    with pytest.raises(ImageError, match="more than 40 files") as caught:
        ImageStore(store.directory, limits=Limits(entries=40)).resolve(layout.reference())
    assert "--max-entries" in str(caught.value.hint)
    assert store.resolve(layout.reference())


def test_two_at_once_do_the_work_once(store: ImageStore, layout: Layout) -> None:
    layout.add(layer(*(entry(f"f{number}", os.urandom(1000)) for number in range(500))))
    said: list[str] = []
    found: list[Any] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        found.append(ImageStore(store.directory).resolve(layout.reference(), report=said.append))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({image.id for image in found}) == 1
    assert len(found) == 4
    assert said.count(f"fetching {layout.reference()}") == 1
    assert set(said) <= {
        f"{word} {layout.reference()}" for word in ("fetching", "waiting for another process that fetches")
    }


@pytest.mark.parametrize("moment", ["layout/oci-put-blob*", "root/root.erofs"])
def test_a_killed_pull_leaves_nothing_that_is_used(store: ImageStore, layout: Layout, moment: str) -> None:
    content = os.urandom(4 << 20)
    layout.add(*(layer(entry(f"f{number}", content + bytes([number]))) for number in range(8)), packed=False)
    program = (
        "import sys; from pathlib import Path; from ballonet.images.store import ImageStore\n"
        "ImageStore(Path(sys.argv[1])).resolve(sys.argv[2])"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(store.directory), layout.reference()])
    while child.poll() is None and not list(store.directory.glob(f"work/*/{moment}")):
        pass
    child.kill()
    child.wait()
    assert store.list() == []
    assert left_over(store) != []
    image = store.resolve(layout.reference())
    assert len(files(image)) == 9
    assert left_over(store) == []
    assert store.prune(users={image.id: ["box"]}) == []


def test_a_directory_becomes_an_image_with_owners_and_links(store: ImageStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_bytes(PASSWD)
    (root / "etc/passwd2").hardlink_to(root / "etc/passwd")
    (root / "out").symlink_to("/etc/shadow")
    (root / "bin").mkdir(mode=0o711)
    os.mkfifo(root / "pipe")
    image = store.from_rootfs(root)
    found = files(image)
    assert sorted(found) == ["/", "/bin", "/etc", "/etc/passwd", "/etc/passwd2", "/out", "/pipe"]
    assert found["/etc/passwd"].links == 2
    assert found["/out"].content == b"/etc/shadow"
    assert (found["/bin"].uid, found["/bin"].mode & 0o7777) == (os.getuid(), 0o711)
    assert image.names == ()
    assert store.from_rootfs(root) == image
    (root / "etc/passwd").write_bytes(b"")
    changed = store.from_rootfs(root)
    assert changed.id != image.id
    assert files(changed)["/etc/passwd2"].size == 0


def test_what_is_mounted_in_a_directory_is_not_taken_along(
    store: ImageStore, small_disk: Path, tmp_path: Path
) -> None:
    (small_disk / "inside").touch()
    assert "/disk/inside" not in files(store.from_rootfs(small_disk.parent))
    assert "/inside" in files(store.from_rootfs(small_disk))


def test_what_is_no_directory_is_refused(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(ConfigError, match="is not a directory"):
            store.from_rootfs(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/secret").write_text("s")
    (tmp_path / "root/secret").chmod(0)
    with pytest.raises(HostError, match="secret cannot be read"):
        store.from_rootfs(tmp_path / "root")


# Names, and removing images


def test_names_lead_to_images_and_can_be_moved(store: ImageStore, layout: Layout) -> None:
    layout.add(BASE, name="one")
    layout.add(layer(entry("x", b"")), name="two")
    one, two = (store.resolve(layout.reference(name)) for name in ("one", "two"))
    assert store.tag(one.id, "app").names == ("docker.io/library/app:latest",)
    assert store.tag("app", "app:1").names == ("docker.io/library/app:1", "docker.io/library/app:latest")
    assert store.resolve("app").id == one.id
    store.tag(two.id, "app")
    assert store.resolve("app").id == two.id
    for bad in ("oci:/x", f"a@sha256:{'0' * 64}", "NO"):
        with pytest.raises(ConfigError):
            store.tag("app", bad)
    with pytest.raises(UnknownImageError):
        store.tag("nothing", "name")


def test_an_image_in_use_is_not_removed_and_who_uses_it_is_told(store: ImageStore, layout: Layout) -> None:
    layout.add(BASE)
    image = store.resolve(layout.reference())
    store.tag(image.id, "app")
    store.tag(image.id, "other")
    users = {image.id: ["box", "box2"]}
    assert store.remove("other", users=users) == ["name other:latest"]
    for reference in ("app", image.id):
        with pytest.raises(ImageInUseError, match="is used by box, box2"):
            store.remove(reference, users=users)
    assert store.prune(users=users, every=True) == []
    assert image.root.is_file()
    assert store.remove("app", users={}) == ["name app:latest", f"image {image.id}"]
    assert (store.list(), blobs(store)) == ([], set())
    assert store.catalog.read_names().sources == {}


def test_prune_keeps_what_has_a_name_or_a_user(store: ImageStore, layout: Layout) -> None:
    for name in ("named", "used", "loose"):
        layout.add(layer(entry(name, b"")), name=name)
    images = {name: store.resolve(layout.reference(name)) for name in ("named", "used", "loose")}
    store.tag(images["named"].id, "named")
    users = {images["used"].id: ["box"]}
    assert store.prune(users=users) == [f"image {images['loose'].id}"]
    assert store.prune(users=users, every=True) == ["image named:latest"]
    assert [image.id for image in store.list()] == [images["used"].id]
    assert len(blobs(store)) == 3


def test_what_was_damaged_from_outside_is_no_image_and_goes(store: ImageStore, layout: Layout) -> None:
    layout.add(BASE)
    image = store.resolve(layout.reference())
    image.root.chmod(0o600)
    image.root.write_bytes(image.root.read_bytes()[:-4096])
    assert store.list() == []
    again = store.resolve(layout.reference())
    assert again.root.stat().st_size == again.size_bytes
    (store.directory / "names.json").write_text("{")
    with pytest.raises(HostError, match="image names cannot be read"):
        store.resolve("app")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "4m") as directory:
        yield directory


@pytest.mark.parametrize(("size", "packed_well"), [(6 << 20, False), (3 << 20, False), (6 << 20, True)])
def test_a_full_disk_half_way_is_told_and_nothing_half_written_is_used(
    small_disk: Path, layout: Layout, size: int, packed_well: bool
) -> None:
    """The disk is full during the fetch (6 MiB), or while the root is written (3 MiB twice, or well compressed)."""
    layout.add(layer(entry("big", bytes(size) if packed_well else os.urandom(size))), name="big")
    layout.add(BASE, name="small")
    store = ImageStore(small_disk / "images")
    small = store.resolve(layout.reference("small"))
    with pytest.raises(HostError, match=r"(?i)no space left") as caught:
        store.resolve(layout.reference("big"))
    assert "free up space on the file system of" in str(caught.value.hint)
    assert store.list() == [small]
    assert left_over(store) == []
    store.prune(users={small.id: ["box"]})
    assert shutil.disk_usage(small_disk).used < 1 << 20
    assert store.resolve(layout.reference("small")) == small


def test_the_note_of_an_image_is_plain(store: ImageStore, layout: Layout) -> None:
    layout.add(BASE, config={"Env": ["A=1"]})
    image = store.resolve(layout.reference())
    said = json.loads(image.root.with_name("image.json").read_bytes())
    assert said["id"] == image.id
    assert said["config"]["Env"] == ["A=1"]
    assert stat.S_IMODE(image.root.stat().st_mode) == 0o444
