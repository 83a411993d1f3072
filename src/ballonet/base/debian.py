"""Fetches Debian packages with apt and unpacks them without installing them: no root, no service is started.

Owns ``CACHE/debian``, one directory per package. A directory with a package's name is complete, because it is renamed
to that name as the last step. :mod:`ballonet.guest.debian` uses the same steps for kernels.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ballonet.base.errors import HostError
from ballonet.base.paths import exclusive, private_dir
from ballonet.base.process import find_program, run

REFRESH = "refresh apt's lists as root (apt-get update)"
_DOWNLOAD_S, _UNPACK_S = 900, 300
#: Prefix of directories that are not complete yet.
_MAKING = ".fetch-"


def fetch_package(package: str, cache: Path, report: Callable[[str], None]) -> Path:
    """The directory below ``cache`` with the files of ``package``, laid out as below ``/``. It is fetched once.

    Waits if another process is fetching it.

    :param report: called with one line of text about each step that takes time.
    :raises HostError: the host has no apt, or the download failed.
    """
    packages = private_dir(cache / "debian")
    final = packages / package
    with exclusive(packages / "lock"):
        if not final.is_dir():
            remove_leftovers(packages)
            report(f"fetching {package} with apt (once)")
            with making(packages) as work:
                _, unpacked = download(package, Path(work), hint=REFRESH)
                unpacked.rename(final)
    return final


def download(package: str, work: Path, *, hint: str) -> tuple[str, Path]:
    """Download ``package`` into the empty directory ``work`` and unpack it there.

    :returns: the name of its file without the suffix (name, version, architecture), and the directory with its files.
    :raises HostError: the host has no apt or dpkg, or the download failed; ``hint`` says what to do then.
    """
    dpkg_deb = find_program("dpkg-deb", hint="apt-get install dpkg")
    apt_get = find_program("apt-get", hint="apt-get is part of apt")
    run([apt_get, "download", package], cwd=work, timeout_s=_DOWNLOAD_S, hint=hint, writes=work.parent)
    archives = list(work.glob("*.deb"))
    if len(archives) != 1:
        raise HostError(f"apt-get download {package} left {len(archives)} packages instead of one")
    unpacked = work / "unpacked"
    run([dpkg_deb, "-x", archives[0], unpacked], timeout_s=_UNPACK_S, writes=work.parent)
    return archives[0].stem, unpacked


def making(directory: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary directory inside ``directory``. After a kill, the next fetch removes it."""
    return tempfile.TemporaryDirectory(prefix=_MAKING, dir=directory)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed fetches have left in ``directory``. The caller must hold its lock."""
    for path in directory.glob(f"{_MAKING}*"):
        shutil.rmtree(path, ignore_errors=True)
