"""Finding the guest's kernel, and its uncompressed form, which QEMU boots at the PVH entry.

Defines the search order. Never installs anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError, os_hint
from ballonet.guest import bzimage
from ballonet.guest.artifacts import Artifacts, Inputs, Product
from ballonet.guest.debian import fetch_image, fetched_images

Report = Callable[[str], None]


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel.

    ``vmlinuz`` is the compressed image, ``vmlinux`` the same uncompressed (an ELF file in the cache), and
    ``modules_dir`` contains its modules (``…/lib/modules/RELEASE``).
    """

    release: str
    vmlinuz: Path
    vmlinux: Path
    modules_dir: Path


def find_kernel(
    *,
    cache: Path,
    fetch: bool = True,
    explicit: Path | None = None,
    report: Report | None = None,
    env: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Kernel:
    """Find the kernel for guests: the first of

    1. ``explicit``, a ``vmlinuz``;
    2. the ``vmlinuz`` in ``$BALLONET_KERNEL``;
    3. the newest installed cloud kernel (``/boot/vmlinuz-*-cloud-amd64``) that is readable and has its modules;
    4. the newest kernel that was downloaded before;
    5. with ``fetch``, a kernel that is downloaded now (see :mod:`ballonet.guest.debian`).

    The modules of 1 and 2 are searched by release in ``../lib/modules``, relative to the directory of the image, and
    then in ``/lib/modules``.

    :param cache: see :func:`ballonet.base.paths.cache_dir`.
    :param report: called with one line before a step that takes time.
    :param env: the environment to read; the process's own by default.
    :param root: the host's root directory; another one for tests.
    :raises HostError: none was found or could be downloaded, or the chosen one is unusable.
    """
    env = os.environ if env is None else env
    report = report or _say_nothing
    chosen = explicit or (Path(env["BALLONET_KERNEL"]) if env.get("BALLONET_KERNEL") else None)
    if chosen is not None:
        release, modules_dir = _named(chosen.absolute(), root)
        vmlinuz = chosen.absolute()
    else:
        found = _newest(_installed(root)) or _newest(_fetched(fetched_images(cache)))
        if found is None and fetch:
            found = _newest(_fetched([fetch_image(cache, report)]))
        if found is None:
            raise HostError(
                "no kernel for guests: no cloud kernel is installed, and none was downloaded before",
                hint="apt-get install linux-image-cloud-amd64, or set BALLONET_KERNEL to a vmlinuz",
            )
        release, vmlinuz, modules_dir = found
    return Kernel(release, vmlinuz, unpacked_kernel(vmlinuz, cache, report), modules_dir)


def unpacked_kernel(vmlinuz: Path, cache: Path, report: Report | None = None) -> Path:
    """The uncompressed kernel of ``vmlinuz``: built by the first call, and taken from the cache by others.

    :raises HostError: ``vmlinuz`` cannot be read or is not a bootable kernel, or the cache cannot be written.
    """

    def make() -> Product:
        if report is not None:
            report(f"unpacking the kernel {vmlinuz.name}")
        inputs = Inputs()
        image = inputs.read(vmlinuz)
        what = str(vmlinuz)
        import hashlib

        name = f"vmlinux-{hashlib.sha256(image).hexdigest()[:32]}"
        return Product(name, bzimage.unpacked_size(image, what), lambda: bzimage.unpack(image, what), inputs)

    return Artifacts(cache).obtain({"what": "vmlinux", "vmlinuz": str(vmlinuz)}, make).path


def version_key(release: str) -> tuple[tuple[int, ...], str]:
    """A sort key for kernel releases: numbers are compared as numbers (``6.12.9`` after ``6.1.140``), then as text."""
    return tuple(int(number) for number in re.findall(r"\d+", release)), release


_Found = tuple[str, Path, Path]


def _newest(kernels: Iterable[_Found]) -> _Found | None:
    return max(kernels, key=lambda found: version_key(found[0]), default=None)


def _installed(root: Path) -> Iterable[_Found]:
    for image in (root / "boot").glob("vmlinuz-*-cloud-amd64"):
        release = image.name.removeprefix("vmlinuz-")
        modules_dir = root / "lib/modules" / release
        # Some distributions let only root read kernels, and a removed package can leave the image or the modules.
        if os.access(image, os.R_OK) and _has_modules(modules_dir):
            yield release, image, modules_dir


def _fetched(images: Iterable[Path]) -> Iterable[_Found]:
    for image in images:
        release = image.name.removeprefix("vmlinuz-")
        yield release, image, image.parents[1] / "lib/modules" / release


def _named(vmlinuz: Path, root: Path) -> tuple[str, Path]:
    try:
        with vmlinuz.open("rb") as file:
            start = file.read(bzimage.SETUP_BYTES)
    except OSError as error:
        raise HostError(
            f"kernel {vmlinuz} cannot be read: {error.strerror}", hint=os_hint(error, vmlinuz)
        ) from error
    release = bzimage.read_setup(start, str(vmlinuz)).release
    places = [base / "lib/modules" / release for base in (vmlinuz.parents[1], root)]
    for modules_dir in places:
        if _has_modules(modules_dir):
            return release, modules_dir
    raise HostError(
        f"the modules of kernel {release} ({vmlinuz}) were not found in {places[0]} or {places[1]}",
        hint="install the kernel's package, or unpack all of it",
    )


def _has_modules(directory: Path) -> bool:
    return (directory / "modules.builtin").is_file()


def _say_nothing(message: str) -> None:
    pass
