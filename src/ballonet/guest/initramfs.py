"""The guest's first file system: the agent as ``/init``, busybox with its applets, and the kernel modules it loads.

It is not compressed: decompression takes longer in the guest than reading, above all under emulation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError, ProcessError
from ballonet.guest.artifacts import Artifacts, Inputs, Product
from ballonet.guest.cpio import Archive
from ballonet.guest.elf import PT_INTERP, Elf
from ballonet.guest.kernel import Kernel
from ballonet.guest.modules import INDEX_FILES, Module, ModuleTree, read_module

#: Modules of every guest: the transports of both machine types, the balloon and the agent's channel. One list for both
#: types: a transport that is not used takes a few kilobytes and no time.
DEFAULT_MODULES = ("virtio_mmio", "virtio_pci", "virtio_balloon", "virtio_console")

#: The file that lists the modules to load for the agent: absolute paths, one per line, in load order.
MODULE_LIST = "etc/ballonet/modules"
#: The same for the drivers of devices whose content differs between sandboxes. They are loaded when a sandbox is set
#: up, so that a guest that was saved before has seen nothing of them.
DEVICE_MODULE_LIST = "etc/ballonet/device-modules"
DEVICE_MODULES = ("virtio_blk", "virtio_net")

# Increased when the same inputs must give another archive.
_LAYOUT = "3"

_DIRECTORIES = (
    *("bin", "sbin", "usr/bin", "usr/sbin", "etc/ballonet", "lib/modules"),
    *("dev", "mnt", "proc", "run", "sys", "var"),
)

_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/hostname": "ballonet\n",
    "etc/resolv.conf": "",
}

_WGET = "usr/bin/wget"
#: Replaces an applet that crashes with -T, as in Debian 12. The time limits the whole transfer, by timeout.
_WGET_SCRIPT = """\
#!/bin/sh
words=$#
while [ "$words" -gt 0 ]; do
  word=$1; shift; words=$((words - 1))
  case $word in
    -T*|-[cqS]T*|-[cqS][cqS]T*)
      flags=${word%%T*} seconds=${word#*T}
      if [ -z "$seconds" ]; then seconds=$1; shift; words=$((words - 1)); fi
      [ "$flags" = - ] || set -- "$@" "$flags" ;;
    *) set -- "$@" "$word" ;;
  esac
