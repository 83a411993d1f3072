"""``ballonet cp``: copy files between the host and a running sandbox, by the rules of ``docker cp``."""

from __future__ import annotations

import argparse
import asyncio
import os
import posixpath
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, HostError
from ballonet.cli.stdin_reader import check_stdin, read_stdin
from ballonet.cli.stdout_writer import write_stdout
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import check_name

_PIECE_BYTES = 64 << 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--archive", action="store_true", help="preserve user and group IDs")
    parser.add_argument(
        "-L", "--follow-link", action="store_true", help="if SOURCE is a symbolic link, copy its target"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no effect: progress is never shown (for compatibility)"
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="NAME:PATH in a sandbox, a path on the host, or - for a tar stream"
    )
    parser.add_argument(
        "target", metavar="TARGET", help="the same; exactly one of SOURCE and TARGET must be in a sandbox"
    )
    parser.epilog = (
        "If TARGET is an existing directory, SOURCE is copied into it; if SOURCE ends with /. (or is .), only its "
        "contents are. Otherwise TARGET is the name of the copy. Paths in a sandbox are relative to /. Use - as "
        "SOURCE to read a tar stream from standard input, or as TARGET to write one to standard output."
    )


@dataclass(frozen=True)
class _Source:
    """What is copied: the argument as typed, the name that the copy gets inside a directory (empty: only the contents
    are copied), and whether it is a directory."""

    typed: str
    name: str
    is_directory: bool


@dataclass(frozen=True)
class Place:
    """The path of the copy, or, with ``contents``, the directory that receives the source's contents."""

    path: str
    contents: bool


def place(source: _Source, target: str, kind: str | None, parent_is_there: bool, where: str) -> Place:
    """Where the copy goes, by the rules of ``docker cp``.

    :param kind: what ``target`` is, links followed: ``directory``, ``file`` for any other kind, ``None`` if it does
        not exist.
    :param where: names the side of ``target`` in error messages.
    :raises ConfigError: ``source`` cannot be copied there.
    """
    asserts_directory = target.endswith("/") or posixpath.basename(target) == "."
    if kind == "directory":
        if source.is_directory and not source.name:
            return Place(target, True)
        return Place(posixpath.join(target, source.name), False)
    if kind is not None:
        if source.is_directory:
            raise ConfigError(
                f"{source.typed!r} is a directory, and {target!r} {where} is a file: "
                "a directory cannot be copied to a file"
            )
        if asserts_directory:
            raise ConfigError(f"{target!r} {where} is a file and not a directory")
        return Place(target, False)
    if asserts_directory and not source.is_directory:
        raise ConfigError(
            f"directory {target!r} does not exist {where}", hint="create it, or omit the trailing slash"
        )
    bare = target.rstrip("/")
    while posixpath.basename(bare) == ".":
        bare = posixpath.dirname(bare).rstrip("/")
    if not parent_is_there:
        raise ConfigError(
            f"directory {posixpath.dirname(bare) or '/'!r} does not exist {where}",
            hint="create it first: cp does not create parent directories",
        )
    return Place(bare, False)


def run(options: argparse.Namespace) -> int:
    source, target = _split(options.source), _split(options.target)
    if (source is None) == (target is None):
        raise ConfigError(
            f"one of {options.source!r} and {options.target!r} must be in a sandbox, the other on the host",
            hint="write NAME:PATH for a path in a sandbox, and ./PATH for a host path that contains a colon",
        )
    if source is not None:
        return asyncio.run(_out(*source, options.target, options))
    assert target is not None
    return asyncio.run(_in(options.source, *target, options))


