"""Downloading a Debian cloud kernel with apt, without root: it is unpacked, not installed.

Owns ``CACHE/kernels``: one directory per package, with ``boot/vmlinuz-RELEASE`` and ``lib/modules/RELEASE``.
A directory with its final name is complete, because it is renamed when it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from ballonet.base.errors import HostError, ProcessError
from ballonet.base.paths import exclusive, private_dir
from ballonet.guest.bzimage import SETUP_BYTES, read_setup

#: Packages that always depend on the current kernel. The first one in the host's package lists is used.
METAPACKAGES = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64")

_OWN_KERNEL = "or set BALLONET_KERNEL to a vmlinuz whose modules are in ../lib/modules"


_DEPENDS = re.compile(r"^\s*\|?Depends: (linux-image-\d\S*)$", re.MULTILINE)
# "500 http://HOST/debian bookworm/main amd64 Packages" in the output of apt-cache policy.
_LIST = re.compile(r"^\s*-?\d+ \S.* Packages$", re.MULTILINE)


def fetched_images(cache: Path) -> list[Path]:
    """The ``vmlinuz`` files of the kernels that were downloaded into ``cache``."""
    return [path for path in (cache / "kernels").glob("linux-image-*/boot/vmlinuz-*") if path.is_file()]


def fetch_image(cache: Path, report: Callable[[str], None]) -> Path:
    """Download the current cloud kernel into ``cache`` and return its ``vmlinuz``.

    If another process is downloading it, waits for that one and returns its result.

    :param report: called with one line before a step that takes time.
    :raises HostError: the host has no apt or no package lists, the lists have no such package, the download failed,
        or the package does not contain a kernel.
    """
    from ballonet.base.debian import remove_leftovers

    kernels = private_dir(cache / "kernels")
    with exclusive(kernels / "lock"):
        for done in fetched_images(cache):
            return done
        remove_leftovers(kernels)
        package = current_package()
        report(f"downloading {package} with apt (once)")
        return _fetch(package, kernels)


def current_package() -> str:
    """The name of the newest kernel package in apt's package lists.

    :raises HostError: the host has no apt or no package lists, or none of :data:`METAPACKAGES` is in them.
    """
    from ballonet.base.process import find_program, run

    apt_cache = find_program("apt-cache", hint=f"install a cloud kernel in another way, {_OWN_KERNEL}")
    for metapackage in METAPACKAGES:
        try:
            depends = run([apt_cache, "depends", metapackage], timeout_s=60)
        except ProcessError:
            continue  # not in the lists
        match = _DEPENDS.search(depends)
        if match:
            return match[1]
    if not _LIST.search(run([apt_cache, "policy"], timeout_s=60)):
        raise HostError("no kernel can be downloaded: apt has no package lists", hint=_refresh())
    raise HostError(
        f"no kernel can be downloaded: apt's package lists have none of {', '.join(METAPACKAGES)}",
        hint=f"install a cloud kernel in another way, {_OWN_KERNEL}",
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
        # On current systems /lib is a link to /usr/lib, and newer packages use that path.
        trees = [path for path in (unpacked / "lib/modules", unpacked / "usr/lib/modules") if path.is_dir()]
        if len(images) != 1 or not trees:
            raise HostError(f"package {package} does not contain a kernel and its modules")
        with images[0].open("rb") as file:
            release = read_setup(file.read(SETUP_BYTES), images[0].name).release
        if not (trees[0] / release).is_dir():
            raise HostError(f"package {package} contains kernel {release}, but not its modules")
        (wanted / "boot").mkdir(parents=True)
        (wanted / "lib").mkdir()
        images[0].rename(wanted / "boot" / f"vmlinuz-{release}")
        trees[0].rename(wanted / "lib/modules")
        os.sync()  # the contents must be on disk before the new name is
        final = kernels / name
        if final.exists():  # it has no kernel, otherwise nothing would be downloaded
            shutil.rmtree(final)
        wanted.rename(final)
    return final / "boot" / f"vmlinuz-{release}"
