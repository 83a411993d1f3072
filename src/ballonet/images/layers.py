"""Reading the layers of an image: digests checked, unpacked as a stream, and put into a tree, within limits.

Nothing is written here. A layer is read twice: once to learn what is in it (:func:`apply_layer`), once for the content
that the finished root still has (:func:`contents`). Its file's digest is for the caller to check before
(:func:`check_digest`); that of what it unpacks to is checked here.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from ballonet.base.errors import ImageError, missing_module, os_hint
from ballonet.base.memory import bytes_to_mib
from ballonet.images.limits import MAX_HEADER_BYTES, RATIO_FROM_BYTES, Limits
from ballonet.images.tree import Node, Tree, show

Tick = Callable[[int], None]

_PIECE_BYTES = 256 * 1024
#: The largest window that a zstd stream may ask for (bytes), the default of its own tool.
_ZSTD_WINDOW_BYTES = 128 << 20
_MAX_ID = 2**32 - 2  # above is the kernel's "none"
_XATTR = "SCHILY.xattr."
#: Overlay file systems would take these for their own.
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
    """One layer: a file in the blob directory."""

    #: Its place among the image's layers, the lowest being 1.
    number: int
    path: Path
    #: Of the file.
    digest: str
    #: Of what it unpacks to.
    diff_id: str

    def __str__(self) -> str:
        return f"layer {self.number} ({self.digest[:19]}…)"


@dataclass
class Account:
    """What the layers so far have cost, against the limits."""

    limits: Limits
    unpacked_bytes: int = 0
    entries: int = 0

    def add_entry(self, size: int) -> None:
        """:raises ImageError: a limit is passed."""
        self.entries += 1
        self.unpacked_bytes += size
        if self.entries > self.limits.entries:
            raise ImageError(
                f"the image has more than {self.limits.entries} files", hint="--max-entries raises the limit"
            )
        if self.unpacked_bytes > self.limits.unpacked_bytes:
            raise ImageError(
                f"the image unpacks to more than {bytes_to_mib(self.limits.unpacked_bytes)} MiB",
                hint="--max-unpacked raises the limit",
            )

    def check_ratio(self, packed: int, unpacked: int) -> None:
        """:raises ImageError: so much from so little is meant to do harm."""
        if unpacked > RATIO_FROM_BYTES and unpacked > packed * self.limits.ratio:
            raise ImageError(
                f"it unpacks to more than {self.limits.ratio} times its size "
                f"({packed} bytes became more than {bytes_to_mib(unpacked)} MiB)",
                hint="--max-ratio raises the limit",
            )
        # Unpacked bytes that are no file's (headers, padding) count, too.
        if unpacked > 2 * self.limits.unpacked_bytes:
            raise ImageError(
                f"it unpacks to more than {bytes_to_mib(unpacked)} MiB",
                hint="--max-unpacked raises the limit",
            )


def check_digest(path: Path, digest: str, what: str) -> None:
    """See whether a file has the digest that names it.

    :raises ImageError: it has not, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{what} cannot be read: {error.strerror}", hint=os_hint(error, what)) from error
    if found != digest:
        raise ImageError(f"{what} is damaged: its digest is {found}, not {digest}")


def apply_layer(tree: Tree, layer: Layer, account: Account, tick: Tick | None = None) -> None:
    """Read ``layer`` and put what it says into ``tree``.

    :param tick: told now and then how many bytes of the layer's file have been read.
    :raises ImageError: it is damaged, hostile or above a limit; the tree is of no use then.
    """
    try:
        tree.begin_layer()
        stream = _Unpacked(layer.path, account, tick)
        with stream, _open_tar(stream) as tar:
            number = -1
            end = 0
            while (member := tar.next()) is not None:
                number += 1
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                _apply(tree, member, layer.number, number, account)
                end = member.offset_data + (member.size if member.isreg() else 0)
            stream.drain()
            if stream.unpacked < end:
                raise ImageError(f"it ends after {stream.unpacked} bytes, in the middle of a file")
            if stream.diff_id() != layer.diff_id:
                raise ImageError(f"its content has the digest {stream.diff_id()}, not {layer.diff_id}")
    except ImageError as error:
        raise ImageError(f"{layer}: {error.message}", hint=error.hint) from error.__cause__
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
        raise ImageError(f"{layer} is no tar archive that can be read: {error}"[:300]) from error


def contents(layer: Layer, wanted: Mapping[int, Any]) -> Generator[tuple[int, IO[bytes]]]:
    """The content of the members of ``layer`` whose numbers are in ``wanted``, in their order.

    :raises ImageError: it cannot be read (any more).
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
        raise ImageError(f"{layer} cannot be read any more: {error}") from error


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
        raise ImageError(f"{show(path)} is of the type {member.type!r}, which no root has")
    if not (0 <= member.uid <= _MAX_ID and 0 <= member.gid <= _MAX_ID):
        raise ImageError(f"{show(path)} belongs to {member.uid}:{member.gid}, which no kernel knows")
    target = member.linkname.encode(errors="surrogateescape") if member.issym() else b""
    if member.issym() and not 0 < len(target.split(b"\0")[0]) == len(target) < 4096:
        raise ImageError(f"{show(path)} is a symbolic link to {show(target)}")
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
    """Headers within bounds, and an error where tarfile would take a damaged header for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedTarInfo:
        try:
            info = super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise ImageError(f"it has a damaged header ({error})") from error
        if info.type in _HEADERS and info.size > MAX_HEADER_BYTES:
            raise ImageError(f"it has a header of {info.size} bytes (at most {MAX_HEADER_BYTES})")
        if info.size < 0:
            raise ImageError(f"it has a file of {info.size} bytes")
        if info.type == tarfile.GNUTYPE_SPARSE:
            cls._refuse_sparse()
        return info

    @classmethod
    def _refuse_sparse(cls, *_: object) -> NoReturn:
        # A map of holes may take any amount of memory, and no tool that makes images writes one.
        raise ImageError("it has a sparse file (GNU tar --sparse), which no image builder makes")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _open_tar(stream: _Unpacked) -> tarfile.TarFile:
    tar: tarfile.TarFile = tarfile.open(  # noqa: SIM115  (whoever calls closes it)
        fileobj=stream,  # type: ignore[call-overload]
        mode="r|",
        tarinfo=BoundedTarInfo,
        bufsize=_PIECE_BYTES,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return tar


class _Unpacked:
    """A layer's file as the tar stream in it, whatever it is packed with; counted and hashed."""

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
        """The next piece, whatever its size; empty at the end."""
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
    """gzip, of one member or several, in pieces of bounded size."""
    unpacker = zlib.decompressobj(wbits=31)
    between, members = True, 0  # between two members, or before the first
    try:
        while data := file.read(_PIECE_BYTES):
            while True:
                if between and members:
                    data = data.lstrip(b"\0")  # writers may pad
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
        raise ImageError("its gzip stream is cut off")


def _unpack_zstd(file: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise missing_module(error, "it is packed with zstd and cannot be unpacked") from error

    unpacker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(file, read_across_frames=True, closefd=False) as reader:
            while piece := reader.read(_PIECE_BYTES):
                yield piece
    except zstandard.ZstdError as error:
        raise ImageError(f"its zstd stream is damaged: {error}") from error
