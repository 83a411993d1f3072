"""Linux kernel images for x86 (bzImage, ``vmlinuz``) and the uncompressed kernel in them, without I/O.

The format is described in the kernel's ``Documentation/arch/x86/boot.rst`` ("The Linux/x86 Boot Protocol"):
a real-mode part of ``setup_sects`` + 1 sectors, which contains the setup header, and then the protected-mode part, in
which ``payload_offset`` and ``payload_length`` give the place of the compressed kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError
from ballonet.base.missing_modules import missing_module
from ballonet.guest.elf import MAGIC as ELF_MAGIC
from ballonet.guest.elf import Elf

#: The maximum length of the real-mode part (``setup_sects`` is one byte), in bytes.
SETUP_BYTES = (255 + 1) * 512

#: The maximum size of a kernel: far more than any has, and harmless for the host. In bytes.
MAX_KERNEL_BYTES = 1 << 30

# Offsets in the setup header (boot.rst, "The Real-Mode Kernel Header").
_SETUP_SECTS = 0x1F1
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION = 0x206
_KERNEL_VERSION = 0x20E
_PAYLOAD = 0x248
_HEADER_END = 0x250
_PAYLOAD_SINCE = 0x0208  # payload_offset and payload_length exist from protocol 2.08 (Linux 2.6.26)

# LZ4's legacy frame (lz4_Frame_format.md, "Legacy frame"): a magic number, then blocks of at most 8 MiB of content,
# each preceded by its compressed size.
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK_BYTES = 8 << 20

#: Xen's ELF note with the 32-bit physical entry point for PVH (xen/include/public/elfnote.h).
_XEN_PHYS32_ENTRY = 18


@dataclass(frozen=True)
class Setup:
    """The setup header: the kernel's release, and the place of its compressed payload in the file."""

    release: str
    payload_offset: int
    payload_length: int


