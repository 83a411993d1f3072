"""Reads the layers of an image: unpacks them as a stream into a tree, with checks of digests and limits.

Nothing is written. A layer is read twice: first to apply it to the tree (:func:`apply_layer`), then for the content of
the files that the final root still has (:func:`contents`). The caller must check the digest of the layer's file before
(:func:`check_digest`); the digest of the unpacked content is checked here.
"""

from __future__ import annotations

import functools
import hashlib
import io
import platform
import stat
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from ballonet.base.errors import ImageError, os_hint
from ballonet.base.memory import bytes_to_mib
from ballonet.base.missing_modules import missing_module
from ballonet.images.limits import MAX_HEADER_BYTES, RATIO_FROM_BYTES, Limits
from ballonet.images.tree import Node, Tree, show

Tick = Callable[[int], None]

_PIECE_BYTES = 256 * 1024
#: Maximum window size of a zstd stream (bytes): the default of the zstd program.
_ZSTD_WINDOW_BYTES = 128 << 20
_MAX_ID = 2**32 - 2  # the next number means "none" to the kernel
_XATTR = "SCHILY.xattr."
#: Attributes with a meaning for overlay file systems; dropped.
_OVERLAY_XATTR = "trusted.overlay."

_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
}


@dataclass(frozen=True)
class Layer:
    """A layer: a file in the blob directory."""

    #: Its position among the image's layers; the lowest is 1.
    number: int
    path: Path
    #: Digest of the file.
    digest: str
    #: Digest of the unpacked content.
    diff_id: str

    def __str__(self) -> str:
        return f"layer {self.number} ({self.digest[:19]}…)"


@dataclass
class Account:
    """Sums over the layers read so far, checked against the limits."""

    limits: Limits
    unpacked_bytes: int = 0
    entries: int = 0

    def add_entry(self, size: int) -> None:
        """:raises ImageError: a limit is exceeded."""
        self.entries += 1
        self.unpacked_bytes += size
        if self.entries > self.limits.entries:
            raise ImageError(
                f"the image has more than {self.limits.entries} files",
                hint="raise the limit with --max-entries",
            )
        if self.unpacked_bytes > self.limits.unpacked_bytes:
            raise ImageError(
                f"the image unpacks to more than {bytes_to_mib(self.limits.unpacked_bytes)} MiB",
                hint="raise the limit with --max-unpacked",
            )

    def check_ratio(self, packed: int, unpacked: int) -> None:
        """:raises ImageError: the compression ratio is too high, as in a decompression bomb."""
        if unpacked > RATIO_FROM_BYTES and unpacked > packed * self.limits.ratio:
            raise ImageError(
                f"it unpacks to more than {self.limits.ratio} times its size "
                f"({packed} bytes became more than {bytes_to_mib(unpacked)} MiB)",
                hint="raise the limit with --max-ratio",
            )
        # This also counts what is not file content (headers, padding).
        if unpacked > 2 * self.limits.unpacked_bytes:
            raise ImageError(
                f"it unpacks to more than {bytes_to_mib(unpacked)} MiB",
                hint="raise the limit with --max-unpacked",
            )


