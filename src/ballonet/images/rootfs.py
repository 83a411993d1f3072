"""Reads a directory of the host as a root (``--rootfs``). Symbolic links are not followed; nothing is changed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ballonet.base.errors import ConfigError, HostError
from ballonet.images.limits import MAX_DEPTH
from ballonet.images.tree import Node, Tree

Files = list[tuple[Node, bytes]]


def scan(directory: Path) -> tuple[Tree, str, Files]:
    """The tree below ``directory``, an id that changes with its content, and the paths of its files.

    File systems mounted in it are left out. The id is computed from the status of all files (inode, size, times, owner,
    mode), without reading them.

    :raises ConfigError: ``directory`` is not a directory.
    :raises HostError: something in it cannot be read.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        raise ConfigError(
            f"{directory} is not a directory",
            hint="--rootfs needs the directory of a complete root file system",
        )
    tree, files = Tree(), Files()
    looks = hashlib.sha256(os.fsencode(directory))
    known: dict[tuple[int, int], Node] = {}
    here = directory.stat().st_dev
    ahead: list[tuple[bytes, Node, int]] = []

    def look(path: bytes) -> Node:
        status = os.lstat(path)
        linked = (status.st_dev, status.st_ino)
        if linked in known and not stat.S_ISDIR(status.st_mode):
            looks.update(repr((path, linked)).encode())
            return known[linked]
        node = Node(
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime=max(0, int(status.st_mtime)),
            size=status.st_size if stat.S_ISREG(status.st_mode) else 0,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
            target=os.readlink(path)  # noqa: PTH115  (bytes)
            if stat.S_ISLNK(status.st_mode)
            else b"",
            xattrs=_xattrs(path),
        )
        if node.size:
            files.append((node, path))
        seen = (
            path,
            linked,
            node.mode,
            node.uid,
            node.gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        looks.update(repr((seen, node.target)).encode())
        known[linked] = node
        return node

    try:
        tree.root = look(os.fsencode(directory))
        ahead.append((os.fsencode(directory), tree.root, 1))
        while ahead:
            path, node, depth = ahead.pop()
            if depth > MAX_DEPTH:
                raise HostError(f"{os.fsdecode(path)} is more than {MAX_DEPTH} directories deep")
            if os.lstat(path).st_dev != here:
                continue  # another file system, for example /proc
            for name in sorted(os.listdir(path)):  # noqa: PTH208
                child = node.children[name] = look(os.path.join(path, name))  # noqa: PTH118  (bytes)
                if child.is_directory:
                    ahead.append((os.path.join(path, name), child, depth + 1))  # noqa: PTH118
    except OSError as error:
        raise _unreadable(error, directory) from error
    return tree, "sha256:" + looks.hexdigest(), files


def contents_of(files: Files) -> Iterator[tuple[Node, IO[bytes]]]:
    """The content of the files that :func:`scan` found.

    :raises HostError: a file cannot be read, or has changed meanwhile.
    """
    for node, path in files:
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise _unreadable(error, Path(os.fsdecode(path))) from error
        with file:
            if os.fstat(file.fileno()).st_size != node.size:
                raise HostError(f"{os.fsdecode(path)} changed while it was read", hint="try again")
            yield node, file


def _xattrs(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}  # the file system does not support them
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _unreadable(error: OSError, path: Path) -> HostError:
    name = os.fsdecode(error.filename) if error.filename else str(path)
    hint = "run as its owner or as root" if isinstance(error, PermissionError) else None
    return HostError(f"{name} cannot be read: {error.strerror}", hint=hint)
