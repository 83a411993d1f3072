"""Ways to provide a read-only root to guests: host memory of ten sandboxes, and a cold start of Python.

Each arm boots the sandboxes one after another with the same file as their device, mounts it in the guest, and runs
``python3 -c 'import json'`` in it twice. Host memory is the PSS of the engines, without file mappings, plus the part of
the file in the host's page cache, which exists once for all.
"""

from __future__ import annotations

import asyncio
import json
import math
import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.memory import MIB
from ballonet.base.process import run
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.bundle import prepare_guest
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import Machine, VmSpec
from ballonet.vmm.engine import Engine
from ballonet.vmm.qemu import vm as vm_module
from ballonet.vmm.qemu.command_line import EngineFds, render_command
from bench.common import options_parser, report, timed

MEMORY_MIB = 256
PYTHON = ["chroot", "/root", "/usr/bin/python3", "-c", "import json"]


@dataclass(frozen=True)
class Arm:
    name: str
    machine: Machine
    #: ``erofs``, ``erofs-lz4`` or ``squashfs``.
    format: str
    #: Whether the block device bypasses the host's page cache.
    direct: bool = False
    aio: str = "threads"
    #: Instead of a block device, map the file as memory.
    dax: bool = False


ARMS = (
    Arm("blk, host cache, erofs", Machine.MICROVM, "erofs"),
    Arm("blk, host cache, erofs lz4hc", Machine.MICROVM, "erofs-lz4"),
    Arm("blk, host cache, squashfs zstd", Machine.MICROVM, "squashfs"),
    Arm("blk, host cache, io_uring, erofs", Machine.MICROVM, "erofs", aio="io_uring"),
    Arm("blk, direct, erofs", Machine.MICROVM, "erofs", direct=True),
    Arm("blk, direct, native, erofs", Machine.MICROVM, "erofs", direct=True, aio="native"),
    Arm("blk, direct, erofs lz4hc", Machine.MICROVM, "erofs-lz4", direct=True),
    Arm("blk on q35, host cache, erofs", Machine.Q35, "erofs"),
    Arm("pmem on q35, DAX, erofs", Machine.Q35, "erofs", dax=True),
)


def device_options(arm: Arm, file: Path) -> list[str]:
    if arm.dax:
        memory = (
            f"memory-backend-file,id=pmem0,share=on,readonly=on,mem-path={file},size={file.stat().st_size}"
        )
        return ["-object", memory, "-device", "virtio-pmem-pci,memdev=pmem0,id=vpmem0"]
    backend = {
        "driver": "file",
        "filename": str(file),
        "aio": arm.aio,
        "cache": {"direct": arm.direct, "no-flush": False},
        "read-only": True,
    }
    block = {"driver": "raw", "node-name": "root", "read-only": True, "file": backend}
    block["cache"] = backend["cache"]
    bus = "device" if arm.machine is Machine.MICROVM else "pci"
    return ["-blockdev", json.dumps(block), "-device", f"virtio-blk-{bus},drive=root"]


