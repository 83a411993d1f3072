"""The command line of ``ballonet``: finds the command, runs it, and turns its result into an exit status."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence

from ballonet.base.errors import (
    BallonetError,
    BindError,
    CommandTimeoutError,
    ConfigError,
    GuestCommandError,
    HostError,
    SettingError,
    os_hint,
)
from ballonet.base.garbage import collect_as_usual
from ballonet.base.missing_modules import missing_module

#: Exit statuses of ballonet itself; a guest command's own status is passed through (128+n if signal n killed it).
EXIT_USAGE = 2
EXIT_FAILED = 125
#: The guest command exists but cannot be executed, or does not exist: the convention of shells and Docker.
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
#: The guest command was killed at its ``--timeout``: the convention of timeout(1).
EXIT_TIMEOUT = 124
#: A shell's status for a program that SIGINT or SIGPIPE killed.
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141
#: Commands that start a sandbox, and options with which they do not: see :mod:`ballonet.machine.prepared_process`.
_STARTING, _NOT_STARTING = ("run", "start"), frozenset({"-h", "--help", "--dry-run"})
#: Commands with defaults in the user's configuration file.
_CONFIGURABLE = ("run", "create")
#: After a command's timeout, how long to wait until standard error accepts the message (seconds).
_LAST_WORD_S = 0.5


def print_error(error: BallonetError) -> None:
    """Print an error and its hint to standard error."""
    if isinstance(error, SettingError):
        from ballonet.settings.names import OPTIONS

        error = error.named(OPTIONS)  # name the option as it was typed
    print(f"ballonet: error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def status_of(error: BallonetError) -> int:
    """The exit status for ``error``."""
    if isinstance(error, GuestCommandError):
        return EXIT_NOT_FOUND if error.missing else EXIT_NOT_EXECUTABLE
    if isinstance(error, CommandTimeoutError) or error.code == "code-timeout":
        return EXIT_TIMEOUT
    return EXIT_USAGE if isinstance(error, ConfigError | BindError) else EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. The user never sees a traceback.

    :param argv: the command line without the program's name. By default this program's own; only then are its
        standard streams replaced.
    """
    try:
        return _main(argv)
    except KeyboardInterrupt:  # before the command has started, or after it
        return EXIT_INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].partition("=")[0] == "--cluster":
        return _on_cluster(words, own_streams=argv is None)
    command = next((word for word in words if not word.startswith("-")), None)
    if argv is None and command in (*_STARTING, "sandbox"):
        from ballonet.base.lean_asyncio import load_asyncio

        load_asyncio()
    if words and words[0] == "sandbox":
        try:
            from ballonet.machine.main import (
                main as machine_main,  # a hidden command, without the parser: the process stays small
            )
        except ImportError as error:
            print_error(missing_module(error, "the sandbox process cannot start"))
            return EXIT_FAILED
        return machine_main(words[1:])
    if argv is not None:
        return _guarded(words)
    if command in _STARTING and _NOT_STARTING.isdisjoint(words) and "_ARGCOMPLETE" not in os.environ:
        return _run_forked(words)
    return _run_program(words)


def _on_cluster(words: list[str], *, own_streams: bool) -> int:
    def work(words: list[str]) -> int:
        from ballonet.cli.on_cluster import main

        collect_as_usual()
        return main(words)

    if own_streams:
        from ballonet.cli import standard_streams

        standard_streams.take_over()
    return _guarded(words, work)


def _run_forked(words: list[str]) -> int:
    """Fork the process of the sandbox that the command will start, and run the command."""
    try:
        from ballonet.cli import standard_streams
        from ballonet.machine.launch import prepare
        from ballonet.machine.prepared_process import discard_prepared
    except ImportError:
        return _run_program(words)  # which reports it
    standard_streams.open_missing()  # else the child's connection would get one of these numbers
    prepare()
    try:
        return _run_program(words)
    finally:
        discard_prepared()


def _run_program(words: list[str]) -> int:
    from ballonet.cli import standard_streams

    standard_streams.take_over()
    try:
        if "_ARGCOMPLETE" in os.environ:  # called by a shell's completion
            from ballonet.cli.completers import complete

            complete()
        status = _guarded(words)
    except SystemExit as end:  # argparse has printed its output
        said = end.code if isinstance(end.code, int) else EXIT_USAGE
        status = _guarded([], lambda _: said)
    if status in (EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_FAILED):
        standard_streams.drop_output()
    return status


def _guarded(words: list[str], work: Callable[[list[str]], int] | None = None) -> int:
    """Run a command and flush its output. Errors are printed and turned into an exit status."""
    try:
        status = (work or _dispatch)(words)
        sys.stdout.flush()
        return status
    except CommandTimeoutError as error:
        from ballonet.cli.standard_streams import takes_output

        # A stalled reader of standard error must not prolong a timeout; the status is enough.
        if takes_output(2, _LAST_WORD_S):
            print_error(error)
        return status_of(error)
    except BallonetError as error:
        print_error(error)
        return status_of(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE  # the reader of standard output is gone
    except Exception as error:
        if (known := _of_the_host(error)) is not None:
            print_error(known)
            return EXIT_FAILED
        logging.getLogger(__name__).debug("internal error", exc_info=True)
        print(f"ballonet: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  hint: this is a bug in ballonet; 'ballonet --debug …' prints a traceback", file=sys.stderr)
        return EXIT_FAILED


def _of_the_host(error: Exception) -> BallonetError | None:
    """An error for a cause on the host: a missing package, a full disk, a permission. ``None``: a bug in ballonet."""
    if isinstance(error, ImportError) and not (error.name or "ballonet").startswith("ballonet"):
        return missing_module(error, "the command cannot run")
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOENT and error.filename is None:  # getcwd(2)
            return HostError("the current directory no longer exists", hint="change to another directory")
        place = error.filename or "the output"
        return HostError(f"{place}: {error.strerror}", hint=os_hint(error, place))
    return None


def _dispatch(words: list[str]) -> int:
    from ballonet.cli.commands import build_parser

    parser = build_parser(next((word for word in words if not word.startswith("-")), None))
    options = parser.parse_args(words)
    if options.command in _CONFIGURABLE:
        from ballonet.base.paths import config_file

        if (path := config_file()) is not None and path.exists():
            from ballonet.cli.config_file import with_config

            options = with_config(parser, words, options, path)
    level = logging.DEBUG if options.debug else logging.WARNING
    logging.basicConfig(level=level, format="ballonet: %(levelname)s: %(message)s")
    if options.command is None:
        parser.print_help()
        return 0
    collect_as_usual()
    status: int = options.run(options)
    return status
