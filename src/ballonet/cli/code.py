"""``ballonet code``: run code in a session of a sandbox, which keeps its variables if it has a name."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ballonet.base.errors import ConfigError, os_hint
from ballonet.cli.caught_signals import CaughtSignals, SignalledError
from ballonet.cli.code_options import add_code_options
from ballonet.cli.command_options import parse_env, timeout_from
from ballonet.cli.stdin_reader import check_stdin, read_stdin
from ballonet.cli.stdout_writer import write_stdout
from ballonet.guest.code.languages import language_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from typing import Any

    from ballonet.sdk.code_result import CodeEvent
    from ballonet.sdk.code_session import CodeSession
    from ballonet.sdk.timeouts import Timeout

#: Pictures that --pictures writes; if there are several forms of one, the first.
_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
_EPILOG = """\
The value of the last expression is printed after the output of the code.
Without --session, the session ends with the command. With it, the session
is started if there is none of that name, and keeps its variables.

Exit status: 0, or 1 if the code raised an exception; in a shell, that of the
last command; 2 for bad usage, 124 if the code was interrupted at its
--timeout, 125 if ballonet failed or the session ended, 127 if the sandbox
does not have the language."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_code_options(parser)
    parser.add_argument("--pictures", metavar="DIR", help="write pictures to this directory: 1.png, 2.png, …")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    language_of(options.lang)
    timeout, env = timeout_from(options), parse_env(options.env)
    pictures = None if options.pictures is None else _Pictures(options.pictures)
    code = None if options.file == "-" else read_code(options.file)
    if code is None:
        check_stdin()
    with CaughtSignals() as signals:
        try:
            return asyncio.run(signals.unless_signalled(_run(options, code, env, timeout, pictures)))
        except SignalledError as signalled:
            return 128 + signalled.number


def read_code(name: str) -> str:
    try:
        return Path(name).read_text()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}", hint=os_hint(error, name)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text: {error.reason}") from error


async def _read_input() -> str:
    parts = bytearray()
    while piece := await read_stdin():
        parts += piece
    return decoded_input(parts)


def decoded_input(code: bytes | bytearray) -> str:
    """:raises ConfigError: the code on standard input is not UTF-8."""
    try:
        return code.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8 text: {error.reason}") from error


class _Pictures:
    """Writes pictures to a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._count = 0
        if not self._directory.is_dir():
            raise ConfigError(f"--pictures {directory!r} is not a directory", hint="create it first")

    def save(self, data: Mapping[str, Any]) -> None:
        for mime, suffix in _SUFFIXES.items():
            if mime in data:
                self._count += 1
                content = data[mime]
                path = self._directory / f"{self._count}.{suffix}"
                path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
                return


async def _run(
    options: argparse.Namespace,
    code: str | None,
    env: Mapping[str, str],
    timeout: Timeout | None,
    pictures: _Pictures | None,
) -> int:
    from ballonet.sdk.sandbox import Sandbox

    if code is None:
        code = await _read_input()
    async with await Sandbox.get(options.name) as sandbox:
        session = await sandbox.code(
            options.lang, session=options.session, env=env, cwd=options.workdir, user=options.user
        )
        try:
            return await _print(session, code, timeout, pictures)
        finally:
            if options.session is None or options.close:
                await session.close()


async def _print(session: CodeSession, code: str, timeout: Timeout | None, pictures: _Pictures | None) -> int:
    status = 0
    seconds = None if timeout is None else timeout.seconds
    if seconds is not None and seconds.is_integer():
        seconds = int(seconds)  # as it was typed
    events = session.stream(code, timeout=seconds)
    async with contextlib.aclosing(cast("AsyncGenerator[CodeEvent]", events)):
        async for event in events:
            if event.kind == "end":
                status = status_of(event)
                continue
            fd, text = output_of(event)
            await write_stdout(text, fd)
            if pictures is not None and fd == 1:
                pictures.save(event.data)
    return status


def status_of(end: CodeEvent) -> int:
    return end.exit_status or (0 if end.error is None else 1)


def output_of(event: CodeEvent) -> tuple[int, bytes]:
    """The descriptor and the text for an event other than the end."""
    if event.kind == "stderr":
        return 2, _bytes(event.text)
    if event.kind == "error" and event.error is not None:
        return 2, _bytes(event.error.traceback.rstrip("\n") + "\n")
    if event.kind == "stdout":
        return 1, _bytes(event.text)
    text = str(event.data.get("text/plain", ""))
    return 1, _bytes(text if not text or text.endswith("\n") else text + "\n")


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
