"""Kernel images, ELF files and modules for tests: small, but laid out as the real ones are."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import lz4.block
import zstandard

RELEASE = "6.9.1-test-cloud-amd64"


def elf(
    segments: list[tuple[int, bytes]], sections: Mapping[str, bytes] | None = None, machine: int = 62
) -> bytes:
    """An ELF file with program segments (type, content) and sections (name, content)."""
    sections = {} if sections is None else sections
    names = b"\0" + b"".join(name.encode() + b"\0" for name in sections) + b".shstrtab\0"
    body, bodies_at = b"", 64 + 56 * len(segments)
    program_headers = b""
    for kind, content in segments:
        where = bodies_at + len(body)
        program_headers += struct.pack("<IIQQQQQQ", kind, 4, where, 0, 0, len(content), len(content), 4)
        body += content + bytes(-len(content) % 8)
    section_headers = bytes(64)
    for name, content in [*sections.items(), (".shstrtab", names)]:
        name_at = names.index(b"\0" + name.encode() + b"\0") + 1
        where = bodies_at + len(body)
        section_headers += struct.pack("<IIQQQQIIQQ", name_at, 1, 0, 0, where, len(content), 0, 0, 1, 0)
        body += content + bytes(-len(content) % 8)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    counts = (64, 56, len(segments), 64, len(sections) + 2, len(sections) + 1)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, machine, 1, 0, 64, bodies_at + len(body), 0, *counts
    )
    return header + program_headers + body + section_headers


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    """One entry of a note segment."""
    owner += b"\0"
    head = struct.pack("<III", len(owner), len(content), kind)
    return head + owner + bytes(-len(owner) % 4) + content + bytes(-len(content) % 4)


def vmlinux(*, pvh: bool = True, padding: int = 20_000_000) -> bytes:
    """An uncompressed kernel, large enough for several LZ4 blocks."""
    notes = note(b"GNU", 3, b"build-id" * 2 + b"!") + (
        note(b"Xen", 18, struct.pack("<Q", 0x1000)) if pvh else b""
    )
    return elf([(1, b"code " * (padding // 5)), (4, notes)])


def lz4_legacy(content: bytes) -> bytes:
    """``content`` as ``lz4 -l`` frames it."""
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(content), 8 << 20):
        block = lz4.block.compress(content[at : at + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def _gzip(content: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(content) + packer.flush()


def _xz(content: bytes) -> bytes:
    # As scripts/xz_wrap.sh does for x86 kernels.
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 0}]
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def _zstd(content: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    return packer.compress(content) + packer.flush()


#: How each compression is done for a bzImage: the build appends the size, except to gzip, which has it.
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gzip,
    "xz": lambda content: _xz(content) + struct.pack("<I", len(content)),
    "lz4": lambda content: lz4_legacy(content) + struct.pack("<I", len(content)),
    "zstd": lambda content: _zstd(content) + struct.pack("<I", len(content)),
}


def bzimage(payload: bytes, release: str = RELEASE, protocol: int = 0x020F, setup_sects: int = 7) -> bytes:
    """A kernel image around a compressed payload. ``setup_sects`` 0 stands for 4, as in the protocol."""
    setup = bytearray(((setup_sects or 4) + 1) * 512)
    setup[0x1F1] = setup_sects
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<HHIH", setup, 0x206, protocol, 0, 0, 0x300)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    text = f"{release} (builder@host) #1 SMP\0".encode()
    setup[0x500 : 0x500 + len(text)] = text
    return bytes(setup) + bytes(64) + payload + bytes(512)


def module(depends: str = "", text: str = "") -> bytes:
    """A kernel module that says in its ``.modinfo`` what it depends on."""
    information = f"license=GPL\0depends={depends}\0text={text}\0".encode()
    return elf([], {".text": b"code", ".modinfo": information})


def install_kernel(
    root: Path,
    release: str = RELEASE,
    *,
    modules: Mapping[str, bytes] | None = None,
    builtin: tuple[str, ...] = ("virtio_console",),
    kernel: bytes | None = None,
) -> Path:
    """A kernel as a package puts it under ``root`` (boot/, lib/modules/), without ``modules.dep``; its vmlinuz."""
    image = root / "boot" / f"vmlinuz-{release}"
    image.parent.mkdir(parents=True, exist_ok=True)
    small = vmlinux(padding=10_000) if kernel is None else kernel
    image.write_bytes(bzimage(COMPRESSIONS["gzip"](small), release))
    tree = root / "lib/modules" / release
    drivers = tree / "kernel/drivers/virtio"
    drivers.mkdir(parents=True)
    (tree / "modules.builtin").write_text("".join(f"kernel/drivers/{name}.ko\n" for name in builtin))
    if modules is None:
        modules = {
            "virtio.ko": module("virtio_ring"),
            "virtio_ring.ko": module(),
            "virtio_mmio.ko": module("virtio,virtio_ring"),
            "virtio_pci.ko": module("virtio_ring,virtio"),
            "virtio_balloon.ko": module("virtio,virtio_ring"),
        }
    for name, content in modules.items():
        (drivers / name).write_bytes(content)
    return image
