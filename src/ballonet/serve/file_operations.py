"""Operations on files in sandboxes, which are streamed in both directions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from starlette.responses import Response

from ballonet.base.dataclass import asdict
from ballonet.base.errors import GuestFileError
from ballonet.guest.files import FileInfo, GuestFiles
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.operations import BYTES, TAR, Call, Operation, Streamed, answer, nothing
from ballonet.serve.pieces import close_pieces
from ballonet.serve.problems import refused
from ballonet.serve.tokens import Scope

_AT = "/v1/sandboxes/{name}/files"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


async def _files(call: Call) -> GuestFiles:
    return (await call.services.box(call.name)).fs


async def _found(files: GuestFiles, path: str) -> FileInfo:
    info = await files.follow(path)
    if info is None:
        raise refused("not-found", f"{path!r} does not exist in the guest")
    return info


async def _read(call: Call) -> Streamed:
    files, path = await _files(call), call.query.path
    info = await _found(files, path)
    if info.kind == "directory":
        raise GuestFileError(
            f"{path!r} in the guest is a directory", hint="read it with /archive, or /files/list"
        )
    # Files of /proc say that they are empty.
    size = info.size if info.kind == "file" and info.size else None
    headers = {"Accept-Ranges": "bytes" if size else "none"}
    status, start, end = 200, 0, size
    # A file has no validator here, so that none in If-Range can match: then the whole file is sent (RFC 9110, 13.1.5).
    wanted = None if "if-range" in call.request.headers else call.request.headers.get("range")
    if wanted is not None and size is not None and (span := parse_range(wanted, size)) is not None:
        status, (start, end) = 206, span
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if end is not None:
        headers["Content-Length"] = str(end - start)
    return Streamed(_part(files.read_stream(path), start, end), BYTES, headers, status)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte that a ``Range`` header asks for, and the one after the last; ``None``: the whole file.

    :raises RequestRefusedError: the file has none of these bytes.
    """
    form = _RANGE.fullmatch(header.strip())
    if form is None or not (form[1] or form[2]):
        return None  # also several ranges: a server may answer with the whole (RFC 9110, section 14.2)
    if not form[1]:
        start, end = max(size - int(form[2]), 0), size
    else:
        start = int(form[1])
        end = min(int(form[2]) + 1, size) if form[2] else size
        if form[2] and int(form[2]) < start:
            return None
    if start >= end:
        raise refused("range", f"the file has {size} bytes", Content_Range=f"bytes */{size}")
    return start, end


async def _part(pieces: AsyncIterator[bytes], start: int, end: int | None) -> AsyncIterator[bytes]:
    """The bytes from ``start`` to ``end`` of a stream."""
    at = 0
    try:
        async for piece in pieces:
            last = len(piece) if end is None else min(len(piece), end - at)
            if (wanted := piece[max(start - at, 0) : last]) and last > 0:
                yield wanted
            at += len(piece)
            if end is not None and at >= end:
                return
        if end is not None and at < end:
            raise GuestFileError(f"the file was shortened to {at} bytes while it was read")
    finally:
        await close_pieces(pieces)


async def _write(call: Call) -> Response:
    files, query = await _files(call), call.query
    await files.write_stream(query.path, call.upload(), mode=int(query.mode, 8), parents=query.parents)
    return nothing()


async def _remove(call: Call) -> Response:
    await (await _files(call)).remove(call.query.path, recursive=call.query.recursive)
    return nothing()


async def _stat(call: Call) -> Response:
    return answer(_shown(await _found(await _files(call), call.query.path)))


async def _list(call: Call) -> Response:
    files = await _files(call)
    await _found(files, call.query.path)
    return answer([_shown(info) for info in await files.list(call.query.path)])


def _shown(info: FileInfo) -> dict[str, object]:
    # Names that are not UTF-8 have surrogates, which JSON cannot have.
    return {
        name: value.encode(errors="surrogateescape").decode(errors="replace")
        if isinstance(value, str)
        else value
        for name, value in asdict(info).items()
    }


async def _mkdir(call: Call) -> Response:
    await (await _files(call)).mkdir(call.body.path, parents=call.body.parents)
    return nothing()


async def _pack(call: Call) -> Streamed:
    files, path = await _files(call), call.query.path
    await _found(files, path)
    return Streamed(files.pack_stream(path), TAR)


async def _unpack(call: Call) -> Response:
    files = await _files(call)
    await files.unpack_stream(call.upload(), call.query.path)
    return nothing()


_ERRORS = {
    404: "there is no such sandbox, or no such file in it",
    409: "the sandbox is not running",
    422: "the guest refused this",
    503: "the sandbox is paused, and the host has no room to resume it",
}

OPERATIONS = [
    Operation(
        "GET",
        _AT,
        _read,
        Scope.USE,
        "Read a file",
        "Files are accessed as root. One range of bytes can be requested; with several, or with If-Range, the answer "
        "is the whole file.",
        query=take.PathQuery,
        result=BYTES,
        errors=_ERRORS | {206: "the requested part", 416: "the file has none of the requested bytes"},
        headers={"Range": "the part of the file to send, such as bytes=0-1023"},
    ),
    Operation(
        "PUT",
        _AT,
        _write,
        Scope.USE,
        "Write a file",
        "The file is replaced when all of it has arrived; otherwise it is not changed.",
        query=take.WriteQuery,
        body=BYTES,
        status=204,
        errors=_ERRORS,
    ),
    Operation(
        "DELETE",
        _AT,
        _remove,
        Scope.USE,
        "Remove a file or directory",
        query=take.DeleteFileQuery,
        status=204,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/stat",
        _stat,
        Scope.USE,
        "Describe a file; links are followed",
        query=take.PathQuery,
        result=results.File,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/list",
        _list,
        Scope.USE,
        "List a directory",
        query=take.PathQuery,
        result=list[results.File],
        errors=_ERRORS,
    ),
    Operation(
        "POST",
        f"{_AT}/mkdir",
        _mkdir,
        Scope.USE,
        "Create a directory",
        body=take.MkdirBody,
        status=204,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        "/v1/sandboxes/{name}/archive",
        _pack,
        Scope.USE,
        "Read a file or directory as a tar archive",
        query=take.PathQuery,
        result=TAR,
        errors=_ERRORS,
    ),
    Operation(
        "PUT",
        "/v1/sandboxes/{name}/archive",
        _unpack,
        Scope.USE,
        "Unpack a tar archive in a directory",
        "The archive may be compressed with gzip, bzip2 or xz.",
        query=take.PathQuery,
        body=TAR,
        status=204,
        errors=_ERRORS,
    ),
]
