from __future__ import annotations

import gzip
import lzma
import random
from pathlib import Path

import pytest
import zstandard

from ballonet.base.errors import HostError
from ballonet.guest.modules import ModuleTree, read_module
from tests.unit import images


def tree(directory: Path, dep: str | None = None, builtin: str = "") -> ModuleTree:
    directory.mkdir(exist_ok=True)
    (directory / "modules.builtin").write_text(builtin)
    if dep is not None:
        (directory / "modules.dep").write_text(dep)
    return ModuleTree(directory, "6.9.1-test")


def test_dependencies_come_first_and_once(tmp_path: Path) -> None:
    # The second line is as depmod writes it: all that is needed, the last to be loaded first.
    modules = tree(
        tmp_path, "a/base.ko:\na/top.ko: a/mid.ko a/base.ko\na/mid.ko: a/base.ko\na/other.ko: a/base.ko\n"
    )
    resolved = modules.resolve(["top", "other", "mid", "top"])
    assert [module.name for module in resolved] == ["base", "mid", "top", "other"]
    assert resolved[0].path == tmp_path / "a/base.ko"


def test_built_in_modules_are_left_out(tmp_path: Path) -> None:
    modules = tree(
        tmp_path, "k/top.ko: k/mid.ko\nk/mid.ko:\n", builtin="kernel/x/virtio-ring.ko\nkernel/mid.ko\n"
    )
    assert [module.name for module in modules.resolve(["virtio_ring", "top"])] == ["top"]


def test_hyphen_and_underscore_are_the_same(tmp_path: Path) -> None:
    modules = tree(tmp_path, "k/snd-hda_x.ko.xz: k/a-b.ko.xz\nk/a-b.ko.xz:\n")
    resolved = modules.resolve(["snd_hda-x"])
    assert [(module.name, module.relative) for module in resolved] == [
        ("a_b", "k/a-b.ko"),
        ("snd_hda_x", "k/snd-hda_x.ko"),
    ]


def test_unknown_name_is_an_error_with_the_release(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"kernel 6\.9\.1-test has no module nonesuch"):
        tree(tmp_path, "k/a.ko:\n").resolve(["a", "nonesuch"])


def test_missing_dependency_says_who_wants_it(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no module gone, which a depends on"):
        tree(tmp_path, "k/a.ko: k/gone.ko\n").resolve(["a"])


def test_directory_without_lists_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"modules of kernel 6\.9 cannot be listed.*No such file"):
        ModuleTree(tmp_path / "none", "6.9")


def test_circular_dependencies_end(tmp_path: Path) -> None:
    modules = tree(tmp_path, "k/a.ko: k/b.ko\nk/b.ko: k/c.ko\nk/c.ko: k/a.ko\n")
    assert {module.name for module in modules.resolve(["a"])} == {"a", "b", "c"}


def test_absolute_path_gets_a_place_inside_the_guests_tree(tmp_path: Path) -> None:
    (module,) = tree(tmp_path, "/opt/x/a.ko.xz:\n").resolve(["a"])
    assert (module.path, module.relative) == (Path("/opt/x/a.ko.xz"), "external/a.ko")


def test_without_modules_dep_the_modules_themselves_are_asked(tmp_path: Path) -> None:
    drivers = tmp_path / "kernel/drivers"
    drivers.mkdir(parents=True)
    (drivers / "virtio.ko.xz").write_bytes(lzma.compress(images.module("virtio-ring")))
    (drivers / "virtio_ring.ko").write_bytes(images.module())
    (drivers / "virtio_mmio.ko.gz").write_bytes(gzip.compress(images.module("virtio,built_in")))
    modules = tree(tmp_path, builtin="kernel/built-in.ko\n").resolve(["virtio_mmio"])
    assert [module.relative for module in modules] == [
        "kernel/drivers/virtio_ring.ko",
        "kernel/drivers/virtio.ko",
        "kernel/drivers/virtio_mmio.ko",
    ]


def test_order_holds_for_random_dependencies(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    names = [f"m{number}" for number in range(60)]
    needs = {name: chance.sample(names[:at], chance.randint(0, min(at, 4))) for at, name in enumerate(names)}
    lines = [f"k/{name}.ko: {' '.join(f'k/{need}.ko' for need in needs[name])}\n" for name in names]
    chance.shuffle(lines)
    wanted = chance.sample(names, 10)
    order = [module.name for module in tree(tmp_path, "".join(lines)).resolve(wanted)]
    assert len(order) == len(set(order)) and set(wanted) <= set(order)
    for name in order:
        assert all(order.index(need) < order.index(name) for need in needs[name])


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz", ".ko.gz", ".ko.zst"])
def test_module_is_read_uncompressed(suffix: str, tmp_path: Path) -> None:
    content = images.module("a,b") * 50
    streamed = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    packed = {
        ".ko": content,
        ".ko.xz": lzma.compress(content),
        ".ko.gz": gzip.compress(content),
        ".ko.zst": streamed.compress(content) + streamed.flush(),
    }[suffix]
    path = tmp_path / f"m{suffix}"
    path.write_bytes(packed)
    assert read_module(path) == content


@pytest.mark.parametrize("suffix", [".ko.xz", ".ko.gz", ".ko.zst"])
def test_damaged_module_is_an_error_with_its_path(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"no such format")
    with pytest.raises(HostError, match=f"module .*m{suffix} is damaged"):
        read_module(path)
