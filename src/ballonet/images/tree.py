"""The files of a root, merged from layers in memory. Pure: nothing here accesses a file system.

Layers are applied lowest first, by the rules of the OCI image specification 1.0 ("Applying Changesets"). Paths are
resolved within the tree, as the guest's kernel would do in its root: links are followed, and ``..`` of the root is the
root. A layer can therefore never refer to a file of the host.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ballonet.base.errors import ImageError
from ballonet.base.text import printable
from ballonet.images.limits import MAX_DEPTH, MAX_LINK_HOPS, MAX_NAME_BYTES, MAX_PATH_BYTES

WHITEOUT_PREFIX = b".wh."
OPAQUE_WHITEOUT = b".wh..wh..opq"
#: Names that aufs used internally; they are not files of the image.
_RESERVED_PREFIX = b".wh..wh."


@dataclass(slots=True, eq=False)
class Node:
    """A file of any type. Hard links are several names of one node."""

    #: Type and permissions, as in ``st_mode``.
    mode: int
    uid: int = 0
    gid: int = 0
    #: Whole unix seconds.
    mtime: int = 0
    #: Size of a regular file.
    size: int = 0
    #: Major and minor number of a device.
    device: tuple[int, int] = (0, 0)
    #: Target of a symbolic link.
    target: bytes = b""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    #: Entries of a directory by name.
    children: dict[bytes, Node] = field(default_factory=dict)
    #: Where the content of a regular file is: the layer, and the number of the member in it.
    layer: int = 0
    member: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Tree:
    """A root while layers are applied."""

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        #: What the current layer added: a directory (the id of its dictionary) and a name in it.
        self._said: set[tuple[int, bytes]] = set()

    def begin_layer(self) -> None:
        """Start the next layer: its whiteouts apply to what was added before."""
        self._said.clear()

    def add(self, path: bytes, node: Node) -> None:
        """Put ``node`` at ``path`` and replace what is there; a directory keeps its entries.

        :raises ImageError: the path leads out of the root or through a file, or is too long.
        """
        parts = split_path(path)
        if not parts:
            if not node.is_directory:
                raise ImageError(f"the root must be a directory ({show(path)})")
            node.children = self.root.children
            self.root = node
            return
        parent = self._walk(parts[:-1], path, make=True)
        assert parent is not None
        there = parent.children.get(parts[-1])
        if there is not None and there.is_directory and node.is_directory:
            node.children = there.children
        self._put(parent, parts[-1], node)

    def make_directory(self, path: bytes) -> None:
        """Create the directory at ``path`` and its parents, following links, unless they exist.

        :raises ImageError: the path leads through a file, or is too long.
        """
        self._walk(split_path(path), path, make=True)

    def link(self, path: bytes, target: bytes) -> None:
        """Make ``path`` a hard link to the file at ``target``.

        :raises ImageError: the target does not exist in the root, or is a directory.
        """
        parts = split_path(target)
        parent = self._walk(parts[:-1], target) if parts else None
        node = None if parent is None else parent.children.get(parts[-1])
        if node is None or node.is_directory:
            what = "is not in the root" if node is None else "is a directory"
            raise ImageError(f"{show(path)} is a hard link to {show(target)}, which {what}")
        names = split_path(path)
        if not names:
            raise ImageError(f"the root cannot be a hard link ({show(path)})")
        parent = self._walk(names[:-1], path, make=True)
        assert parent is not None
        self._put(parent, names[-1], node)

    def whiteout(self, path: bytes) -> bool:
        """If ``path`` is a whiteout, apply it to the layers below; returns whether it is one."""
        parts = split_path(path)
        if not parts or not parts[-1].startswith(WHITEOUT_PREFIX):
            return False
        name = parts[-1]
        parent = self._walk(parts[:-1], path)
        if parent is None:
            return True
        if name == OPAQUE_WHITEOUT:
            for child in list(parent.children):
                self._hide(parent, child)
        elif not name.startswith(_RESERVED_PREFIX):
            self._hide(parent, name.removeprefix(WHITEOUT_PREFIX))
        return True

    def find(self, path: bytes) -> Node | None:
        """The file at ``path``, following links; ``None`` if there is none."""
        parts = split_path(path)
        for _ in range(MAX_LINK_HOPS):
            parent = self._walk(parts[:-1], path) if parts else None
            node = self.root if not parts else None if parent is None else parent.children.get(parts[-1])
            if node is None or not stat.S_ISLNK(node.mode):
                return node
            base = [] if node.target.startswith(b"/") else parts[:-1]
            parts = _clamped([*base, *_names(node.target)])
        return None

    def _put(self, parent: Node, name: bytes, node: Node) -> None:
        parent.children[name] = node
        self._said.add((id(parent.children), name))

    def _hide(self, parent: Node, name: bytes) -> None:
        """Remove what the layers below put there; what the current layer added stays."""
        node = parent.children.get(name)
        if node is None:
            return
        for child in list(node.children):
            self._hide(node, child)
        if not node.children and (id(parent.children), name) not in self._said:
            del parent.children[name]

    def _walk(self, parts: list[bytes], path: bytes, *, make: bool = False) -> Node | None:
        """The directory at ``parts``. Missing directories are created if ``make``, otherwise ``None`` is returned."""
        stack, ahead, hops = [self.root], parts[::-1], 0
        while ahead:
            name = ahead.pop()
            if name == b"..":
                del stack[max(1, len(stack) - 1) :]
                continue
            child = stack[-1].children.get(name)
            if child is None:
                if not make:
                    return None
                child = Node(stat.S_IFDIR | 0o755)
                self._put(stack[-1], name, child)
            if stat.S_ISLNK(child.mode):
                hops += 1
                if hops > MAX_LINK_HOPS:
                    raise ImageError(f"{show(path)} leads through more than {MAX_LINK_HOPS} symbolic links")
                if child.target.startswith(b"/"):
                    del stack[1:]
                ahead += _names(child.target)[::-1]
                continue
            if not child.is_directory:
                if not make:
                    return None
                raise ImageError(f"{show(path)} leads through {show(name)}, which is not a directory")
            if len(stack) >= MAX_DEPTH:
                raise ImageError(f"{show(path)} is more than {MAX_DEPTH} directories deep")
            stack.append(child)
        return stack[-1]


def walk(root: Node) -> Iterator[Node]:
    """Every node once: a directory before its entries, names in order."""
    seen: set[int] = set()
    ahead = [root]
    while ahead:
        node = ahead.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        ahead += [node.children[name] for name in sorted(node.children, reverse=True)]


def split_path(path: bytes) -> list[bytes]:
    """The names in the path of a member of a layer; empty for the root. A leading ``/`` is ignored.

    :raises ImageError: it leads out of the root, or is too long.
    """
    if len(path) > MAX_PATH_BYTES:
        raise ImageError(f"a path of {len(path)} bytes exceeds {MAX_PATH_BYTES}: {show(path)}")
    names = _names(path)
    if b".." in names:
        raise ImageError(f"the path {show(path)} leads out of the image's root")
    for name in names:
        if len(name) > MAX_NAME_BYTES or b"\0" in name:
            raise ImageError(f"{show(name)} is not a valid file name of at most {MAX_NAME_BYTES} bytes")
    return names


def show(path: bytes) -> str:
    """A path from a layer, printable and shortened for a message."""
    text = printable(path.decode(errors="replace"))
    return repr(text if len(text) <= 200 else text[:200] + "…")


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _clamped(names: list[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for name in names:
        if name != b"..":
            kept.append(name)
        elif kept:
            kept.pop()
    return kept
