"""Kernel and initramfs of a guest, found or built, from the cache if possible.

A second call with the same inputs only checks a handful of files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, HostError
from ballonet.base.paths import cache_dir
from ballonet.guest.initramfs import DEFAULT_MODULES, obtain_initramfs
from ballonet.guest.kernel import find_kernel
from ballonet.guest.modules import canonical

#: Where the package's build puts the guest's programs (``hatch_build.py``).
BIN_DIR = Path(__file__).parent / "agent" / "bin"


@dataclass(frozen=True)
class GuestBundle:
    """The files that a guest boots from.

    ``vmlinux`` is QEMU's ``-kernel``, ``initramfs`` its ``-initrd``; ``vmlinuz`` is the same kernel, compressed.
    ``modules`` are the names of the modules that the agent loads, in order, without built-in ones.
    """

    release: str
    vmlinuz: Path
    vmlinux: Path
    modules_dir: Path
    initramfs: Path
    modules: tuple[str, ...]


def prepare_guest(
    *,
    cache: Path | None = None,
    without_modules: Sequence[str] = (),
    extra_modules: Sequence[str] = (),
    kernel: Path | None = None,
    agent: Path | None = None,
    busybox: Path | None = None,
    fetch: bool = True,
    report: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> GuestBundle:
    """Find or build the files that a guest boots from.

    :param cache: the cache directory; :func:`ballonet.base.paths.cache_dir` by default.
    :param without_modules: modules of :data:`DEFAULT_MODULES` to leave out, such as ``virtio_balloon``.
    :param extra_modules: modules to load after those.
    :param kernel: a ``vmlinuz`` to use instead of looking for one (see :func:`find_kernel`).
    :param agent: the agent's binary, the package's own by default.
    :param busybox: a static busybox, the one on ``PATH`` by default.
    :param fetch: whether a kernel may be downloaded if the host has none.
    :param report: called with one line before a step that takes time.
    :param env: the environment to read; the process's own by default.
    :raises ConfigError: ``without_modules`` names a module that is not among the default ones.
    :raises HostError: something is missing on the host. The hint says how to install it.
    """
    env = os.environ if env is None else env
    cache = cache_dir(env) if cache is None else cache
    without = {canonical(name) for name in without_modules}
    unknown = without.difference(DEFAULT_MODULES)
    if unknown:
        raise ConfigError(
            f"{', '.join(sorted(unknown))} cannot be left out: the modules are {', '.join(DEFAULT_MODULES)}"
        )
    agent = guest_program("agent") if agent is None else agent
    busybox = find_busybox(env) if busybox is None else busybox
    found = find_kernel(cache=cache, fetch=fetch, explicit=kernel, report=report, env=env)
    initramfs = obtain_initramfs(
        kernel=found,
        agent=agent,
        busybox=busybox,
        module_names=[*(name for name in DEFAULT_MODULES if name not in without), *extra_modules],
        cache=cache,
        report=report,
    )
    return GuestBundle(
        release=found.release,
        vmlinuz=found.vmlinuz,
        vmlinux=found.vmlinux,
        modules_dir=found.modules_dir,
        initramfs=initramfs.path,
        modules=initramfs.modules,
    )


def guest_program(name: str, directory: Path = BIN_DIR) -> Path:
    """The path of a program that was compiled when the package was built: ``agent`` or ``tsckhz``.

    :raises HostError: it does not exist, because the package is used without having been built.
    """
    path = directory / name
    if not path.is_file():
        raise HostError(
            f"the guest's program {name} was not built ({path} is missing)",
            hint="install musl-tools or gcc, then install the package (pip install, also with -e)",
        )
    return path


def find_busybox(env: Mapping[str, str], also_in: Sequence[str] = ("/usr/bin", "/bin")) -> Path:
    """The busybox on ``PATH``. Whether it is static is checked when an initramfs is built with it.

    :raises HostError: it was not found.
    """
    from ballonet.base.process import find_program

    search = (*env.get("PATH", "").split(":"), *also_in)
    return find_program("busybox", hint="apt-get install busybox-static", search=search)