def read_setup(start: bytes, what: str) -> Setup:
    """Read the setup header.

    :param start: the image, or at least its first :data:`SETUP_BYTES` bytes.
    :param what: the file's name, for messages.
    :raises HostError: it is not a kernel image, truncated, or so old that it has no place of the payload.
    """
    if len(start) < _HEADER_END or start[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        found = (
            "an uncompressed kernel (ELF)"
            if start.startswith(ELF_MAGIC)
            else "not a Linux kernel image for x86"
        )
        raise HostError(f"{what} is {found}", hint="use a compressed kernel, such as /boot/vmlinuz-*")
    (version,) = struct.unpack_from("<H", start, _VERSION)
    if version < _PAYLOAD_SINCE:
        raise HostError(
            f"{what} uses boot protocol {version >> 8}.{version & 255:02}, but at least 2.08 is required"
        )
    # "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
    setup_bytes = ((start[_SETUP_SECTS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", start, _PAYLOAD)
    return Setup(_release(start[:setup_bytes], what), setup_bytes + offset, length)


def unpacked_size(image: bytes, what: str) -> int:
    """The size of the result of :func:`unpack`, in bytes.

    The kernel's build appends it to every payload: 32 bits, little-endian. gzip's trailer has it at the same place
    (``scripts/Makefile.lib``, ``size_append``; RFC 1952, ISIZE).
    """
    payload = _payload(image, what)
    size = int.from_bytes(payload[-4:], "little")
    if not len(ELF_MAGIC) < size <= MAX_KERNEL_BYTES:
        raise HostError(f"{what} is damaged: the size of its kernel is given as {size} bytes")
    return size


def unpack(image: bytes, what: str) -> bytes:
    """The uncompressed kernel in ``image``: an ELF file that QEMU can boot at its PVH entry.

    :param what: the file's name, for messages.
    :raises HostError: it is not a kernel image, truncated or damaged, compressed with anything but gzip, xz, LZ4 or
        zstd, or a kernel without PVH entry.
    """
    payload = _payload(image, what)
    size = unpacked_size(image, what)
    known = next((entry for entry in _COMPRESSIONS if payload.startswith(entry[0])), None)
    if known is None:
        raise HostError(
            f"the kernel in {what} is compressed in an unknown format (it begins with {payload[:4].hex()})",
            hint="gzip, xz, LZ4 and zstd are supported",
        )
    _, name, decompress = known
    try:
        kernel = decompress(payload, size)
    except ImportError as error:
        raise missing_module(error, f"the {name} compressed kernel in {what} cannot be unpacked") from error
    except MemoryError as error:
        raise HostError(
            f"the kernel in {what} cannot be unpacked: not enough memory",
            hint=f"free memory on the host: this needs {2 * size >> 20} MiB for a moment",
        ) from error
    except Exception as error:  # each library has its own error class, and is imported only when it is used
        raise HostError(f"the {name} compressed kernel in {what} is damaged: {error}") from error
    if len(kernel) != size:
        raise HostError(
            f"the kernel in {what} is damaged: it unpacks to {len(kernel)} bytes instead of {size}"
        )
    if not has_pvh_entry(Elf(kernel, f"the kernel in {what}")):
        raise HostError(f"the kernel in {what} has no PVH entry", hint="use a kernel built with CONFIG_PVH")
    return kernel


def has_pvh_entry(kernel: Elf) -> bool:
    """Whether the kernel has an entry point for a PVH loader such as QEMU's."""
    return any(note.owner == b"Xen" and note.kind == _XEN_PHYS32_ENTRY for note in kernel.notes())


def _release(setup: bytes, what: str) -> str:
    # kernel_version + 0x200 is the offset of text such as "6.12.9-cloud-amd64 (builder@host) #1 SMP ...".
    (pointer,) = struct.unpack_from("<H", setup, _KERNEL_VERSION)
    text = setup[pointer + 0x200 :].split(b"\0", 1)[0] if pointer else b""
    words = text.decode("ascii", "replace").split()
    if not words or "/" in words[0] or not words[0].isprintable():
        raise HostError(f"{what} does not contain its kernel release")
    return words[0]


def _payload(image: bytes, what: str) -> bytes:
    setup = read_setup(image, what)
    end = setup.payload_offset + setup.payload_length
    if setup.payload_length <= 8 or end > len(image):
        raise HostError(f"{what} is truncated: it has {len(image)} bytes, but its kernel ends at {end}")
    return image[setup.payload_offset : end]


def _gunzip(payload: bytes, size: int) -> bytes:
    import zlib

    return zlib.decompressobj(wbits=31).decompress(payload, size + 1)


def _unxz(payload: bytes, size: int) -> bytes:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload, size + 1)


def _unzstd(payload: bytes, size: int) -> bytes:
    import io

    import zstandard

    # Streamed, because the frame does not contain its size and a damaged one must not exceed the limit.
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(payload[:-4])) as reader:
        return reader.read(size + 1)


def _unlz4(payload: bytes, size: int) -> bytes:
    import lz4.block

    parts: list[bytes] = []
    at, end, unpacked = len(_LZ4_LEGACY), len(payload) - 4, 0
    while at < end and unpacked <= size:
        (block_size,) = struct.unpack_from("<I", payload, at)
        at += 4
        if payload[at - 4 : at] == _LZ4_LEGACY:  # another frame follows
            continue
        if at + block_size > end:
            raise ValueError(f"a block of {block_size} bytes at {at} exceeds the end at {end}")
        parts.append(lz4.block.decompress(payload[at : at + block_size], uncompressed_size=_LZ4_BLOCK_BYTES))
        unpacked += len(parts[-1])
        at += block_size
    return b"".join(parts)


_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[bytes, int], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"\xfd7zXZ\0", "xz", _unxz),
    (_LZ4_LEGACY, "LZ4", _unlz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _unzstd),
)
