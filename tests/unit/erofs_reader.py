"""Reads an erofs image, independently of the writer, by the kernel's description of the format."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096


@dataclass(frozen=True)
class Found:
    number: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    mtime: int
    device: int
    content: bytes
    xattrs: dict[str, bytes]

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


class Reader:
    def __init__(self, path: Path) -> None:
        self.image = path.read_bytes()
        magic, _, _, block_bits, _, self.root_number = struct.unpack_from("<IIIBBH", self.image, 1024)
        (blocks,) = struct.unpack_from("<I", self.image, 1024 + 36)
        (self.meta_block,) = struct.unpack_from("<I", self.image, 1024 + 40)
        assert (magic, block_bits) == (0xE0F5E1E2, 12)
        assert blocks * BLOCK == len(self.image)

    def inode(self, number: int) -> Found:
        at = self.meta_block * BLOCK + number * 32
        form, xattr_count, mode, _, size, where, _, uid, gid, mtime, _, links = struct.unpack_from(
            "<HHHHQIIIIQII", self.image, at
        )
        assert form & 1, "extended"
        body = at + 64
        xattr_bytes = 12 + 4 * (xattr_count - 1) if xattr_count else 0
        start = body + xattr_bytes if form >> 1 == 2 else where * BLOCK
        if form >> 1 == 2:
            assert start // BLOCK == (start + size - 1) // BLOCK, "inline content lies in one block"
        has_content = stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
        content = self.image[start : start + size] if has_content else b""
        return Found(
            number,
            mode,
            uid,
            gid,
            size,
            links,
            mtime,
            0 if has_content else where,
            content,
            dict(self._xattrs(body, xattr_bytes)),
        )

    def names(self, directory: Found) -> Iterator[tuple[bytes, int]]:
        for start in range(0, directory.size, BLOCK):
            block = directory.content[start : start + BLOCK]
            count = struct.unpack_from("<H", block, 8)[0] // 12
            entries = [struct.unpack_from("<QHB", block, 12 * index) for index in range(count)]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (number, name_at, kind), end in zip(entries, ends, strict=True):
                name = block[name_at:end].rstrip(b"\0")
                types = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFCHR, 4: stat.S_IFBLK, 5: stat.S_IFIFO}
                assert self.inode(number).kind == {**types, 6: stat.S_IFSOCK, 7: stat.S_IFLNK}[kind]
                yield name, number

    def files(self) -> dict[str, Found]:
        """Everything, by path; the root is ``/``."""
        found: dict[str, Found] = {}
        ahead = [("", self.root_number, self.root_number)]
        while ahead:
            path, number, parent = ahead.pop()
            inode = found[path or "/"] = self.inode(number)
            if stat.S_ISDIR(inode.mode):
                names = list(self.names(inode))
                assert [name for name, _ in names] == sorted(name for name, _ in names), (
                    "the kernel searches by halves"
                )
                assert dict(names)[b"."] == number
                assert dict(names)[b".."] == parent
                ahead += [
                    (f"{path}/{name.decode(errors='surrogateescape')}", child, number)
                    for name, child in names
                    if name not in (b".", b"..")
                ]
        return found

    def _xattrs(self, at: int, size: int) -> Iterator[tuple[str, bytes]]:
        prefixes = {
            1: "user.",
            2: "system.posix_acl_access",
            3: "system.posix_acl_default",
            4: "trusted.",
            6: "security.",
        }
        cursor = at + 12
        while cursor < at + size:
            name_bytes, index, value_bytes = struct.unpack_from("<BBH", self.image, cursor)
            name = self.image[cursor + 4 : cursor + 4 + name_bytes].decode(errors="surrogateescape")
            value = self.image[cursor + 4 + name_bytes : cursor + 4 + name_bytes + value_bytes]
            yield prefixes[index] + name, value
            cursor += -(-(4 + name_bytes + value_bytes) // 4) * 4
