"""Starts programs. No other module does.

Commands are argument lists, standard input is ``/dev/null`` unless given, the environment is explicit, and the command
is logged at debug level. Errors name the program, its exit status and the end of its error output, with a hint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from ballonet.base.errors import HostError, ProcessError, os_hint

log = logging.getLogger(__name__)

#: How programs report a full disk (strerror(3) of ENOSPC and EDQUOT).
_FULL_DISK = ("no space left on device", "disk quota exceeded")
#: Debian has administrative programs here. A plain user's PATH often lacks these directories.
_EXTRA_PATH = ("/usr/sbin", "/sbin")


def find_program(name: str, *, hint: str, search: Sequence[str] | None = None) -> Path:
    """The path of program ``name``. Relative entries of the search path are skipped.

    :param search: directories to search; by default those of ``PATH``, ``/usr/sbin`` and ``/sbin``.
    :raises HostError: it is not installed; ``hint`` says how to get it.
    """
    if search is None:
        search = (*os.environ.get("PATH", os.defpath).split(":"), *_EXTRA_PATH)
    # Not shutil.which: shutil loads archive modules, which would cost memory in every sandbox's process.
    for directory in search:
        path = Path(directory, name)
        with contextlib.suppress(
            OSError
        ):  # a directory without permission: another user's, left on PATH by su
            if path.is_absolute() and path.is_file() and os.access(path, os.X_OK):
                return path
    raise HostError(f"{name} is not installed (not on PATH)", hint=hint)


def return_free_memory() -> None:
    """Return memory that this process has freed, mostly after loading its modules, to the host (malloc_trim(3))."""
    import ctypes
    import gc

    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for helper programs: that of this process, with messages in English, and ``extra``."""
    return {**os.environ, "LC_ALL": "C.UTF-8", **(extra or {})}


def show_command(argv: Sequence[str | os.PathLike[str]]) -> str:
    """``argv`` as one line, quoted for a shell."""
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

    :param hint: what to do if it fails. What to do if it is missing is up to :func:`find_program`.
    :param writes: where it writes much data: named in the hint if that file system is full.
    :raises ProcessError: it could not be started, exceeded ``timeout_s``, or exited with another status than 0. The
        message has the end of its standard error.
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
        message = f"{name} did not finish within {timeout_s:g} s and was killed"
        raise ProcessError(message, hint=hint) from error
    if done.returncode != 0:
        last_words = done.stderr.strip()[-2000:] or "it wrote nothing to standard error"
        raise ProcessError(
            f"{name} exited with {show_status(done.returncode)}: {last_words}",
            hint=full_disk_hint(last_words, writes) or hint,
        )
    return done.stdout


def show_status(status: int) -> str:
    """The exit status of a program, for a person."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def full_disk_hint(words: str, where: Path | None) -> str | None:
    """What to do if the program's output reports a full disk; ``None`` if it does not."""
    low = words.lower()
    if any(sign in low for sign in _FULL_DISK):
        return (
            f"free up space on the file system of {where}"
            if where is not None
            else "free up space on that file system"
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
    cgroup_procs: Sequence[str] = (),
    in_child: Callable[[], None] | None = None,
    hint: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program and return at once. See :func:`wait_exit` for its end.

    :param new_session: run it in a session of its own, so that Ctrl-C in this terminal does not reach it.
    :param die_with_parent: the kernel kills it (SIGKILL) when *this thread* ends for whatever reason
        (``PR_SET_PDEATHSIG``, prctl(2)): call this from the main thread only.
    :param cgroup_procs: ``cgroup.procs`` files: the program starts as a member of these cgroups.
    :param in_child: called in the child before the program is executed; it may only make system calls. If it raises,
        the program is not started.
    :raises ProcessError: it could not be started.
    """
    log.debug("spawn %s", show_command(argv))
    before_exec = _before_exec(die_with_parent, cgroup_procs, in_child)
    reason = -1
    try:
        if before_exec is not None:
            reason = os.memfd_create("reason")
        return subprocess.Popen(
            [os.fspath(word) for word in argv],
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=clean_environment(env),
            start_new_session=new_session,
            preexec_fn=None if before_exec is None else partial(_call_and_tell, before_exec, reason),
        )
    except (OSError, subprocess.SubprocessError) as error:
        if isinstance(error, OSError):
            hint = os_hint(error, error.filename or argv[0]) or hint
        said = "" if reason < 0 else os.pread(reason, 4096, 0).decode(errors="replace")
        raise ProcessError(
            f"{os.fspath(argv[0])} could not be started: {said or error}", hint=hint
        ) from error
    finally:
        if reason >= 0:
            os.close(reason)


def _call_and_tell(call: Callable[[], None], reason: int) -> None:
    """In the child: of an exception, Popen passes on nothing but that there was one."""
    try:
        call()
    except BaseException as error:
        os.write(reason, str(error).encode(errors="replace"))
        raise


@contextlib.contextmanager
def group_ends_with_parent(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """If this process ends in the ``with`` block for whatever reason, ``child`` and what it has started get SIGTERM.

    For a program that has to clean up, and whose own children the signal of ``die_with_parent`` would not reach.

    :param child: it was started with ``new_session``.
    :raises ProcessError: the shell that waits for this process's end could not be started.
    """
    far, near = os.pipe()
    with os.fdopen(near, "wb"):  # closed by the kernel if this process is killed
        try:
            script = f"read -r _; kill -TERM -{child.pid}"
            guard = spawn(["/bin/sh", "-c", script], stdin=far, stderr=subprocess.DEVNULL, new_session=True)
        finally:
            os.close(far)
        try:
            yield
        finally:
            guard.kill()
            guard.wait()


def _before_exec(
    die_with_parent: bool, cgroup_procs: Sequence[str], more: Callable[[], None] | None
) -> Callable[[], None] | None:
    """What the child does between fork and exec: system calls, prepared here."""
    if not die_with_parent and not cgroup_procs:
        return more
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()
    pr_set_pdeathsig = 1

    def in_child() -> None:
        for path in cgroup_procs:  # first: the next step may take away the right to do that
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"0")  # the writer itself, in both versions of cgroups
            os.close(fd)
        if more is not None:
            more()
        if die_with_parent and (
            libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent
        ):
            os._exit(125)  # the parent is gone already: nothing would end this process

    return in_child


class Child(Protocol):
    """What a program needs of a child process: the part of :class:`subprocess.Popen` that is used."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


async def wait_exit(child: Child) -> int:
    """Wait for ``child`` without a thread and without polling (pidfd_open(2)); its status, or minus the signal."""
    import asyncio  # not loaded by commands that wait for nothing

    loop = asyncio.get_running_loop()
    if (status := child.poll()) is not None:
        return status
    # One that is not a child of this process has one already: its number may be used again.
    known: int | None = getattr(child, "pidfd", None)
    pidfd = os.pidfd_open(child.pid) if known is None else os.dup(known)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return child.wait()
