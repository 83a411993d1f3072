"""Tools that read, write and list files in a sandbox."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from mcp_types import ContentBlock
from msgspec import Meta, Struct

from ballonet.base.errors import ConfigError, GuestFileError
from ballonet.mcp.sandbox_tools import SandboxName
from ballonet.mcp.session import AgentSession
from ballonet.mcp.tools import ToolDefinition, as_json, picture, text

#: The most of a file in a result, and in a call (bytes).
MAX_READ_BYTES, MAX_WRITE_BYTES = 64 << 10, 3 << 20
#: The largest picture in a result (bytes), and how a PNG file begins.
_MAX_PICTURE_BYTES, _PNG = 4 << 20, b"\x89PNG\r\n\x1a\n"
_MAX_LISTED = 1000

Path = Annotated[str, Meta(description="Absolute path in the sandbox.", min_length=1, max_length=4096)]
Encoding = Literal["utf-8", "base64"]


class ReadFile(Struct, forbid_unknown_fields=True):
    """Read a file of a sandbox, as root: at most 64 KiB at once. With 'next_offset', read on from there. A file that is
    not UTF-8 comes as base64; a PNG file of at most 4 MiB, read from its beginning, comes as a picture."""

    path: Path
    sandbox: SandboxName = None
    offset: Annotated[int, Meta(description="Byte to begin at.", ge=0, le=1 << 50)] = 0
    limit: Annotated[int, Meta(description="Bytes to read.", ge=1, le=MAX_READ_BYTES)] = MAX_READ_BYTES


async def _read(session: AgentSession, given: ReadFile) -> Sequence[ContentBlock]:
    files = (await session.find(given.sandbox)).fs
    info = await files.follow(given.path)
    if info is None:
        raise GuestFileError(f"{given.path!r} does not exist in the sandbox", hint="see list_files")
    if info.kind == "directory":
        raise GuestFileError(f"{given.path!r} is a directory", hint="use list_files")
    content = await _span(files.read_stream(given.path), given.offset, given.limit + 1)
    if given.offset == 0 and content.startswith(_PNG) and info.size <= _MAX_PICTURE_BYTES:
        whole = await files.read(given.path, limit=_MAX_PICTURE_BYTES)
        return [as_json({"path": given.path, "size": len(whole), "encoding": "picture"}), picture(whole)]
    rest, content = content[given.limit :], content[: given.limit]
    content, said = _decoded(content, complete=not rest)
    facts: dict[str, Any] = {"path": given.path, "size": info.size, "offset": given.offset}
    facts["encoding"] = "base64" if said is None else "utf-8"
    if rest:
        facts["next_offset"] = given.offset + len(content)
    return [as_json(facts), text(base64.b64encode(content).decode() if said is None else said)]


def _decoded(content: bytes, *, complete: bool) -> tuple[bytes, str | None]:
    """What of the content is whole characters, and its text; all of it and ``None``, if it is not UTF-8."""
    try:
        return content, content.decode()
    except UnicodeDecodeError as error:
        if not complete and error.reason == "unexpected end of data" and error.start > 0:
            return content[: error.start], content[: error.start].decode()
        return content, None


async def _span(pieces: AsyncIterator[bytes], offset: int, limit: int) -> bytes:
    found, at = bytearray(), 0
    async with contextlib.aclosing(pieces) as stream:  # type: ignore[type-var]
        async for piece in stream:
            found += piece[max(offset - at, 0) :][: limit - len(found)]
            at += len(piece)
            if len(found) >= limit:
                break
    return bytes(found)


class WriteFile(Struct, forbid_unknown_fields=True):
    """Write a file of a sandbox, as root. An existing file is replaced, missing directories are created."""

    path: Path
    content: Annotated[str, Meta(description="The whole content.", max_length=4 << 20)]
    sandbox: SandboxName = None
    encoding: Annotated[Encoding, Meta(description="How 'content' is encoded.")] = "utf-8"
    executable: Annotated[bool, Meta(description="Make it executable.")] = False


async def _write(session: AgentSession, given: WriteFile) -> Sequence[ContentBlock]:
    try:
        if given.encoding == "base64":
            content = base64.b64decode(given.content, validate=True)
        else:
            content = given.content.encode()
    except ValueError as error:
        raise ConfigError(f"the content is not {given.encoding}: {error}") from None
    if len(content) > MAX_WRITE_BYTES:
        raise ConfigError(
            f"the content has {len(content)} bytes, more than {MAX_WRITE_BYTES}",
            hint="write it in several files",
        )
    box = await session.find(given.sandbox)
    mode = 0o755 if given.executable else 0o644
    await box.fs.write(given.path, content, mode=mode, parents=True)
    return [as_json({"path": given.path, "size": len(content)})]


class ListFiles(Struct, forbid_unknown_fields=True):
    """List a directory of a sandbox: name, kind, size in bytes, permissions. At most 1000 entries; with 'next_after',
    list on after that name."""

    path: Path = "/"
    sandbox: SandboxName = None
    after: Annotated[
        str, Meta(description="Only names after this one, in the order of their bytes.", max_length=4096)
    ] = ""


async def _list(session: AgentSession, given: ListFiles) -> Sequence[ContentBlock]:
    box = await session.find(given.sandbox)
    entries = [info for info in await box.fs.list(given.path) if info.name > given.after]
    facts: dict[str, Any] = {
        "path": given.path,
        "entries": [
            {"name": info.name, "kind": info.kind, "size": info.size, "mode": f"{info.mode:04o}"}
            for info in entries[:_MAX_LISTED]
        ],
    }
    if len(entries) > _MAX_LISTED:
        facts["next_after"] = entries[_MAX_LISTED - 1].name
    return [as_json(facts)]


TOOLS = [
    ToolDefinition("read_file", "Read a file", ReadFile, _read, read_only=True),
    ToolDefinition("write_file", "Write a file", WriteFile, _write, destructive=True),
    ToolDefinition("list_files", "List a directory", ListFiles, _list, read_only=True),
]
