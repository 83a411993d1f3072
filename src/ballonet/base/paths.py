"""The directories of ballonet, atomic writes and locks.

There are the cache, state and data directories and the run directory, which has one directory per running sandbox.
Directories follow the XDG Base Directory Specification 0.8. What is in them is decided elsewhere.
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

#: Bytes in ``sockaddr_un.sun_path`` (unix(7)), without the terminating NUL.
MAX_SOCKET_PATH_BYTES = 107

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """The cache directory: ``$XDG_CACHE_HOME/ballonet``, else ``~/.cache/ballonet``. Created on demand with mode 0700.

    Its content may be deleted at any time: it is created again.

    :param env: the environment to read; that of this process by default.
    :raises HostError: it cannot be created, or is not a directory of this user.
    """
    return _base_dir("XDG_CACHE_HOME", ".cache", env)


def config_file(env: Mapping[str, str] | None = None) -> Path | None:
    """The user's configuration file: ``$BALLONET_CONFIG``, else ``$XDG_CONFIG_HOME/ballonet/config.toml``, else
    ``~/.config/ballonet/config.toml``. It need not exist. ``None``: none, as ``$BALLONET_CONFIG`` is empty.
    """
    env = os.environ if env is None else env
    if (chosen := env.get("BALLONET_CONFIG")) is not None:
        return Path(chosen) if chosen else None
    base = _absolute(env.get("XDG_CONFIG_HOME")) or _home(env, "XDG_CONFIG_HOME") / ".config"
    return base / "ballonet" / "config.toml"


def state_dir(env: Mapping[str, str] | None = None) -> Path:
    """The state directory (the registry, and the logs and the disk of each sandbox): ``$XDG_STATE_HOME/ballonet``, else
    ``~/.local/state/ballonet``. Created on demand with mode 0700.

    :raises HostError: it cannot be created, or is not a directory of this user.
    """
    return _base_dir("XDG_STATE_HOME", ".local/state", env)


def data_dir(env: Mapping[str, str] | None = None) -> Path:
    """The data directory (images, named volumes): ``$XDG_DATA_HOME/ballonet``, else ``~/.local/share/ballonet``.
    Created on demand with mode 0700.

    :raises HostError: it cannot be created, or is not a directory of this user.
    """
    return _base_dir("XDG_DATA_HOME", ".local/share", env)


def run_dir(env: Mapping[str, str] | None = None) -> Path:
    """The run directory: the first of these that applies. Created on demand with mode 0700.

    1. ``$BALLONET_RUN_DIR`` itself;
    2. ``$XDG_RUNTIME_DIR/ballonet``, if that variable names an existing directory of this user (after ``su`` or
       ``sudo`` it may name another user's);
    3. ``/run/ballonet`` for root; ``/run/user/UID/ballonet`` if that parent exists and belongs to this user;
    4. ``/tmp/ballonet-UID``.

    :raises ConfigError: ``$BALLONET_RUN_DIR`` is not an absolute path.
    :raises HostError: it cannot be created, or is not a private directory of this user.
    """
    env = os.environ if env is None else env
    return private_dir(
        _run_dir_path(env, os.getuid()), hint="set BALLONET_RUN_DIR to a directory that you own"
    )


def sandbox_dir(name: str, env: Mapping[str, str] | None = None) -> Path:
    """The directory of the sandbox ``name`` inside :func:`run_dir`; it is not created.

    :raises ConfigError: ``name`` is not a plain file name.
    """
    run_dir(env)
    return sandbox_dir_path(name, env)


def sandbox_dir_path(name: str, env: Mapping[str, str] | None = None) -> Path:
    """As :func:`sandbox_dir`, but does not create the run directory either."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ConfigError(f"sandbox name {name!r} cannot be used as a directory name")
    return _run_dir_path(os.environ if env is None else env, os.getuid()) / name


def fallback_run_dirs() -> list[Path]:
    """Where a sandbox puts its sockets if its run directory cannot be created again, as after a logout that removed
    ``/run/user/UID``: the default run directory, ignoring the environment, then ``/tmp/ballonet-UID``."""
    uid = os.getuid()
    found = [_run_dir_path({}, uid), Path("/tmp") / f"ballonet-{uid}"]  # noqa: S108  # checked by private_dir
    return list(dict.fromkeys(found))


def state_dir_of(name: str) -> Path:
    """The state directory of the sandbox ``name``: its status files, logs and disk. It is not created."""
    return state_dir() / "sandboxes" / name


def private_dir(path: Path, *, hint: str | None = None) -> Path:
    """Create ``path`` and its parents if needed, and make sure that only this user can use it.

    A directory of this user that others may enter gets mode 0700. Anything else is refused and not changed: a symbolic
    link or another user's directory could give others access to the sockets.

    :raises HostError: it cannot be created, is a symbolic link or no directory, or belongs to another user.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass  # checked below
    except OSError as error:
        raise HostError(
            f"directory {path} cannot be created: {error.strerror}", hint=_hint_for(error, path, hint)
        ) from error
    # Through one descriptor, so that the directory that is checked is the one that is changed.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        found = "is a symbolic link" if path.is_symlink() else f"cannot be used: {error.strerror}"
        raise HostError(f"directory {path} {found}", hint=_hint_for(error, path, hint)) from error
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise HostError(f"directory {path} belongs to user {status.st_uid}, not to you", hint=hint)
        if status.st_mode & _OTHERS:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)
    return path


def _hint_for(error: OSError, path: Path, otherwise: str | None) -> str | None:
    """Another directory helps if permission is denied; if the disk is full, free space does."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and otherwise is not None:
        return otherwise
    return os_hint(error, path) or otherwise


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write ``content`` to ``path`` atomically: a reader, even after a power failure, sees all of it or the old file.

    :param durable: wait for the disk (fsync). Turn it off for files that are written often: a power failure may then
        leave an empty file.
    :raises HostError: it cannot be written (permission denied, disk full).
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


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``lock_file``, among threads and processes, during the ``with`` block.

    The file is not removed: that would let two processes hold the lock. The kernel releases it when its holder ends.

    :raises HostError: the lock file cannot be opened.
    """
    with _locked(lock_file, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def shared(lock_file: Path) -> Iterator[None]:
    """Hold a shared lock on ``lock_file``. See :func:`exclusive`."""
    with _locked(lock_file, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def exclusive_if_free(lock_file: Path) -> Iterator[bool]:
    """Hold an exclusive lock if it is free, without waiting; yields whether it is held. See :func:`exclusive`."""
    try:
        with _locked(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


def open_lock_file(path: Path) -> int:
    """A descriptor of a lock file, created if it is missing.

    :raises HostError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            f"lock file {path} cannot be opened: {error.strerror}", hint=os_hint(error, path)
        ) from error


@contextlib.contextmanager
def _locked(lock_file: Path, operation: int) -> Iterator[None]:
    fd = open_lock_file(lock_file)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        # A child that another thread forked meanwhile shares the lock: closing the descriptor would not release it.
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
    return private_dir(base / "ballonet", hint=f"set {variable} to a directory that you own")


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
