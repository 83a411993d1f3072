"""Unpacking a tar stream from a guest that is not trusted: nothing outside the target is written."""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import stat
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ballonet.base.errors import GuestFileError

_PIECE_BYTES = 64 << 10
_ZEROS = bytes(_PIECE_BYTES)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpacking:
    """Creates members below ``target``. Directories are opened one by one, and links are never followed.

    Parameters are those of :func:`ballonet.guest.archive.unpack`.
    """

    def __init__(
        self, tar: tarfile.TarFile, target: Path, root: str, what: str, owners: bool, keep_top: bool
    ) -> None:
        self._tar = tar
        self._target = target
        self._root = root
        self._what = what
        self._owners = owners and os.geteuid() == 0
        self._keep_top = keep_top
        #: The directories that the stream is in, with their times, which are set when it leaves them.
        self._within: list[tuple[tuple[str, ...], float]] = []

    def take(self, member: tarfile.TarInfo) -> None:
        """Create one member.

        :raises GuestFileError: it points outside the target, or is a device.
        :raises OSError: it cannot be written.
        """
        inside = _below(member.name, self._root, self._what)
        if not inside and self._keep_top:
            if not member.isdir():
                raise GuestFileError(f"{self._what!r} in the guest is not a directory")
            return
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
            raise GuestFileError(
                f"{self._what!r}: {_shown(member, inside, self._what)} is a device or a pipe, which cannot be copied"
            )
        self.leave(inside)
        try:
            with _opened(self._target.parent, self._places(inside)[:-1]) as directory:
                self._put(member, inside, directory)
        except OSError as error:
            # The name in the error is relative to a directory that the user does not know.
            where = str(self._target.joinpath(*inside))
            raise OSError(error.errno, error.strerror or str(error), where) from error

    def leave(self, inside: tuple[str, ...] | None) -> None:
        """Set the times of the directories that ``inside`` is not in; ``None``: of all."""
        while self._within and (inside is None or inside[: len(self._within[-1][0])] != self._within[-1][0]):
            directory, changed = self._within.pop()
            with _opened(self._target.parent, self._places(directory)) as fd, contextlib.suppress(OSError):
                os.utime(fd, (changed, changed))

    def _places(self, inside: tuple[str, ...]) -> tuple[str, ...]:
        return (self._target.name, *inside) if self._target.name else inside

    def _put(self, member: tarfile.TarInfo, inside: tuple[str, ...], directory: int) -> None:
        name = self._places(inside)[-1]
        if member.isdir():
            self._put_directory(member, inside, name, directory)
            return
        # Under a temporary name, so that an existing file is replaced when the new one is complete. If possible, a file
        # has no name at all until then, so that nothing is left of it if this process is killed.
        beside = f".ballonet-{secrets.token_hex(8)}"
        try:
            self._make(member, inside, beside, directory)
            # rename(2) leaves both names if they are links to the same file.
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=directory)

    def _make(self, member: tarfile.TarInfo, inside: tuple[str, ...], name: str, directory: int) -> None:
        if member.issym():
            _check_link(member.linkname, inside, self._what)
            os.symlink(member.linkname, name, dir_fd=directory)
            if self._owners:
                os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        elif member.islnk():
            *above, other_name = self._places(_below(member.linkname, self._root, self._what))
            with _opened(self._target.parent, above) as other:
                os.link(other_name, name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)
        else:
            self._put_file(member, name, directory)

    def _put_directory(
        self, member: tarfile.TarInfo, inside: tuple[str, ...], name: str, directory: int
    ) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            if self._owners:
                os.fchown(fd, member.uid, member.gid)
            # The user who copies a tree must be able to remove it.
            os.fchmod(fd, (member.mode & 0o777) | stat.S_IRWXU)
        finally:
            os.close(fd)
        self._within.append((inside, member.mtime))

    def _put_file(self, member: tarfile.TarInfo, name: str, directory: int) -> None:
        try:
            fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
            named = False
        except OSError:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            named = True
        with os.fdopen(fd, "wb") as file:
            content = self._tar.extractfile(member)
            while content is not None and (piece := content.read(_PIECE_BYTES)):
                if piece == _ZEROS[: len(piece)]:
                    # A hole, so that a sparse file of the guest does not fill the disk.
                    file.seek(len(piece), os.SEEK_CUR)
                else:
                    file.write(piece)
            file.flush()
            file.truncate(member.size)
            if self._owners:
                os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode & 0o777)
            # Not fatal: the file system may not support this time.
            with contextlib.suppress(OSError, OverflowError):
                os.utime(fd, (member.mtime, member.mtime))
            if not named:
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory)  # follows that link


def _shown(member: tarfile.TarInfo, inside: tuple[str, ...], what: str) -> str:
    return repr(posixpath.join(what, *inside)) if inside else repr(what)


def _below(name: str, root: str, what: str) -> tuple[str, ...]:
    """The parts of ``name`` below ``root``."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    wanted = [part for part in root.split("/") if part not in ("", ".")]
    if ".." in parts or parts[: len(wanted)] != wanted or name.startswith("/"):
        raise GuestFileError(
            f"{what!r}: the guest's archive contains {name!r}, which is outside the requested path"
        )
    return tuple(parts[len(wanted) :])


def _check_link(link: str, inside: tuple[str, ...], what: str) -> None:
    """Allow links that start with as many ``..`` as there are directories up to the top, and then only go down: the
    meaning of ``a/..`` depends on ``a``, which may be a link itself."""
    parts = [part for part in link.split("/") if part not in ("", ".")]
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    if link.startswith("/") or (up > 0 and up > len(inside) - 1) or ".." in parts[up:]:
        name = "/".join(inside) or "it"
        raise GuestFileError(
            f"{what!r}: {name} is a link to {link!r}, which points outside the copied directory",
            hint="copy its target (ballonet cp --follow-link), or write a tar stream: ballonet cp NAME:PATH -",
        )


@contextlib.contextmanager
def _opened(top: Path, parts: Sequence[str]) -> Iterator[int]:
    """The directory ``parts`` below ``top``, created if necessary. None of the parts may be a link."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=fd)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
