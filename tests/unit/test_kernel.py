from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.guest.kernel import Kernel, find_kernel, unpacked_kernel, version_key
from tests.unit import images

META = "linux-image-6.12-cloud-amd64"
OTHER_META = "linux-image-cloud-amd64"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def find(
    cache: Path,
    root: Path,
    *,
    env: dict[str, str] | None = None,
    fetch: bool = False,
    explicit: Path | None = None,
) -> Kernel:
    return find_kernel(cache=cache, root=root, env=env or {}, fetch=fetch, explicit=explicit)


def test_newest_installed_cloud_kernel_wins_by_number(cache: Path, root: Path) -> None:
    for release in (
        "6.1.0-56-cloud-amd64",
        "6.12.9+deb12-cloud-amd64",
        "6.12.10+deb12-cloud-amd64",
        "6.99.0-amd64",
    ):
        images.install_kernel(root, release)
    kernel = find(cache, root)
    assert kernel.release == "6.12.10+deb12-cloud-amd64"
    assert kernel.modules_dir == root / "lib/modules/6.12.10+deb12-cloud-amd64"
    assert kernel.vmlinux.read_bytes() == images.vmlinux(padding=10_000)


def test_installed_kernel_without_modules_is_passed_over(cache: Path, root: Path) -> None:
    images.install_kernel(root, "6.1.0-cloud-amd64")
    images.install_kernel(root, "6.2.0-cloud-amd64")
    shutil.rmtree(root / "lib/modules/6.2.0-cloud-amd64")
    assert find(cache, root).release == "6.1.0-cloud-amd64"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_installed_kernel_that_only_root_reads_is_passed_over(cache: Path, root: Path) -> None:
    images.install_kernel(root, "6.1.0-cloud-amd64")
    images.install_kernel(root, "6.2.0-cloud-amd64").chmod(0)
    assert find(cache, root).release == "6.1.0-cloud-amd64"


def test_named_kernel_comes_before_installed_ones(cache: Path, root: Path, tmp_path: Path) -> None:
    images.install_kernel(root, "9.9.9-cloud-amd64")
    named = images.install_kernel(tmp_path / "named", "6.5.0-own")
    explicit = images.install_kernel(tmp_path / "explicit", "6.6.0-own")
    env = {"BALLONET_KERNEL": str(named)}
    assert find(cache, root, env=env).release == "6.5.0-own"
    kernel = find(cache, root, env=env, explicit=explicit)
    assert (kernel.release, kernel.vmlinuz) == ("6.6.0-own", explicit)
    assert kernel.modules_dir == tmp_path / "explicit/lib/modules/6.6.0-own"


def test_named_kernels_modules_may_be_installed(cache: Path, root: Path, tmp_path: Path) -> None:
    image = images.install_kernel(root, "6.5.0-own")
    moved = tmp_path / "kernel.img"
    image.rename(moved)
    assert find(cache, root, explicit=moved).modules_dir == root / "lib/modules/6.5.0-own"


def test_named_kernel_without_modules_is_an_error_with_both_places(
    cache: Path, root: Path, tmp_path: Path
) -> None:
    image = images.install_kernel(tmp_path / "named", "6.5.0-own")
    shutil.rmtree(tmp_path / "named/lib")
    with pytest.raises(
        HostError, match=r"modules of kernel 6\.5\.0-own .*named/lib/modules.*root/lib/modules"
    ):
        find(cache, root, explicit=image)


def test_named_kernel_that_is_none_is_an_error(cache: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"missing cannot be read: No such file"):
        find(cache, root, env={"BALLONET_KERNEL": str(tmp_path / "missing")})
    (tmp_path / "text").write_text("hello")
    with pytest.raises(HostError, match="text is not a Linux kernel image"):
        find(cache, root, explicit=tmp_path / "text")


def test_no_kernel_and_no_fetching_is_an_error_with_a_hint(cache: Path, root: Path) -> None:
    with pytest.raises(HostError, match="no cloud kernel is installed") as caught:
        find(cache, root)
    assert "BALLONET_KERNEL" in str(caught.value.hint)


def test_kernel_is_unpacked_once_and_again_when_it_changes(cache: Path, tmp_path: Path) -> None:
    said: list[str] = []
    image = images.install_kernel(tmp_path, "6.5.0-own")
    first = unpacked_kernel(image, cache, said.append)
    assert unpacked_kernel(image, cache, said.append) == first
    assert said == ["unpacking the kernel vmlinuz-6.5.0-own"]
    newer = images.vmlinux(padding=20_000)
    image.write_bytes(images.bzimage(images.COMPRESSIONS["zstd"](newer), "6.5.0-own"))
    assert unpacked_kernel(image, cache).read_bytes() == newer


