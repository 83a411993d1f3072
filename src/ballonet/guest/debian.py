"""Fetching a Debian cloud kernel with apt, without being root: downloaded and unpacked, not installed.

Owns ``CACHE/kernels``: one directory per package, with ``boot/vmlinuz-RELEASE`` and ``lib/modules/RELEASE``.
A directory there under its final name is complete: it got that name in one step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ballonet.base.errors import HostError, ProcessError
from ballonet.base.paths import exclusive, private_dir
from ballonet.guest.bzimage import SETUP_BYTES, read_setup

#: The packages that always depend on the current kernel; the first that the host's apt knows is used.
METAPACKAGES = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64")

_OWN_KERNEL = "or set BALLONET_KERNEL to a vmlinuz whose modules lie in ../lib/modules"


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
    from ballonet.base.debian import remove_leftovers

    kernels = private_dir(cache / "kernels")
    with exclusive(kernels / "lock"):
        for done in fetched_images(cache):
            return done
        remove_leftovers(kernels)
        package = current_package()
        report(f"fetching {package} with apt (once)")
        return _fetch(package, kernels)


def current_package() -> str:
    """The name of the newest kernel package, as apt's lists have it.

    :raises HostError: the host has no apt, its lists are empty, or none of :data:`METAPACKAGES` is in them.
    """
    from ballonet.base.process import find_program, run

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
        raise HostError("no kernel can be fetched: apt has no package lists", hint=_refresh())
    raise HostError(
        f"no kernel can be fetched: apt knows none of {', '.join(METAPACKAGES)}",
        hint=f"install a cloud kernel by other means, {_OWN_KERNEL}",
    )


def _refresh() -> str:
    from ballonet.base.debian import REFRESH

    return f"{REFRESH}, {_OWN_KERNEL}"


def _fetch(package: str, kernels: Path) -> Path:
    import shutil

    from ballonet.base.debian import download, making

    with making(kernels) as made:
        work = Path(made)
        name, unpacked = download(package, work, hint=_refresh())
        wanted = work / "wanted"
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
        final = kernels / name
        if final.exists():  # without a kernel in it, or this fetch would not be under way
            shutil.rmtree(final)
        wanted.rename(final)
    return final / "boot" / f"vmlinuz-{release}"