def _split(text: str) -> tuple[str, str] | None:
    """``NAME:PATH`` in its two parts; ``None`` for a path on the host."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name.startswith("."):
        return None
    check_name(name)
    return name, path or "/"


async def _in(source: str, name: str, path: str, options: argparse.Namespace) -> int:
    what = None
    if source == "-":
        check_stdin()
    else:
        what = _source_on_host(source, options.follow_link)
    path = "/" + path.lstrip("/")
    where = f"in sandbox {name!r}"
    async with await Sandbox.get(name) as sandbox:
        fs = sandbox.fs
        found = await fs.follow(path)
        if what is None:
            if found is None or found.kind != "directory":
                raise ConfigError(
                    f"directory {path!r} does not exist {where}",
                    hint="a tar stream can only be extracted into a directory",
                )
            await fs.unpack_stream(_stdin(), path)
            return 0
        kind = None if found is None else "directory" if found.kind == "directory" else "file"
        # Like cp(1), write through a symbolic link.
        resolved = path if kind == "directory" or path.endswith("/") else await fs.resolve(path)
        parent = kind is not None or await fs.is_directory(_above(resolved))
        to = place(what, resolved, kind, parent, where)
        if kind == "file" and found is not None and (found.kind != "file" or _is_kernels(to.path)):
            await fs.write_stream(to.path, _host_content(source))
            return 0
        follow = options.follow_link or source.endswith("/") or to.contents
        await fs.copy_in(source, to.path, contents=to.contents, follow=follow, owners=options.archive)
    return 0


def _source_on_host(source: str, follow: bool) -> _Source:
    base = posixpath.basename(source.rstrip("/"))
    try:
        # Not Path, which drops a trailing slash or dot: they follow a link, and are an error for a file.
        found = os.stat(source, follow_symlinks=follow)  # noqa: PTH116
    except FileNotFoundError as error:
        raise ConfigError(f"{source!r} does not exist on the host") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source!r} cannot be read: {getattr(error, 'strerror', error)}") from error
    if base == ".":
        base = ""
    elif base == "..":
        base = Path(source).resolve().name
    return _Source(source, base, stat.S_ISDIR(found.st_mode))


async def _out(name: str, path: str, target: str, options: argparse.Namespace) -> int:
    from ballonet.guest.files import last_part

    path = "/" + path.lstrip("/")
    async with await Sandbox.get(name) as sandbox:
        fs = sandbox.fs
        follow = options.follow_link or path.endswith("/")
        found = await fs.follow(path) if follow else await fs.stat(path)
        if found is None:
            found = await fs.stat(path)  # raises if nothing is there; a dangling link is copied as a link
            follow = False
        if path.endswith("/") and found.kind != "directory":
            raise ConfigError(f"{path!r} in sandbox {name!r} is not a directory")
        if target == "-":
            await _to_stdout(fs.pack_stream(path, follow=follow))
            return 0
        what = _Source(f"{name}:{path}", last_part(path), found.kind == "directory")
        to, is_device = _place_on_host(what, target)
        if is_device:
            await _to_device(fs.read_stream(path), Path(target))
            return 0
        await fs.copy_out(path, to.path, contents=to.contents, follow=follow, owners=options.archive)
    return 0


def _place_on_host(what: _Source, target: str) -> tuple[Place, bool]:
    """Where the copy goes on the host, and whether that is a device or a pipe."""
    at = Path(target)
    try:
        kind = "directory" if at.is_dir() else "file" if at.exists() else None
        is_device = kind == "file" and not at.is_file()
        # Like cp(1), write through a symbolic link. Links such as /dev/stdout may not lead to a path.
        follows = at.is_symlink() and not is_device and not target.endswith("/")
        here = str(at.resolve()) if follows else target
        parent_is_there = Path(_above(posixpath.join(str(Path.cwd()), here))).is_dir()
    except OSError as error:
        raise ConfigError(f"{target!r} cannot be accessed: {error.strerror}") from error
    except RuntimeError as error:
        raise ConfigError(f"{target!r} is a symbolic link that points to itself") from error
    return place(what, here, kind, parent_is_there, "on the host"), is_device


def _is_kernels(path: str) -> bool:
    """Whether a guest path is on a kernel file system: such files can be written, but not replaced."""
    return path.startswith(("/proc/", "/sys/"))


def _above(path: str) -> str:
    bare = path.rstrip("/")
    while posixpath.basename(bare) == ".":
        bare = posixpath.dirname(bare).rstrip("/")
    return posixpath.dirname(bare) or "/"


async def _to_stdout(stream: AsyncIterator[bytes]) -> None:
    async for piece in stream:
        try:
            await write_stdout(piece)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"standard output cannot be written: {error.strerror}") from error


async def _to_device(stream: AsyncIterator[bytes], here: Path) -> None:
    """Write to a device or a pipe, which must not be replaced by a file."""
    from ballonet.guest.archive import write_error

    try:
        with here.open("wb", buffering=0) as device:
            async for piece in stream:
                view = memoryview(piece)
                while view:
                    view = view[await asyncio.to_thread(os.write, device.fileno(), view) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise write_error(error, repr(str(here))) from error


async def _host_content(source: str) -> AsyncIterator[bytes]:
    try:
        with Path(source).open("rb", buffering=0) as file:
            while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                yield piece
    except OSError as error:
        raise ConfigError(f"{source!r} cannot be read: {error.strerror}") from error


async def _stdin() -> AsyncIterator[bytes]:
    while piece := await read_stdin():
        yield piece
