"""The command ``ballonet``: finds the subcommand and runs it. Each lives in its own module, imported when used."""

from __future__ import annotations

try:
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
        missing_module,
        os_hint,
    )
    from ballonet.cli.commands import build_parser
except KeyboardInterrupt:  # while Python still reads us: an end as any other, and no traceback
    raise SystemExit(130) from None

#: Exit statuses of ballonet itself; a command's own status passes through (128+n when signal n killed it).
EXIT_USAGE = 2
EXIT_FAILED = 125
#: The command exists in the guest but cannot be run, or does not exist: as a shell and Docker say it.
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
#: The command was killed at its ``--timeout``: as timeout(1) says it.
EXIT_TIMEOUT = 124
#: As a shell says it of a program that SIGINT or SIGPIPE has ended.
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141
#: After a command's timeout, how long standard error may take the message (seconds).
_LAST_WORD_S = 0.5


def print_error(error: BallonetError) -> None:
    """Tell a person what happened, and what to do about it."""
    if isinstance(error, SettingError):
        from ballonet.settings.names import OPTIONS

        error = error.named(OPTIONS)  # what was typed
    print(f"ballonet: error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)


def status_of(error: BallonetError) -> int:
    """The exit status that tells a program as much as it can of ``error``."""
    if isinstance(error, GuestCommandError):
        return EXIT_NOT_FOUND if error.missing else EXIT_NOT_EXECUTABLE
    if isinstance(error, CommandTimeoutError):
        return EXIT_TIMEOUT
    return EXIT_USAGE if isinstance(error, ConfigError | BindError) else EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Never lets a traceback reach the user.

    :param argv: its words; by default those of the whole program, whose standard streams are then taken over.
    """
    try:
        return _main(argv)
    except KeyboardInterrupt:  # before the command has begun, or after it
        return EXIT_INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] == "sandbox":
        try:
            from ballonet.machine.main import (
                main as machine_main,  # hidden: no parser, no other command's weight
            )
        except ImportError as error:
            print_error(missing_module(error, "a sandbox's process cannot run"))
            return EXIT_FAILED
        return machine_main(words[1:])
    if argv is not None:
        return _guarded(words)
    from ballonet.cli import text_streams

    text_streams.take_over()
    try:
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what may stand at the cursor
            from ballonet.cli.complete import complete

            complete()
        status = _guarded(words)
    except SystemExit as end:  # argparse has printed what it had to say
        said = end.code if isinstance(end.code, int) else EXIT_USAGE
        status = _guarded([], lambda _: said)
    if status in (EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_FAILED):
        text_streams.drop_output()
    return status


def _guarded(words: list[str], work: Callable[[list[str]], int] | None = None) -> int:
    """Do the work, and write all that it has printed; tell what fails, and turn it into a status."""
    try:
        status = (work or _dispatch)(words)
        sys.stdout.flush()
        return status
    except CommandTimeoutError as error:
        from ballonet.cli.text_streams import takes_output

        # Whoever set a time must not wait for a reader of our messages that has stopped: the status says it, too.
        if takes_output(2, _LAST_WORD_S):
            print_error(error)
        return status_of(error)
    except BallonetError as error:
        print_error(error)
        return status_of(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE  # whoever read our output went away: nothing more can be said there
    except Exception as error:
        if (known := _of_the_host(error)) is not None:
            print_error(known)
            return EXIT_FAILED
        logging.getLogger(__name__).debug("internal error", exc_info=True)
        print(f"ballonet: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        print("  hint: this is a defect of ballonet; 'ballonet --debug …' shows where", file=sys.stderr)
        return EXIT_FAILED


def _of_the_host(error: Exception) -> BallonetError | None:
    """What the host lacks, where that is the cause: a package, room, a permission. ``None``: a defect of ours."""
    if isinstance(error, ImportError) and not (error.name or "ballonet").startswith("ballonet"):
        return missing_module(error, "this cannot be done")
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOENT and error.filename is None:  # getcwd(2)
            return HostError(
                "the current directory does not exist any more", hint="change to another directory first"
            )
        place = error.filename or "the output"
        return HostError(f"{place}: {error.strerror}", hint=os_hint(error, place))
    return None


def _dispatch(words: list[str]) -> int:
    parser = build_parser(next((word for word in words if not word.startswith("-")), None))
    options = parser.parse_args(words)
    level = logging.DEBUG if options.debug else logging.WARNING
    logging.basicConfig(level=level, format="ballonet: %(levelname)s: %(message)s")
    if options.command is None:
        parser.print_help()
        return 0
    status: int = options.run(options)
    return status