def cached_bytes(file: Path) -> int:
    """How much of ``file`` is in the host's page cache (mincore(2))."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    size = file.stat().st_size
    pages = math.ceil(size / mmap.PAGESIZE)
    present = (ctypes.c_ubyte * pages)()
    fd = os.open(file, os.O_RDONLY)
    try:
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), present) == 0
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    finally:
        os.close(fd)
    return sum(byte & 1 for byte in present) * mmap.PAGESIZE


def drop_from_cache(file: Path) -> None:
    """Drop ``file`` from the host's page cache."""
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def held_bytes(pid: int) -> int:
    """PSS without file mappings (guest RAM is shared memory, not a file)."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss_Anon", "Pss_Shmem"):
            total += int(value.split()[0]) * 1024
    return total


def convert(tree: Path, format: str, directory: Path) -> Path:
    """Create a file system image of ``tree``."""
    file = directory / format
    if not file.exists():
        if format == "squashfs":
            run(["mksquashfs", tree, file, "-quiet", "-no-progress", "-comp", "zstd"], timeout_s=600)
        else:
            run(["mkfs.erofs", "--quiet", *["-zlz4hc"] * (format == "erofs-lz4"), file, tree], timeout_s=600)
    return file


#: Loads the drivers that otherwise the setup of a sandbox loads.
DRIVERS = (
    "list=/etc/ballonet/device-modules; [ ! -e $list ] || while read module; do insmod $module; done < $list"
)


async def measure(arm: Arm, file: Path, count: int) -> dict[str, list[float]]:
    if arm.dax:  # memory needs blocks of 2 MiB; the file system works on a larger device, too
        os.truncate(file, math.ceil(file.stat().st_size / (2 * MIB)) * 2 * MIB)
    drop_from_cache(file)
    vms = []
    agents = []  # kept: a guest whose agent loses its host powers off
    cold: list[float] = []
    warm: list[float] = []
    kind = "squashfs" if arm.format == "squashfs" else "erofs"
    modules = ["virtio_pmem", "nd_pmem"] if arm.dax else ["virtio_blk"]
    guest = prepare_guest(extra_modules=[*modules, kind])
    source, options = ("/dev/pmem0", "ro,dax=always") if arm.dax else ("/dev/vda", "ro")

    def render(spec: VmSpec, engine: Engine, fds: EngineFds, *, restore: bool = False) -> list[str]:
        argv = [*render_command(spec, engine, fds, restore=restore), *device_options(arm, file)]
        if arm.dax:
            argv[argv.index("-m") + 1] = f"{MEMORY_MIB}M,maxmem=1G"
            # Because of memory that may be added above 4 GiB the kernel would reserve 64 MiB for bounce buffers.
            argv[argv.index("-append") + 1] += " swiotlb=noforce"
        return argv

    vm_module.render_command = render  # type: ignore[attr-defined]
    try:
        for number in range(count):
            config = SandboxConfig(
                name=f"cache-{number}", memory_mib=MEMORY_MIB, balloon_min_mib=128, machine=arm.machine
            )
            vm = build_vm(config, guest=guest)
            vms.append(vm)
            await vm.start()
            agent = AgentClient(vm.take_agent_channel())
            agents.append(agent)
            await agent.wait_ready(120)
            await _run(agent, ["sh", "-c", f"{DRIVERS}; mount -t {kind} -o {options} {source} /root"])
            for times in (cold, warm):
                with timed(times):
                    await _run(agent, PYTHON)
        await asyncio.sleep(4)  # until the guest has reported freed pages
        engines = sum(held_bytes(vm.pid) for vm in vms)
    finally:
        vm_module.render_command = render_command  # type: ignore[attr-defined]
        for vm in vms:
            await vm.kill()
    cache = cached_bytes(file)
    return {
        "total": [(engines + cache) / MIB],
        "engines": [engines / MIB],
        "cache": [cache / MIB],
        "first": cold[:1],
        "cold": cold[1:] or cold,
        "warm": warm,
    }


async def _run(agent: AgentClient, argv: list[str]) -> None:
    async with await agent.exec(argv) as process:
        _, err = await process.communicate(b"")
        status = await process.wait()
    assert status.returncode == 0, (argv, err)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--count", type=int, default=10, help="number of sandboxes (default: 10)")
    parser.add_argument("--only", default="", help="run only arms whose names contain this text")
    parser.add_argument(
        "tree", type=Path, help="a directory with a root that has python3, for example from mmdebstrap"
    )
    options = parser.parse_args()
    arms = [arm for arm in ARMS if options.only in arm.name]
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for arm in arms:
            file = convert(options.tree, arm.format, Path(directory))
            results[arm.name] = asyncio.run(measure(arm, file, options.count))
            print(
                arm.name,
                {key: [round(value, 2) for value in values] for key, values in results[arm.name].items()},
                flush=True,
            )
    base = next(iter(results))
    tables = (
        ("total", "MiB", "engines and page cache of the file"),
        ("engines", "MiB", "engines alone"),
        ("cache", "MiB", "page cache of the file"),
        ("first", "s", "first sandbox, nothing cached"),
        ("cold", "s", "other sandboxes, not cached in the guest"),
        ("warm", "s", "second run in a sandbox"),
    )
    for key, unit, note in tables:
        values = {name: result[key] for name, result in results.items()}
        text = f"{options.count} sandboxes of {MEMORY_MIB} MiB, python3 -c 'import json': {note}"
        if values[base][0] > 0:
            report(f"root-cache-{key}", values, unit=unit, base=base, note=text)


if __name__ == "__main__":
    main()