def check_digest(path: Path, digest: str, what: str) -> None:
    """Check that a file has the expected digest.

    :raises ImageError: it does not, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{what} cannot be read: {error.strerror}", hint=os_hint(error, what)) from error
    if found != digest:
        raise ImageError(f"{what} is damaged: its digest is {found}, expected {digest}")


def apply_layer(tree: Tree, layer: Layer, account: Account, tick: Tick | None = None) -> None:
    """Read ``layer`` and apply it to ``tree``.

    :param tick: called repeatedly with the number of bytes read of the layer's file.
    :raises ImageError: it is damaged, malicious or exceeds a limit; the tree must not be used then.
    """
    try:
        tree.begin_layer()
        stream = _Unpacked(layer.path, account, tick)
        with stream, _open_tar(stream) as tar:
            number = -1
            end = 0
            while (member := tar.next()) is not None:
                number += 1
                tar.members.clear()  # type: ignore[attr-defined]  # to save memory
                _apply(tree, member, layer.number, number, account)
                end = member.offset_data + (member.size if member.isreg() else 0)
            stream.drain()
            if stream.unpacked < end:
                raise ImageError(f"it is truncated: it ends after {stream.unpacked} bytes, within a file")
            if stream.diff_id() != layer.diff_id:
                raise ImageError(f"its content has the digest {stream.diff_id()}, expected {layer.diff_id}")
    except ImageError as error:
        raise ImageError(f"{layer}: {error.message}", hint=error.hint) from error.__cause__
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
        raise ImageError(f"{layer} cannot be read as a tar archive: {error}"[:300]) from error


def contents(layer: Layer, wanted: Mapping[int, Any]) -> Generator[tuple[int, IO[bytes]]]:
    """The content of the members of ``layer`` whose numbers are in ``wanted``, in order of the layer.

    :raises ImageError: the layer cannot be read.
    """
    try:
        with _Unpacked(layer.path, None) as stream, _open_tar(stream) as tar:
            number = -1
            left = len(wanted)
            while left and (member := tar.next()) is not None:
                number += 1
                tar.members.clear()  # type: ignore[attr-defined]
                if number in wanted:
                    left -= 1
                    file = tar.extractfile(member)
                    assert file is not None
                    yield number, file
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise ImageError(f"{layer} can no longer be read: {error}") from error


def _apply(tree: Tree, member: tarfile.TarInfo, layer: int, number: int, account: Account) -> None:
    path = member.name.encode(errors="surrogateescape")
    account.add_entry(member.size if member.isreg() else 0)
    if tree.whiteout(path):
        return
    if member.islnk():
        tree.link(path, member.linkname.encode(errors="surrogateescape"))
        return
    kind = _TYPES.get(member.type)
    if kind is None:
        raise ImageError(f"{show(path)} has the unsupported file type {member.type!r}")
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise ImageError(f"{show(path)} has the invalid owner {member.uid}:{member.gid}")
    target = member.linkname.encode(errors="surrogateescape") if member.issym() else b""
    if member.issym() and not 0 < len(target.split(b"\0")[0]) == len(target) < 4096:
        raise ImageError(f"{show(path)} is a symbolic link with the invalid target {show(target)}")
    tree.add(
        path,
        Node(
            mode=kind | (member.mode & 0o7777),
            uid=member.uid,
            gid=member.gid,
            mtime=min(max(0, int(member.mtime)), 2**62),
            size=member.size if kind == stat.S_IFREG else 0,
            device=(member.devmajor, member.devminor) if member.isdev() and not member.isfifo() else (0, 0),
            target=target,
            xattrs={
                name.removeprefix(_XATTR): value.encode(errors="surrogateescape")
                for name, value in member.pax_headers.items()
                if name.startswith(_XATTR) and not name.startswith(_XATTR + _OVERLAY_XATTR)
            },
            layer=layer,
            member=number,
        ),
    )


class BoundedTarInfo(tarfile.TarInfo):
    """Limits the size of headers, and raises an error where tarfile would treat a damaged header as the end.

    Older versions of Python read a header with ``frombuf``, newer ones with ``_frombuf``, which has more parameters:
    see :func:`check_tarfile`.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedTarInfo:
        return cls._checked(super().frombuf, buf, encoding, errors)

    @classmethod
    def _frombuf(cls, *what: Any, **how: Any) -> BoundedTarInfo:
        return cls._checked(super()._frombuf, *what, **how)  # type: ignore[misc]

    @classmethod
    def _checked(cls, read: Callable[..., Any], *what: Any, **how: Any) -> BoundedTarInfo:
        try:
            info: BoundedTarInfo = read(*what, **how)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise ImageError(f"it has a damaged header ({error})") from error
        if info.type in _HEADERS and info.size > MAX_HEADER_BYTES:
            raise ImageError(f"it has a header of {info.size} bytes; the limit is {MAX_HEADER_BYTES}")
        if info.size < 0:
            raise ImageError(f"it has a file with the invalid size {info.size}")
        if info.type == tarfile.GNUTYPE_SPARSE:
            cls._refuse_sparse()
        return info

    @classmethod
    def _refuse_sparse(cls, *_: object) -> NoReturn:
        # A sparse map may need any amount of memory, and image builders do not write any.
        raise ImageError("it has a sparse file (GNU tar --sparse), which is not supported")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