done
[ -n "$seconds" ] || exec /bin/busybox wget "$@"
/bin/busybox timeout "$seconds" /bin/busybox wget "$@"
status=$?
[ "$status" != 143 ] || { echo "wget: download timed out" >&2; exit 1; }
exit "$status"
"""


@dataclass(frozen=True)
class Initramfs:
    """A built archive, and the names of the modules in it, in load order, without built-in ones."""

    path: Path
    modules: tuple[str, ...]


def obtain_initramfs(
    *,
    kernel: Kernel,
    agent: Path,
    busybox: Path,
    module_names: Sequence[str],
    cache: Path,
    report: Callable[[str], None] | None = None,
) -> Initramfs:
    """The archive for these inputs, from the cache if none of them has changed.

    :param agent: the agent's binary. It and ``busybox`` must be static: the guest has no libraries.
    :param module_names: modules to load. Their dependencies are added.
    :param report: called with one line before a step that takes time.
    :raises HostError: an input is missing, unreadable or unusable, the kernel lacks a module, or the cache cannot be
        written.
    """

    def make() -> Product:
        if report is not None:
            report(f"building the initramfs for kernel {kernel.release}")
        inputs = Inputs()
        programs = {path: _static_program(inputs.read(path), path) for path in (agent, busybox)}
        for name in INDEX_FILES:
            inputs.watch(kernel.modules_dir / name)
        tree = ModuleTree(kernel.modules_dir, kernel.release)
        modules = tree.resolve(module_names)
        early = tree.resolve([name for name in module_names if name not in DEVICE_MODULES])
        contents = [(module, read_module(inputs.watch(module.path))) for module in modules]
        archive = render(
            release=kernel.release,
            agent=programs[agent],
            busybox=programs[busybox],
            applets=busybox_applets(busybox),
            scripts={_WGET: _WGET_SCRIPT} if _wget_crashes(busybox) else {},
            modules=contents,
            late=frozenset(module.name for module in modules) - {module.name for module in early},
        )
        # The archive depends on its inputs only, so that its digest identifies them.
        import hashlib

        name = f"initramfs-{hashlib.sha256(archive).hexdigest()[:32]}.cpio"
        facts = {"modules": [module.name for module in modules]}
        return Product(name, len(archive), lambda: archive, inputs, facts)

    request = {
        "what": "initramfs " + _LAYOUT,
        "release": kernel.release,
        "modules_dir": str(kernel.modules_dir),
        "agent": str(agent),
        "busybox": str(busybox),
        "modules": list(module_names),
    }
    made = Artifacts(cache).obtain(request, make)
    return Initramfs(made.path, tuple(made.facts["modules"]))


def build_initramfs(
    *, kernel: Kernel, agent: Path, busybox: Path, module_names: Sequence[str], cache: Path
) -> Path:
    """The path of the archive of :func:`obtain_initramfs`."""
    return obtain_initramfs(
        kernel=kernel, agent=agent, busybox=busybox, module_names=module_names, cache=cache
    ).path


def render(
    *,
    release: str,
    agent: bytes,
    busybox: bytes,
    applets: Sequence[str],
    modules: Sequence[tuple[Module, bytes]],
    scripts: Mapping[str, str] | None = None,
    late: Collection[str] = (),
) -> bytes:
    """The content of the archive, which depends on the arguments only.

    :param applets: the paths of busybox's programs, such as ``usr/bin/wc``.
    :param modules: the modules with their uncompressed contents, in load order.
    :param scripts: programs that replace applets.
    :param late: the names of the modules that are loaded when a sandbox is set up.
    """
    scripts = scripts or {}
    archive = Archive()
    archive.root(0o755)  # the kernel creates it with mode 1777, writable for everyone
    for directory in _DIRECTORIES:
        archive.directories(directory)
    archive.directory("root", 0o700)
    archive.directory("tmp", 0o1777)
    archive.directory("var/tmp", 0o1777)
    # The kernel opens it for PID 1 before anything can be mounted (Documentation/admin-guide/devices.txt: 5, 1).
    archive.character_device("dev/console", 5, 1)
    archive.file("init", agent, 0o755)
    archive.file("bin/busybox", busybox, 0o755)
    for applet in applets:
        archive.directories(applet.rpartition("/")[0])
        if applet not in scripts:
            archive.symlink(applet, "/bin/busybox")
    for name, text in scripts.items():
        archive.file(name, text.encode(), 0o755)
    for name, text in _TEXTS.items():
        archive.file(name, text.encode())
    paths: dict[str, list[str]] = {MODULE_LIST: [], DEVICE_MODULE_LIST: []}
    for module, content in modules:
        path = f"lib/modules/{release}/{module.relative}"
        archive.directories(path.rpartition("/")[0])
        archive.file(path, content)
        paths[DEVICE_MODULE_LIST if module.name in late else MODULE_LIST].append(f"/{path}\n")
    for name, lines in paths.items():
        if lines or name == MODULE_LIST:
            archive.file(name, "".join(lines).encode())
    return archive.to_bytes()


def busybox_applets(busybox: Path) -> list[str]:
    """The paths of the programs of a busybox: relative paths such as ``usr/bin/wc``.

    :raises ProcessError: it cannot be run.
    :raises HostError: it lists no programs.
    """
    from ballonet.base.process import run

    listed = run([busybox, "--list-full"], timeout_s=30).split()
    # linuxrc is an init for an old-style initrd; busybox itself is in the archive as a file.
    applets = sorted({name for name in listed if "/" in name} - {"bin/busybox"})
    if not applets:
        raise HostError(f"{busybox} --list-full lists no programs", hint="apt-get install busybox-static")
    return applets


def _wget_crashes(busybox: Path) -> bool:
    """Whether the wget of this busybox crashes with ``-T``."""
    from ballonet.base.process import spawn

    with contextlib.suppress(ProcessError):  # listing its applets gives a better error
        # Without a URL it only parses its options.
        return spawn([busybox, "wget", "-T", "1"]).wait() < 0
    return False


def _static_program(content: bytes, path: Path) -> bytes:
    if next(Elf(content, str(path)).segments(PT_INTERP), None) is not None:
        raise HostError(
            f"{path} is dynamically linked, but the guest has no libraries",
            hint="apt-get install busybox-static" if path.name == "busybox" else None,
        )
    return content
