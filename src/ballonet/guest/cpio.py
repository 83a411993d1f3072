"""Writing cpio archives in the "newc" format, which the kernel unpacks as its initramfs, without I/O.

The format is described in the kernel's documentation, ``Documentation/driver-api/early-userspace/buffer-format.rst``.
The same calls give the same bytes: times are 0, everything belongs to root, and inodes are numbered in order.
"""

from __future__ import annotations

import os
import stat

from ballonet.base.errors import ConfigError

#: The kernel's limit of a name (with its final zero byte) and of a link target (PATH_MAX), in bytes.
MAX_NAME_BYTES = 4096

#: The maximum size of a file, which has eight hexadecimal digits. In bytes.
MAX_FILE_BYTES = 0xFFFF_FFFF

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"


class Archive:
    """An archive that is being written. Names are relative to its root: ``etc/hosts``.

    Every method raises :class:`ConfigError` for an entry that the format cannot hold or that the kernel would silently
    drop: a name that is not plain and relative, is too long, exists already, or whose directory does not exist.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._kinds: dict[str, int] = {}

    def root(self, mode: int) -> None:
        """Set the permissions of the root itself, which the kernel creates. May be called once."""
        if "." in self._kinds:
            raise ConfigError("the root is already in the archive")
        self._kinds["."] = stat.S_IFDIR
        self._parts.append(
            _render(len(self._kinds), stat.S_IFDIR | _permissions(".", mode), 2, b".", b"", (0, 0))
        )

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory."""
        self._entry(name, stat.S_IFDIR | _permissions(name, mode), b"", links=2)

    def directories(self, name: str) -> None:
        """Add a directory and those above it, unless they exist."""
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            parent = "/".join(parts[:count])
            if self._kinds.get(parent) != stat.S_IFDIR:
                self.directory(parent)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(
                f"{name} has {len(content)} bytes, but files in a cpio archive have at most {MAX_FILE_BYTES}"
            )
        self._entry(name, stat.S_IFREG | _permissions(name, mode), content)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link to ``target``, which need not exist."""
        body = os.fsencode(target)
        if not body or b"\0" in body or len(body) >= MAX_NAME_BYTES:
            raise ConfigError(f"symbolic link {name} cannot point to {target[:64]!r} ({len(body)} bytes)")
        self._entry(name, stat.S_IFLNK | 0o777, body)

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add the node of a character device."""
        if not (0 <= major < 1 << 32 and 0 <= minor < 1 << 32):
            raise ConfigError(f"{name} cannot have the device number {major}:{minor}")
        self._entry(name, stat.S_IFCHR | _permissions(name, mode), b"", device=(major, minor))

    def to_bytes(self) -> bytes:
        """The complete archive with its trailer. More may be added afterwards."""
        return b"".join([*self._parts, _render(0, 0, 1, _TRAILER.encode(), b"", (0, 0))])

    def _entry(
        self, name: str, mode: int, body: bytes, links: int = 1, device: tuple[int, int] = (0, 0)
    ) -> None:
        encoded = os.fsencode(name)
        if "\0" in name or name == _TRAILER or any(part in ("", ".", "..") for part in name.split("/")):
            raise ConfigError(
                f"{name!r} is not a valid name in a cpio archive: it must be plain and relative"
            )
        if len(encoded) >= MAX_NAME_BYTES:
            raise ConfigError(
                f"a name of {len(encoded)} bytes exceeds the limit of a cpio archive ({MAX_NAME_BYTES - 1})"
            )
        if name in self._kinds:
            raise ConfigError(f"{name} is already in the archive")
        parent = name.rpartition("/")[0]
        if parent and self._kinds.get(parent) != stat.S_IFDIR:
            raise ConfigError(f"{name} cannot be added: {parent} is not a directory in the archive")
        self._kinds[name] = stat.S_IFMT(mode)
        self._parts.append(_render(len(self._kinds), mode, links, encoded, body, device))


def _permissions(name: str, mode: int) -> int:
    if mode & ~0o7777:
        raise ConfigError(f"{name} cannot have the mode {mode:o}: only permission bits are allowed")
    return mode


def _render(inode: int, mode: int, links: int, name: bytes, body: bytes, device: tuple[int, int]) -> bytes:
    # ino mode uid gid nlink mtime filesize maj min rmaj rmin namesize chksum
    fields = (inode, mode, 0, 0, links, 0, len(body), 0, 0, *device, len(name) + 1, 0)
    head = (_MAGIC + "".join(f"{value:08X}" for value in fields)).encode() + name + b"\0"
    return _pad4(head) + _pad4(body)


def _pad4(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
