"""Fetching a Debian cloud kernel with apt, without being root: downloaded and unpacked, not installed.

Owns ``CACHE/kernels``: one directory per package, with ``boot/vmlinuz-RELEASE`` and ``lib/modules/RELEASE``.
A directory there under its final name is complete: it got that name in one step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ballonet.errors import HostError, ProcessError
from ballonet.guest.bzimage import SETUP_BYTES, read_setup
from ballonet.paths import exclusive, private_dir

#: The packages that always depend on the current kernel; the first that the host's apt knows is used.
METAPACKAGES = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64")

_OWN_KERNEL = "or set BALLONET_KERNEL to a vmlinuz whose modules lie in ../lib/modules"
_REFRESH = f"refresh apt's lists as root (apt-get update), {_OWN_KERNEL}"
_DOWNLOAD_S = 900

_DEPENDS = re.compile(r"^\s*\|?Depends: (linux-image-\d\S*)$", re.MULTILINE)
# "500 http://HOST/debian bookworm/main amd64 Packages" in the output of apt-cache policy.
_LIST = re.compile(r"^\s*-?\d+ \S.* Packages$", re.MULTILINE)


def fetched_images(cache: Path) -> list[Path]:
    """The ``vmlinuz`` files of the kernels that were fetched into ``cache`` before."""
    return [path for path in (cache / "kernels").glob("linux-image-*/boot/vmlinuz-*") if path.is_file()]


def fetch_image(cache: Path, report: Callable[[str], None]) -> Path:
    """Fetch the current cloud kernel into ``cache`` and return its ``vmlinuz``.

    If another process is at it, waits for that and returns what it fetched.

    :param report: told in one line what takes time.
    :raises HostError: the host has no apt or its lists are empty, no such package is known, the download
        failed, or what came is not a kernel.
    """
    kernels = private_dir(cache / "kernels")
    with exclusive(kernels / "lock"):
        for done in fetched_images(cache):
            return done
        _remove_leftovers(kernels)
        package = current_package()
        report(f"fetching {package} with apt (once)")
        return _fetch(package, kernels)


def current_package() -> str:
    """The name of the newest kernel package, as apt's lists have it.

    :raises HostError: the host has no apt, its lists are empty, or none of :data:`METAPACKAGES` is in them.
    """
    from ballonet.process import find_program, run

    apt_cache = find_program("apt-cache", hint=f"install a cloud kernel by other means, {_OWN_KERNEL}")
    for metapackage in METAPACKAGES:
        try:
            depends = run([apt_cache, "depends", metapackage], timeout_s=60)
        except ProcessError:
            continue  # not in the lists
        match = _DEPENDS.search(depends)
        if match:
            return match[1]
    if not _LIST.search(run([apt_cache, "policy"], timeout_s=60)):
        raise HostError("no kernel can be fetched: apt has no package lists", hint=_REFRESH)
    raise HostError(
        f"no kernel can be fetched: apt knows none of {', '.join(METAPACKAGES)}",
        hint=f"install a cloud kernel by other means, {_OWN_KERNEL}",
    )


def _fetch(package: str, kernels: Path) -> Path:
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kernels) as made:
        work = Path(made)
        stem = unpack_package(package, work, work / "unpacked", hint=_REFRESH)
        unpacked, wanted = work / "unpacked", work / "wanted"
        images = list(unpacked.glob("boot/vmlinuz-*"))
        # /lib is a link to /usr/lib on current systems, and newer packages are built that way.
        trees = [path for path in (unpacked / "lib/modules", unpacked / "usr/lib/modules") if path.is_dir()]
        if len(images) != 1 or not trees:
            raise HostError(f"package {package} does not contain a kernel and its modules")
        with images[0].open("rb") as file:
            release = read_setup(file.read(SETUP_BYTES), images[0].name).release
        if not (trees[0] / release).is_dir():
            raise HostError(f"package {package} has kernel {release}, but not its modules")
        (wanted / "boot").mkdir(parents=True)
        (wanted / "lib").mkdir()
        images[0].rename(wanted / "boot" / f"vmlinuz-{release}")
        trees[0].rename(wanted / "lib/modules")
        os.sync()  # the new name must not reach the disk before what it names
        final = kernels / stem
        if final.exists():  # without a kernel in it, or this fetch would not be under way
            shutil.rmtree(final)
        wanted.rename(final)
    return final / "boot" / f"vmlinuz-{release}"


def unpack_package(package: str, work: Path, target: Path, *, hint: str) -> str:
    """Download a Debian package with apt into ``work`` and unpack it below ``target``: nothing is installed, no script
    of it runs, and nothing needs root. Returns the package's name with version and architecture.

    :param hint: what to do if the download fails.
    :raises HostError: the host has no apt, or the download failed.
    """
    from ballonet.process import find_program, run

    dpkg_deb = find_program("dpkg-deb", hint="apt-get install dpkg")
    apt_get = find_program("apt-get", hint="apt-get is part of apt")
    run([apt_get, "download", package], cwd=work, timeout_s=_DOWNLOAD_S, hint=hint)
    archives = list(work.glob("*.deb"))
    if len(archives) != 1:
        raise HostError(f"apt-get download {package} left {len(archives)} packages instead of one")
    run([dpkg_deb, "-x", archives[0], target], timeout_s=300, hint="is the disk full?")
    return archives[0].stem


def _remove_leftovers(kernels: Path) -> None:
    # Called with the lock held: whoever made these was killed.
    import shutil

    for path in kernels.glob(".fetch-*"):
        shutil.rmtree(path, ignore_errors=True)
