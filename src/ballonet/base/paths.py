"""Where ballonet keeps its files, and how a file there comes to be: whole, or not at all.

Knows the cache, state and data directories and the run directory (one directory per running sandbox).
Directories follow the XDG Base Directory Specification 0.8. Never decides what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ballonet.base.errors import ConfigError, HostError, os_hint

#: Bytes in ``sockaddr_un.sun_path`` (unix(7)), its end excluded.
MAX_SOCKET_PATH_BYTES = 107

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """The cache directory: ``$XDG_CACHE_HOME/ballonet``, else ``~/.cache/ballonet``; made on demand, mode 0700.

    What is in it can be made again: it may be deleted at any time.

    :param env: the environment to read; the process's own by default.
    :raises HostError: it cannot be made, or is not a directory of ours.
    """
    return _base_dir("XDG_CACHE_HOME", ".cache", env)


def state_dir(env: Mapping[str, str] | None = None) -> Path:
    """The state directory (the registry, each kept sandbox's logs and disk): ``$XDG_STATE_HOME/ballonet``, else
    ``~/.local/state/ballonet``; made on demand, mode 0700.

    :raises HostError: it cannot be made, or is not a directory of ours.
    """
    return _base_dir("XDG_STATE_HOME", ".local/state", env)


def data_dir(env: Mapping[str, str] | None = None) -> Path:
    """The data directory (images, named volumes): ``$XDG_DATA_HOME/ballonet``, else ``~/.local/share/ballonet``;
    made on demand, mode 0700.

    :raises HostError: it cannot be made, or is not a directory of ours.
    """
    return _base_dir("XDG_DATA_HOME", ".local/share", env)


def run_dir(env: Mapping[str, str] | None = None) -> Path:
    """The run directory, the first that applies, made on demand with mode 0700.

    1. ``$BALLONET_RUN_DIR`` itself;
    2. ``$XDG_RUNTIME_DIR/ballonet``, where that variable names an existing directory of ours (``su`` and
       ``sudo`` may leave another user's there);
    3. ``/run/ballonet`` for root; ``/run/user/UID/ballonet`` where that parent exists and is ours;
    4. ``/tmp/ballonet-UID``.

    :raises ConfigError: ``$BALLONET_RUN_DIR`` is not an absolute path.
    :raises HostError: it cannot be made, or what is there is not a directory of ours that only we can use.
    """
    env = os.environ if env is None else env
    return private_dir(
        _run_dir_path(env, os.getuid()), hint="set BALLONET_RUN_DIR to a directory that is yours"
    )


def sandbox_dir(name: str, env: Mapping[str, str] | None = None) -> Path:
    """The directory of the sandbox ``name`` inside :func:`run_dir`; not made here.

    :raises ConfigError: ``name`` would not be one plain entry of the run directory.
    """
    run_dir(env)
    return sandbox_dir_path(name, env)


def sandbox_dir_path(name: str, env: Mapping[str, str] | None = None) -> Path:
    """As :func:`sandbox_dir`, but the run directory is not made either: only its path is wanted."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ConfigError(f"sandbox name {name!r} cannot be the name of a directory")
    return _run_dir_path(os.environ if env is None else env, os.getuid()) / name


def fallback_run_dirs() -> list[Path]:
    """Where a sandbox can have its sockets when its own run directory cannot be made any more, as after a logout that
    took ``/run/user/UID`` away: the run directory without the variables that name one, then ``/tmp/ballonet-UID``."""
    uid = os.getuid()
    found = [_run_dir_path({}, uid), Path("/tmp") / f"ballonet-{uid}"]  # noqa: S108  # judged by private_dir
    return list(dict.fromkeys(found))


def state_dir_of(name: str) -> Path:
    """The state directory of the sandbox ``name``: its notes, its logs, its disk; not made here."""
    return state_dir() / "sandboxes" / name


def private_dir(path: Path, *, hint: str | None = None) -> Path:
    """Make ``path`` (and its parents) if need be, and see to it that only we can use it.

    A directory of ours whose mode lets others in is closed (0700); anything else there is refused and left
    alone: a symbolic link or another user's directory could hand our sockets to somebody else.

    :raises HostError: it cannot be made, is a symbolic link, not a directory, or owned by another user.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass  # what is there is judged below
    except OSError as error:
        raise HostError(
            f"directory {path} cannot be made: {error.strerror}", hint=_hint_for(error, path, hint)
        ) from error
    # Judged through one descriptor, so that what is checked is also what is changed.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        found = "is a symbolic link" if path.is_symlink() else f"cannot be used: {error.strerror}"
        raise HostError(f"directory {path} {found}", hint=_hint_for(error, path, hint)) from error
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise HostError(f"directory {path} belongs to user {status.st_uid}, not to us", hint=hint)
        if status.st_mode & _OTHERS:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
    return path


def _hint_for(error: OSError, path: Path, otherwise: str | None) -> str | None:
    """Another directory helps against a lack of permission, but where the disk is full, room is what is wanted."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and otherwise is not None:
        return otherwise
    return os_hint(error, path) or otherwise


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write ``content`` to ``path`` so that a reader, even after a power cut, sees all of it or the old file.

    :param durable: wait for the disk. Without, what is written often and soon old costs no disk anything, and a
        power cut may leave an empty file.
    :raises HostError: it cannot be written (permission, full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path)) from error


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold ``lock_file`` alone, among threads and processes, for the time of the ``with`` block; waits its turn.

    The file stays (removing it would let two holders in); the kernel releases the lock when its holder dies.

    :raises HostError: the lock file cannot be opened.
    """
    with _locked(lock_file, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def shared(lock_file: Path) -> Iterator[None]:
    """Hold ``lock_file`` with others who share it, while nobody holds it alone. See :func:`exclusive`."""
    with _locked(lock_file, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def exclusive_if_free(lock_file: Path) -> Iterator[bool]:
    """Hold ``lock_file`` alone if nobody has it, without waiting; whether that is so. See :func:`exclusive`."""
    try:
        with _locked(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


@contextlib.contextmanager
def _locked(lock_file: Path, operation: int) -> Iterator[None]:
    try:
        fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            f"lock file {lock_file} cannot be opened: {error.strerror}", hint=os_hint(error, lock_file)
        ) from error
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        # A child that another thread has forked meanwhile holds the same lock: closing ours would not release it.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _run_dir_path(env: Mapping[str, str], uid: int, root: Path = Path("/")) -> Path:
    chosen = env.get("BALLONET_RUN_DIR")
    if chosen:
        path = _absolute(chosen)
        if path is None:
            raise ConfigError(f"BALLONET_RUN_DIR is {chosen!r}, not an absolute path")
        return path
    runtime = _absolute(env.get("XDG_RUNTIME_DIR"))
    if runtime is not None and _owned_directory(runtime, uid):
        return runtime / "ballonet"
    if uid == 0:
        return root / "run/ballonet"
    user = root / "run/user" / str(uid)
    return user / "ballonet" if _owned_directory(user, uid) else root / "tmp" / f"ballonet-{uid}"


def _base_dir(variable: str, below_home: str, env: Mapping[str, str] | None) -> Path:
    env = os.environ if env is None else env
    base = _absolute(env.get(variable)) or _home(env, variable) / below_home
    return private_dir(base / "ballonet", hint=f"set {variable} to a directory that is yours")


def _absolute(text: str | None) -> Path | None:
    # The XDG specification has relative paths ignored, like unset ones.
    return Path(text) if text and text.startswith("/") else None


def _owned_directory(path: Path, uid: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _home(env: Mapping[str, str], variable: str) -> Path:
    home = _absolute(env.get("HOME"))
    if home is not None:
        return home
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise HostError(f"user {os.getuid()} has no home directory", hint=f"set HOME or {variable}") from None
