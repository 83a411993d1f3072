"""Merges layers, or a directory, into one root file: planned in memory, then written in one go."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from ballonet.base.errors import HostError, ImageError, os_hint
from ballonet.base.memory import MIB, bytes_to_mib
from ballonet.images.erofs import Layout, lay_out
from ballonet.images.image import ROOT_FILE
from ballonet.images.layers import Account, Layer, apply_layer, contents
from ballonet.images.limits import Limits
from ballonet.images.tree import Node, Tree

#: Called with the bytes done and the total bytes.
Progress = Callable[[int, int], None]

_PIECE_BYTES = 1 * MIB


@dataclass(frozen=True)
class Plan:
    """A root that was read and checked, and can be written."""

    tree: Tree
    layout: Layout

    @classmethod
    def of(cls, tree: Tree, id: str) -> Plan:
        return cls(tree, lay_out(tree.root, hashlib.sha256(id.encode()).digest()[:16]))


def plan_layers(
    layers: Sequence[Layer],
    id: str,
    limits: Limits,
    progress: Progress | None = None,
    *,
    volumes: Sequence[str] = (),
) -> Plan:
    """Read ``layers``, lowest first, whose digests were already checked. Nothing is written.

    :param volumes: directories that the image's configuration declares; created if no layer has them.
    :raises ImageError: a layer is damaged, malicious or exceeds a limit; a volume is not a directory.
    """
    if len(layers) > limits.layers:
        raise ImageError(
            f"the image has {len(layers)} layers; the limit is {limits.layers}",
            hint="raise the limit with --max-layers",
        )
    tree, account = Tree(), Account(limits)
    sizes = [layer.path.stat().st_size for layer in layers]
    for index, layer in enumerate(layers):
        before = sum(sizes[:index])
        tick = None if progress is None else partial(_tell, progress, before, sum(sizes))
        apply_layer(tree, layer, account, tick)
    for volume in volumes:
        tree.make_directory(posixpath.normpath("/" + volume.lstrip("/")).encode())
    return Plan.of(tree, id)


def _tell(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def write_layers(
    plan: Plan, layers: Iterable[Layer], directory: Path, progress: Progress | None = None
) -> Path:
    """Write the planned root into ``directory``; returns its path.

    :raises HostError: the disk is full or fails.
    :raises ImageError: a layer can no longer be read.
    """

    def content(wanted: dict[int, dict[int, Node]]) -> Iterator[tuple[Node, IO[bytes]]]:
        for layer in layers:
            members = wanted.get(layer.number, {})
            with closing(contents(layer, members)) as found:
                for number, file in found:
                    yield members[number], file

    by_layer: dict[int, dict[int, Node]] = {}
    for extent in plan.layout.extents:
        by_layer.setdefault(extent.node.layer, {})[extent.node.member] = extent.node
    return write_root(plan, content(by_layer), directory, progress)


def write_root(
    plan: Plan, content: Iterator[tuple[Node, IO[bytes]]], directory: Path, progress: Progress | None = None
) -> Path:
    """Write a root from files in any order. See :func:`write_layers`."""
    path = directory / ROOT_FILE
    layout = plan.layout
    offsets = {id(extent.node): extent.offset for extent in layout.extents}
    done, total = 0, sum(extent.node.size for extent in layout.extents)
    try:
        with path.open("xb", buffering=0) as file:
            # Allocate everything first: if the disk is too small, nothing is written.
            os.posix_fallocate(file.fileno(), 0, layout.size)
            _write_at(file, layout.metadata, 0)
            for node, source in content:
                _copy(source, node, file, offsets.pop(id(node)))
                done += node.size
                if progress is not None:
                    progress(done, total)
            if offsets:
                raise ImageError(f"the layers lack the content of {len(offsets)} files")
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
    except OSError as error:
        size = f"{bytes_to_mib(layout.size) + 1} MiB"
        raise HostError(
            f"the root ({size}) cannot be written to {path}: {error.strerror}", hint=os_hint(error, path)
        ) from error
    return path


def _copy(source: IO[bytes], node: Node, file: IO[bytes], offset: int) -> None:
    left = node.size
    while left:
        piece = source.read(min(left, _PIECE_BYTES))
        if not piece:
            raise ImageError(f"a file of {node.size} bytes is truncated by {left} bytes")
        _write_at(file, piece, offset)
        offset += len(piece)
        left -= len(piece)


def _write_at(file: IO[bytes], content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(file.fileno(), view, offset)
        view, offset = view[written:], offset + written
