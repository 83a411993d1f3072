"""Exports a snapshot to a file, and imports one that may come from anyone."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError, HostError, ImageError, SnapshotError, os_hint
from ballonet.base.file_copy import new_private_file
from ballonet.lifecycle.snapshot_archive import Progress, ReadArchive, read_archive, write_archive
from ballonet.lifecycle.snapshot_facts import SnapshotFacts
from ballonet.lifecycle.snapshot_platform import check_platform
from ballonet.lifecycle.snapshots import Snapshot, Snapshots
from ballonet.settings.flags import render_flags
from ballonet.vmm.saved_state import SavedState, SavedStateError


def _quiet(size: int) -> None:
    pass


def export_snapshot(store: Snapshots, name: str, out: BinaryIO, progress: Progress = _quiet) -> None:
    """Write a snapshot as one file, which :func:`import_snapshot` reads on this or another host.

    :param progress: called with the size of each piece that was written.
    :raises UnknownSnapshotError: there is none with that name.
    :raises SnapshotError: it is damaged, or its root is not that of an image.
    :raises OSError: ``out`` cannot be written.
    """
    with store.using(name) as snapshot, contextlib.ExitStack() as stack:
        facts = snapshot.readable()
        if facts.image_id is None and facts.config.root is not None:
            raise SnapshotError(
                f"snapshot {name!r} cannot be exported: its root {facts.config.root} is not that of an image",
                hint="create the sandbox from an image",
            )
        root = None if facts.image_id is None else _root_digest(_root_of(facts))
        with _explained(snapshot.path):
            state = _opened(stack, snapshot.state_path)
            disk = None if facts.disk_bytes is None else _opened(stack, snapshot.disk_path)
        write_archive(out, _portable(facts), state, disk, root, progress)


def import_snapshot(
    store: Snapshots, source: BinaryIO, name: str | None = None, progress: Progress = _quiet
) -> Snapshot:
    """Read a file of :func:`export_snapshot`. Nothing is kept unless all of it is right and this host can restore it.

    :param name: the snapshot's name; ``None``: that of the sandbox that was saved.
    :raises SnapshotError: the file is damaged, or does not fit this host.
    :raises NameInUseError: there is a snapshot with that name.
    :raises ImageError: this host does not have the image.
    """
    if name is not None:
        store.check_free(name)
    roots: list[Path] = []

    def check(facts: SnapshotFacts) -> None:
        store.check_free(facts.sandbox if name is None else name)
        check_platform("the snapshot", facts)
        if facts.image_id is not None:
            roots.append(_root_of(facts))
        elif facts.config.root is not None:
            raise SnapshotError(
                "the file is not an exported snapshot, or is damaged: it has a root, but no image"
            )

    with store.making() as made, contextlib.ExitStack() as stack:
        with _explained(made.path):
            state = _created(stack, made.state_path)

            def disk() -> int:
                file = _created(stack, made.disk_path)
                disks.append(file)
                return file

            disks: list[int] = []
            found = read_archive(source, state, disk, check, progress)
            _check_root(found, roots)
            _check_state(made.state_path, found.facts)
            for file in (state, *disks):
                os.fsync(file)
        facts = found.facts
        if roots:
            config = replace(facts.config, root=roots[0])
            facts = replace(facts, flags=tuple(render_flags(config)))
        made.write_facts(facts)
        chosen = facts.sandbox if name is None else name
        made.commit(chosen)
    return store.get(chosen)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """The file ``path``, open for writing: whole at the end of the ``with`` block, or as it was.

    :raises ConfigError: it cannot be created.
    :raises HostError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path)) from error
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
            out.flush()
            os.fsync(fd)
        part.rename(path)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path)) from error
    finally:
        part.unlink(missing_ok=True)


def _portable(facts: SnapshotFacts) -> SnapshotFacts:
    """The facts without what belongs to this host: paths, users and published ports."""
    config = replace(
        facts.config,
        balloon_control_socket=None,
        balloon_initial_mib=facts.config.balloon_initial_mib
        or (facts.config.memory_mib if facts.config.has_balloon else None),
        balloon_allow_users=(),
        balloon_allow_groups=(),
        balloon_observe_users=(),
        balloon_observe_groups=(),
        ports=(),
    )
    return replace(facts, flags=tuple(render_flags(config)))


def _root_of(facts: SnapshotFacts) -> Path:
    """:raises ImageError: this host does not have the image."""
    from ballonet.images.store import ImageStore

    assert facts.image_id is not None
    try:
        return ImageStore.open().find(facts.image_id).root
    except (ImageError, ConfigError) as error:
        name = facts.image or facts.image_id
        raise ImageError(
            f"the snapshot needs image {name} ({facts.image_id}), which is not on this host",
            hint=f"pull or load the same image first: ballonet image pull {name}",
        ) from error


def _root_digest(root: Path) -> str:
    with _explained(root), root.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_root(found: ReadArchive, roots: list[Path]) -> None:
    here = _root_digest(roots[0]) if roots else None
    if here != found.root_digest:
        raise SnapshotError(
            f"the root of image {found.facts.image} on this host has the digest {here}, and the snapshot's guest has "
            f"one with {found.root_digest} mounted",
            hint="images must be unpacked by the same version of ballonet on both hosts",
        )


def _check_state(path: Path, facts: SnapshotFacts) -> None:
    from ballonet.base.memory import mib_to_bytes

    try:
        with SavedState.open(path, facts.state_key) as state:
            if state.ram_bytes != mib_to_bytes(facts.config.memory_mib):
                raise SavedStateError(f"it has {state.ram_bytes} bytes of RAM")
    except SavedStateError as error:
        raise SnapshotError(f"the saved state in the file is damaged: {error}") from error


def _opened(stack: contextlib.ExitStack, path: Path) -> int:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack.callback(os.close, file)
    return file


def _created(stack: contextlib.ExitStack, path: Path) -> int:
    file = new_private_file(path)
    stack.callback(os.close, file)
    return file


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert errors of files in the store."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise HostError(f"{where}: {error.strerror or error}", hint=os_hint(error, path)) from error
