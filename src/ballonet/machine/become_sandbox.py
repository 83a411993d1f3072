"""Turns a forked process into the process of a sandbox, as if it were an interpreter of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn


def leave_parent(*kept: int) -> None:
    """A session of its own, /dev/null as standard streams, and no descriptor of the parent but ``kept``."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # numbers
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # one of them was that of the list itself
                os.close(int(name))


def become_sandbox(words: Sequence[str], env: Mapping[str, str], owner_fd: int) -> NoReturn:
    """Run the sandbox that a command line describes; raises :class:`SystemExit` in the end.

    :param words: the command line, as for another interpreter, which also /proc shows.
    :param env: the environment.
    :param owner_fd: the sandbox's end of the owner channel.
    """
    from ballonet.machine.main import main

    try:
        from ballonet.host.process_words import show_words

        shown = show_words(words, env)
    except Exception:  # /proc is not what it should be
        shown = False
    if not shown:
        os.set_inheritable(owner_fd, True)
        os.execve(words[0], list(words), dict(env))  # noqa: S606  # the same command line in another interpreter
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    for name in set(os.environ) - set(env):
        del os.environ[name]
    os.environ.update(env)
    raise SystemExit(main(words[words.index("sandbox") + 1 :]))
