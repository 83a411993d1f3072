"""Writes a root as an erofs file system: read-only, uncompressed, each file's content in separate whole blocks.

The format is that of the Linux kernel (``fs/erofs/erofs_fs.h``, ``Documentation/filesystems/erofs.rst``), limited to
what every kernel since 5.4 can read: 4 KiB blocks, extended inodes, plain and inline data. Nothing is compressed, which
saves guest CPU time, and regular files are never inline, so that their pages can be mapped (DAX).

The output depends only on the tree and the uuid. :func:`lay_out` is pure. ``docs/dependencies.md`` says why this is not
done with ``mkfs.erofs``.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ballonet.base.errors import ImageError
from ballonet.images.limits import MAX_XATTR_BYTES
from ballonet.images.tree import Node, show, walk

BLOCK_BYTES = 4096

_MAGIC = 0xE0F5E1E2
_SUPERBLOCK_AT, _SUPERBLOCK_BYTES = 1024, 128
_SLOT_BYTES = 32  # inode numbers are positions in the image, in this unit
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_PLAIN, _INLINE = 0, 2  # data layouts
_EXTENDED = 1
#: Prefixes of attribute names are stored as numbers (``EROFS_XATTR_INDEX_*``).
_XATTR_PREFIXES = {
    "user.": 1,
    "system.posix_acl_access": 2,
    "system.posix_acl_default": 3,
    "trusted.": 4,
    "security.": 6,
}
_XATTR_HEADER_BYTES = 12
#: ``d_type`` by ``st_mode``.
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True)
class Extent:
    """The position of a regular file's content in the image."""

    node: Node
    offset: int


@dataclass(frozen=True)
class Layout:
    """An image without the content of files."""

    #: The start of the image: superblock, inodes, directories, symbolic links.
    metadata: bytes
    #: The non-empty regular files.
    extents: tuple[Extent, ...]
    #: Size of the whole image (bytes).
    size: int


@dataclass(slots=True)
class _Inode:
    node: Node
    xattrs: bytes
    #: Link count.
    links: int
    #: Size of the content of a directory or symbolic link.
    body_bytes: int = 0
    inline: bool = False
    offset: int = 0
    block: int = 0


