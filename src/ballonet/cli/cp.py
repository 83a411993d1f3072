"""``ballonet cp``: copy files between the host and a sandbox that runs."""

from __future__ import annotations

import argparse
import asyncio
import os
import posixpath
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from ballonet.config import check_name
from ballonet.errors import ConfigError
from ballonet.sandbox import Sandbox

_PIECE_BYTES = 64 << 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="NAME:PATH in a sandbox, or a path here, or - for a tar stream"
    )
    parser.add_argument("target", metavar="TARGET", help="likewise; one of the two is in a sandbox")
    parser.epilog = (
        "A target that is a directory gets the source in it; otherwise the target is the new name. With - as the "
        "other side, a tar stream is read from standard input or written to standard output."
    )


def run(options: argparse.Namespace) -> int:
    source, target = _split(options.source), _split(options.target)
    if (source is None) == (target is None):
        raise ConfigError(
            f"one of {options.source!r} and {options.target!r} must be in a sandbox, and one here",
            hint="write NAME:PATH for a path in a sandbox; a path here that has a colon begins with ./",
        )
    if source is not None:
        return asyncio.run(_out(*source, options.target))
    assert target is not None
    return asyncio.run(_in(options.source, *target))


def _split(text: str) -> tuple[str, str] | None:
    """``NAME:PATH``; ``None`` for a path here."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name.startswith("."):
        return None
    check_name(name)
    return name, path or "/"


async def _in(source: str, name: str, path: str) -> int:
    here = Path(source)
    if source != "-" and not (here.exists() or here.is_symlink()):
        raise ConfigError(f"there is no {source!r} here")
    async with await Sandbox.get(name) as sandbox:
        if source == "-":
            await sandbox.fs.unpack_stream(_stdin(), path)
            return 0
        if await sandbox.fs.is_directory(path):
            path = posixpath.join(path, here.name or here.resolve().name)
        elif path.endswith("/"):
            raise ConfigError(f"there is no directory {path!r} in sandbox {name!r}")
        await sandbox.fs.copy_in(here, path)
    return 0


async def _out(name: str, path: str, target: str) -> int:
    async with await Sandbox.get(name) as sandbox:
        if target == "-":
            async for piece in sandbox.fs.pack_stream(path):
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            return 0
        here = Path(target)
        if here.is_dir():
            here = here.resolve() / (posixpath.basename(path.rstrip("/")) or name)
        elif target.endswith("/") or not here.parent.is_dir():
            raise ConfigError(
                f"there is no directory {target if target.endswith('/') else str(here.parent)!r} here"
            )
        await sandbox.fs.copy_out(path, here)
    return 0


async def _stdin() -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(os.read, 0, _PIECE_BYTES):
        yield piece