@functools.cache
def check_tarfile() -> None:
    """Check that the limits are in effect: they depend on how this version of Python reads headers.

    :raises ImageError: they are not.
    """
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, MAX_HEADER_BYTES + 1
    try:
        with tarfile.open(fileobj=io.BytesIO(header.tobuf()), mode="r|", tarinfo=BoundedTarInfo):
            pass
    except ImageError:
        return
    except tarfile.TarError:
        pass
    raise ImageError(
        f"the headers of an image cannot be limited with Python {platform.python_version()}",
        hint="use another version of Python, and report this",
    )


def _open_tar(stream: _Unpacked) -> tarfile.TarFile:
    check_tarfile()
    tar: tarfile.TarFile = tarfile.open(  # noqa: SIM115  (the caller closes it)
        fileobj=stream,  # type: ignore[call-overload]
        mode="r|",
        tarinfo=BoundedTarInfo,
        bufsize=_PIECE_BYTES,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return tar


class _Unpacked:
    """The uncompressed tar stream of a layer's file, counted and hashed."""

    def __init__(self, path: Path, account: Account | None, tick: Tick | None = None) -> None:
        try:
            self._file: io.BufferedReader = path.open("rb")
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}", hint=os_hint(error, path)) from error
        self._account, self._tick = account, tick
        self._hash = hashlib.sha256() if account is not None else None
        self.unpacked = 0
        start = self._file.peek(4)[:4]
        if start.startswith(b"\x1f\x8b"):
            self._pieces = _inflate(self._file)
        elif start == b"\x28\xb5\x2f\xfd":
            self._pieces = _unpack_zstd(self._file)
        else:
            self._pieces = iter(lambda: self._file.read(_PIECE_BYTES), b"")

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """The next piece, of any size; empty at the end."""
        piece = next(self._pieces, b"")
        self.unpacked += len(piece)
        if self._hash is not None:
            self._hash.update(piece)
        if self._account is not None:
            self._account.check_ratio(self._file.tell(), self.unpacked)
        if self._tick is not None:
            self._tick(self._file.tell())
        return piece

    def drain(self) -> None:
        while self.read(_PIECE_BYTES):
            pass

    def diff_id(self) -> str:
        assert self._hash is not None
        return "sha256:" + self._hash.hexdigest()


def _inflate(file: IO[bytes]) -> Iterator[bytes]:
    """Decompress gzip of one or more members, in pieces of limited size."""
    unpacker = zlib.decompressobj(wbits=31)
    between, members = True, 0  # between two members, or before the first
    try:
        while data := file.read(_PIECE_BYTES):
            while True:
                if between and members:
                    data = data.lstrip(b"\0")  # padding
                    if not data:
                        break
                unpacked = unpacker.decompress(data, _PIECE_BYTES)
                if unpacked:
                    yield unpacked
                between = unpacker.eof
                if between:
                    data, members = unpacker.unused_data, members + 1
                    unpacker = zlib.decompressobj(wbits=31)
                else:
                    data = unpacker.unconsumed_tail
                    if not data and len(unpacked) < _PIECE_BYTES:
                        break
    except zlib.error as error:
        raise ImageError(f"its gzip stream is damaged: {error}") from error
    if not between:
        raise ImageError("its gzip stream is truncated")


def _unpack_zstd(file: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise missing_module(error, "it is compressed with zstd and cannot be unpacked") from error

    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(file, read_across_frames=True, closefd=False) as reader:
            while piece := reader.read(_PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        raise ImageError(f"its zstd stream is damaged: {error}") from error