def lay_out(root: Node, uuid: bytes) -> Layout:
    """Assign a position to everything in the tree at ``root``, and render everything but the content of files.

    :param uuid: 16 bytes that identify the image.
    :raises ImageError: an extended attribute is too large.
    """
    inodes = {id(node): _Inode(node, _render_xattrs(node), 0) for node in walk(root)}
    for inode in inodes.values():
        inode.links += 2 * inode.node.is_directory
        for child in inode.node.children.values():
            if child.is_directory:
                inode.links += 1  # its ".."
            else:
                inodes[id(child)].links += 1
    cursor = _SUPERBLOCK_AT + _SUPERBLOCK_BYTES
    for inode in inodes.values():
        cursor = _place(inode, cursor)
    blocks = -(-cursor // BLOCK_BYTES)
    for inode in inodes.values():
        if inode.body_bytes and not inode.inline:
            inode.block, blocks = blocks, blocks - (-inode.body_bytes // BLOCK_BYTES)
    metadata = bytearray(blocks * BLOCK_BYTES)
    extents = []
    for inode in inodes.values():
        node = inode.node
        if stat.S_ISREG(node.mode) and node.size:
            extents.append(Extent(node, blocks * BLOCK_BYTES))
            inode.block, blocks = blocks, blocks - (-node.size // BLOCK_BYTES)
    for number, inode in enumerate(inodes.values(), 1):
        _write_inode(metadata, inode, number)
    _write_directories(metadata, inodes, root)
    metadata[_SUPERBLOCK_AT : _SUPERBLOCK_AT + _SUPERBLOCK_BYTES] = _superblock(
        inodes[id(root)].offset // _SLOT_BYTES, len(inodes), blocks, uuid
    )
    return Layout(bytes(metadata), tuple(extents), blocks * BLOCK_BYTES)


def _place(inode: _Inode, cursor: int) -> int:
    """Assign a position at or after ``cursor`` to an inode; returns its end."""
    head = _INODE.size + len(inode.xattrs)
    if inode.node.is_directory:
        inode.body_bytes = _directory_bytes(inode.node.children)
    elif stat.S_ISLNK(inode.node.mode):
        inode.body_bytes = len(inode.node.target)
    inode.inline = 0 < inode.body_bytes <= BLOCK_BYTES - head
    whole = head + (inode.body_bytes if inode.inline else 0)
    start = -(-cursor // _SLOT_BYTES) * _SLOT_BYTES
    # Inline data must not cross a block boundary. Inodes may, but those that do not are read in one step.
    if whole <= BLOCK_BYTES < start % BLOCK_BYTES + whole:
        start = -(-start // BLOCK_BYTES) * BLOCK_BYTES
    inode.offset = start
    return start + whole


def _write_inode(metadata: bytearray, inode: _Inode, number: int) -> None:
    node = inode.node
    where = inode.block
    if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        where = _device_number(*node.device)
    size = node.size if stat.S_ISREG(node.mode) else inode.body_bytes
    xattr_count = 1 + (len(inode.xattrs) - _XATTR_HEADER_BYTES) // 4 if inode.xattrs else 0
    layout = _INLINE if inode.inline else _PLAIN
    _INODE.pack_into(
        metadata,
        inode.offset,
        _EXTENDED | layout << 1,
        xattr_count,
        node.mode,
        0,
        size,
        where,
        number & 0xFFFFFFFF,
        node.uid,
        node.gid,
        node.mtime,
        0,
        inode.links,
    )
    after = inode.offset + _INODE.size
    metadata[after : after + len(inode.xattrs)] = inode.xattrs
    if stat.S_ISLNK(node.mode):
        _write_body(metadata, inode, node.target)


def _write_directories(metadata: bytearray, inodes: dict[int, _Inode], root: Node) -> None:
    parents = {id(root): root}
    for inode in inodes.values():
        if not inode.node.is_directory:
            continue
        entries = {b".": inode.node, b"..": parents[id(inode.node)], **inode.node.children}
        for child in inode.node.children.values():
            parents[id(child)] = inode.node
        body = bytearray()
        for names in _blocks_of(entries):
            body += bytes(-len(body) % BLOCK_BYTES)
            name_at = len(names) * _DIRENT.size
            for name in names:
                node = entries[name]
                number = inodes[id(node)].offset // _SLOT_BYTES
                body += _DIRENT.pack(number, name_at, _FILE_TYPES[stat.S_IFMT(node.mode)])
                name_at += len(name)
            body += b"".join(names)
        _write_body(metadata, inode, body)


def _write_body(metadata: bytearray, inode: _Inode, body: bytes | bytearray) -> None:
    inline_at = inode.offset + _INODE.size + len(inode.xattrs)
    at = inline_at if inode.inline else inode.block * BLOCK_BYTES
    metadata[at : at + len(body)] = body


def _blocks_of(names: Iterable[bytes]) -> list[list[bytes]]:
    """The names of a directory in order, with as many per block as fit."""
    blocks: list[list[bytes]] = [[]]
    used = 0
    for name in sorted(names):
        if used + _DIRENT.size + len(name) > BLOCK_BYTES:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += _DIRENT.size + len(name)
    return blocks


def _directory_bytes(names: Iterable[bytes]) -> int:
    blocks = _blocks_of((b".", b"..", *names))
    return (len(blocks) - 1) * BLOCK_BYTES + sum(_DIRENT.size + len(name) for name in blocks[-1])


def _render_xattrs(node: Node) -> bytes:
    if not node.xattrs:
        return b""
    body = bytearray(_XATTR_HEADER_BYTES)
    for name, value in sorted(node.xattrs.items()):
        prefix = next((prefix for prefix in _XATTR_PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            continue  # Linux has no other kinds
        rest = name.removeprefix(prefix).encode(errors="surrogateescape")
        if len(rest) > 255 or len(value) > 0xFFFF:
            raise ImageError(f"extended attribute {show(name.encode(errors='replace'))} is too large")
        body += struct.pack("<BBH", len(rest), _XATTR_PREFIXES[prefix], len(value)) + rest + value
        body += bytes(-len(body) % 4)
    if len(body) > MAX_XATTR_BYTES:
        raise ImageError(f"the extended attributes of a file are too large ({len(body)} bytes)")
    return bytes(body) if len(body) > _XATTR_HEADER_BYTES else b""


def _device_number(major: int, minor: int) -> int:
    """The same as ``new_encode_dev()`` of the kernel."""
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & 0xFFF00) << 12


def _superblock(root_number: int, inodes: int, blocks: int, uuid: bytes) -> bytes:
    if blocks > 0xFFFFFFFF:
        raise ImageError(f"a root of {blocks} blocks is too large for an erofs file system")
    head = struct.pack("<IIIBBHQQIIII", _MAGIC, 0, 0, 12, 0, root_number, inodes, 0, 0, blocks, 0, 0)
    return (head + uuid).ljust(_SUPERBLOCK_BYTES, b"\0")