def test_finding_a_known_kernel_loads_no_decompressor(cache: Path, root: Path) -> None:
    images.install_kernel(root, "6.1.0-cloud-amd64")
    find(cache, root)
    program = (
        "import sys; from pathlib import Path; from ballonet.guest.kernel import find_kernel\n"
        "find_kernel(cache=Path(sys.argv[1]), root=Path(sys.argv[2]), env={}, fetch=False)\n"
        "print([name for name in ('lz4', 'zstandard', 'lzma', 'subprocess') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache), str(root)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


def test_releases_sort_by_number() -> None:
    releases = [
        "6.12.117+deb12-cloud-amd64",
        "6.1.0-56-cloud-amd64",
        "6.1.0-9-cloud-amd64",
        "6.12.9+deb12-cloud-amd64",
    ]
    assert sorted(releases, key=version_key) == [releases[2], releases[1], releases[3], releases[0]]


class FakeApt:
    """apt as programs on PATH: ``apt-get download`` hands out packages that are really built with dpkg-deb."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.packages, self.log = directory / "bin", directory / "packages", directory / "log"
        self.bin.mkdir(parents=True)
        self.packages.mkdir()
        self.depends: dict[str, str] = {}
        self.lists = "500 http://deb.example.org/debian stable/main amd64 Packages"
        self.download = f'cp {self.packages}/"$2"_*.deb .'
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")

    def provide(self, package: str, tree: Path) -> None:
        control = tree / "DEBIAN/control"
        control.parent.mkdir()
        control.write_text(
            f"Package: {package}\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: t <t@example.org>\nDescription: t\n"
        )
        archive = self.packages / f"{package}_1.0-1_amd64.deb"
        subprocess.run(["dpkg-deb", "-b", str(tree), str(archive)], check=True, capture_output=True)

    def write(self) -> None:
        """Put the programs on PATH, as the fields now say."""
        known = "".join(
            f'{meta}) printf "{meta}\\n  Depends: {package}\\n"; exit 0;;\n'
            for meta, package in self.depends.items()
        )
        self._program(
            "apt-cache",
            f'if [ "$1" = policy ]; then echo "{self.lists}"; exit 0; fi\n'
            f'case "$2" in\n{known}esac\n'
            'echo "E: No packages found" >&2; exit 100',
        )
        self._program("apt-get", f'echo "$@" >> {self.log}\n{self.download}')

    def downloads(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def _program(self, name: str, text: str) -> None:
        (self.bin / name).write_text("#!/bin/sh\n" + text + "\n")
        (self.bin / name).chmod(0o755)


PACKAGE = f"linux-image-{images.RELEASE}"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("fetching is for Debian hosts: dpkg-deb is not here")
    fake = FakeApt(tmp_path / "apt", monkeypatch)
    tree = tmp_path / "apt/tree"
    images.install_kernel(tree)
    fake.provide(PACKAGE, tree)
    fake.depends = {META: PACKAGE}
    fake.write()
    return fake


def test_kernel_is_fetched_once_and_found_afterwards(apt: FakeApt, cache: Path, root: Path) -> None:
    first = find(cache, root, fetch=True)
    assert first.release == images.RELEASE
    assert (first.modules_dir / "kernel/drivers/virtio/virtio_balloon.ko").is_file()
    assert find(cache, root) == first
    assert apt.downloads() == [f"download {PACKAGE}"]


def test_only_what_is_needed_stays_in_the_cache(apt: FakeApt, cache: Path, root: Path) -> None:
    find(cache, root, fetch=True)
    (kept,) = (path for path in (cache / "kernels").iterdir() if path.name != "lock")
    assert kept.name == f"{PACKAGE}_1.0-1_amd64"
    assert sorted(path.name for path in kept.iterdir()) == ["boot", "lib"]


def test_modules_under_usr_are_found(apt: FakeApt, cache: Path, root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "merged"
    images.install_kernel(tree)
    (tree / "usr").mkdir()
    (tree / "lib").rename(tree / "usr/lib")
    apt.provide(PACKAGE, tree)
    assert (find(cache, root, fetch=True).modules_dir / "modules.builtin").is_file()


def test_second_metapackage_is_tried(apt: FakeApt, cache: Path, root: Path) -> None:
    apt.depends = {OTHER_META: PACKAGE}
    apt.write()
    assert find(cache, root, fetch=True).release == images.RELEASE


def test_empty_package_lists_are_said_with_the_cure(apt: FakeApt, cache: Path, root: Path) -> None:
    apt.depends, apt.lists = {}, "100 /var/lib/dpkg/status"
    apt.write()
    with pytest.raises(HostError, match="apt has no package lists") as caught:
        find(cache, root, fetch=True)
    assert "apt-get update" in str(caught.value.hint)


def test_unknown_packages_are_named(apt: FakeApt, cache: Path, root: Path) -> None:
    apt.depends = {}
    apt.write()
    with pytest.raises(HostError, match=f"apt's package lists have none of {META}, {OTHER_META}"):
        find(cache, root, fetch=True)


def test_host_without_apt_is_said(cache: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="apt-cache is not installed") as caught:
        find(cache, root, fetch=True)
    assert "BALLONET_KERNEL" in str(caught.value.hint)


def test_failed_download_leaves_nothing_and_can_be_repeated(apt: FakeApt, cache: Path, root: Path) -> None:
    working, apt.download = apt.download, 'echo half > x.deb; echo "E: 404 Not Found" >&2; exit 100'
    apt.write()
    with pytest.raises(HostError, match="404 Not Found") as caught:
        find(cache, root, fetch=True)
    assert "apt-get update" in str(caught.value.hint)
    assert [path.name for path in (cache / "kernels").iterdir()] == ["lock"]
    apt.download = working
    apt.write()
    assert find(cache, root, fetch=True).release == images.RELEASE


def test_what_a_killed_fetch_left_is_not_used_and_removed(apt: FakeApt, cache: Path, root: Path) -> None:
    half = cache / "kernels/.fetch-killed"
    images.install_kernel(half / "wanted")
    with pytest.raises(HostError, match="none was downloaded before"):
        find(cache, root)
    find(cache, root, fetch=True)
    assert not half.exists()


def test_package_without_a_kernel_is_refused(apt: FakeApt, cache: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    apt.provide(PACKAGE, tmp_path / "empty")
    with pytest.raises(HostError, match="does not contain a kernel"):
        find(cache, root, fetch=True)
    assert [path.name for path in (cache / "kernels").iterdir()] == ["lock"]


def test_fetches_at_once_download_once(apt: FakeApt, cache: Path, root: Path) -> None:
    found: list[Kernel] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        found.append(find(cache, root, fetch=True))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert apt.downloads() == [f"download {PACKAGE}"]
