"""Starting programs: the one place that does.

Argument lists only, standard input is nothing unless said otherwise, the environment is explicit, and the
command is logged at debug level. Errors name the program, its status and its last words, with a hint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ballonet.base.errors import HostError, ProcessError, os_hint

log = logging.getLogger(__name__)

#: How programs say that a disk is full, whatever else they say (strerror(3) of ENOSPC and EDQUOT).
_FULL_DISK = ("no space left on device", "disk quota exceeded")
#: Debian keeps administrative programs here; a plain user's PATH often lacks them.
_EXTRA_PATH = ("/usr/sbin", "/sbin")


def find_program(name: str, *, hint: str, search: Sequence[str] | None = None) -> Path:
    """The path of program ``name``. Entries of the search path that are not absolute are passed over.

    :param search: directories to look in; those of ``PATH`` and the administrator's by default.
    :raises HostError: it is not installed; ``hint`` says how to get it.
    """
    if search is None:
        search = (*os.environ.get("PATH", os.defpath).split(":"), *_EXTRA_PATH)
    # Not shutil.which: shutil brings archive modules along, which every sandbox's process would carry.
    for directory in search:
        path = Path(directory, name)
        with contextlib.suppress(
            OSError
        ):  # a directory that we may not enter: another user's, left on PATH by su
            if path.is_absolute() and path.is_file() and os.access(path, os.X_OK):
                return path
    raise HostError(f"{name} is not installed (not on PATH)", hint=hint)


def return_free_memory() -> None:
    """Give what this process has freed, mostly while loading its modules, back to the host (malloc_trim(3))."""
    import ctypes
    import gc

    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for helper programs: ours, with the messages in English, plus ``extra``."""
    return {**os.environ, "LC_ALL": "C.UTF-8", **(extra or {})}


def show_command(argv: Sequence[str | os.PathLike[str]]) -> str:
    """``argv`` as one line that a shell would read back the same."""
    return shlex.join(os.fspath(word) for word in argv)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    timeout_s: float = 120,
    env: Mapping[str, str] | None = None,
    input_text: str = "",
    hint: str | None = None,
    writes: Path | None = None,
) -> str:
    """Run a program to its end, with ``input_text`` as its standard input, and return its standard output.

    :param hint: what to do if it ran and failed. What to do if it is missing is for :func:`find_program` to say.
    :param writes: where it writes much: told if the file system there is full.
    :raises ProcessError: it could not be started, took longer than ``timeout_s``, or ended with another
        status than 0; the message has the end of what it wrote to standard error.
    """
    log.debug("run %s", show_command(argv))
    name = os.fspath(argv[0])
    try:
        done = subprocess.run(
            [os.fspath(word) for word in argv],
            cwd=cwd,
            input=input_text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=clean_environment(env),
            check=False,
        )
    except OSError as error:
        raise ProcessError(
            f"{name} could not be started: {error.strerror}", hint=os_hint(error, error.filename or name)
        ) from error
    except subprocess.TimeoutExpired as error:
        message = f"{name} did not finish within {timeout_s:g} s and was ended"
        raise ProcessError(message, hint=hint) from error
    if done.returncode != 0:
        last_words = done.stderr.strip()[-2000:] or "it wrote nothing to standard error"
        raise ProcessError(
            f"{name} ended with {show_status(done.returncode)}: {last_words}",
            hint=full_disk_hint(last_words, writes) or hint,
        )
    return done.stdout


def show_status(status: int) -> str:
    """How a program ended, for a person."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def full_disk_hint(words: str, where: Path | None) -> str | None:
    """What to do about a program that says that a disk is full; ``None`` if it says something else."""
    low = words.lower()
    if any(sign in low for sign in _FULL_DISK):
        return (
            f"make room on the file system of {where}"
            if where is not None
            else "make room on that file system"
        )
    return None


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    new_session: bool = False,
    die_with_parent: bool = False,
    cgroup_procs: str | None = None,
    in_child: Callable[[], None] | None = None,
    hint: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program and return at once. See :func:`wait_exit` for its end.

    :param new_session: its own session, so that Ctrl-C in our terminal does not reach it.
    :param die_with_parent: the kernel kills it (SIGKILL) when *this thread* ends, however that happens
        (``PR_SET_PDEATHSIG``, prctl(2)): call from the main thread only.
    :param cgroup_procs: a ``cgroup.procs`` file: the program starts as a member of that cgroup.
    :param in_child: called in the child before the program starts; a few system calls. What it raises keeps the
        program from starting.
    :raises ProcessError: it could not be started.
    """
    log.debug("spawn %s", show_command(argv))
    try:
        return subprocess.Popen(
            [os.fspath(word) for word in argv],
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=clean_environment(env),
            start_new_session=new_session,
            preexec_fn=_before_exec(die_with_parent, cgroup_procs, in_child),
        )
    except (OSError, subprocess.SubprocessError) as error:
        if isinstance(error, OSError):
            hint = os_hint(error, error.filename or argv[0]) or hint
        raise ProcessError(f"{os.fspath(argv[0])} could not be started: {error}", hint=hint) from error


def _before_exec(
    die_with_parent: bool, cgroup_procs: str | None, more: Callable[[], None] | None
) -> Callable[[], None] | None:
    """What the child does between fork and exec: a few system calls, prepared here."""
    if not die_with_parent and cgroup_procs is None:
        return more
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()
    pr_set_pdeathsig = 1

    def in_child() -> None:
        if more is not None:
            more()
        if cgroup_procs is not None:
            fd = os.open(cgroup_procs, os.O_WRONLY)
            os.write(fd, b"0")  # the writer itself, in both versions of cgroups
            os.close(fd)
        if die_with_parent and (
            libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent
        ):
            os._exit(125)  # the parent is gone already: nobody would ever end this process

    return in_child


async def wait_exit(child: subprocess.Popen[bytes]) -> int:
    """Wait for ``child`` without a thread and without polling (pidfd_open(2)); its status, or minus the signal."""
    loop = asyncio.get_running_loop()
    if (status := child.poll()) is not None:
        return status
    pidfd = os.pidfd_open(child.pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return child.wait()
