"""Binds a Unix socket safely, and removes it.

The server holds a lock file beside the socket (``PATH.lock``) while it runs. A socket whose lock is held is *live*; one
whose lock is free and that refuses connections is *stale* and is replaced. Only sockets are ever deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import BindError, BusyError, ConfigError
from ballonet.base.paths import MAX_SOCKET_PATH_BYTES

log = logging.getLogger(__name__)

#: Length of the kernel's queue of connections; further clients wait in ``connect``.
_BACKLOG = 512

#: The beginning of a lock file. Any other file is left alone.
_LOCK_MARK = b"ballonet "

_LOCK_ATTEMPTS = 16


@dataclass(frozen=True)
class _Inode:
    device: int
    number: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Inode:
        return cls(status.st_dev, status.st_ino)

    @classmethod
    def at(cls, path: Path) -> _Inode | None:
        try:
            return cls.of(path.lstat())
        except OSError:
            return None


def path_problem(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Why no socket can be bound at ``path``, as (cause, hint), or ``None``. Changes nothing."""
    name = os.fspath(path)
    if not name:
        return "the path is empty", "specify a path such as /run/user/1000/vm.sock"
    if "\0" in name:
        return "the path contains a NUL byte", "specify another path"
    length = len(os.fsencode(name))
    if length > MAX_SOCKET_PATH_BYTES:
        return (
            f"the path has {length} bytes; the maximum for a Unix socket is {MAX_SOCKET_PATH_BYTES}",
            "choose a shorter path",
        )
    parent = Path(name).parent
    try:
        if not stat.S_ISDIR(parent.stat().st_mode):
            return f"{parent} is not a directory", "choose another directory"
    except FileNotFoundError:
        return f"the directory {parent} does not exist", "create it first, with mode 0700"
    except OSError as error:
        return f"the directory {parent} cannot be used: {error.strerror}", "choose another directory"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"the directory {parent} is not writable", "choose a directory that you own"
    return _occupant_problem(Path(name))


def _occupant_problem(path: Path) -> tuple[str, str] | None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"the path cannot be checked: {error.strerror}", "choose another path"
    if stat.S_ISSOCK(mode):
        return None
    kind = (
        "a symbolic link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "not a socket"
    )
    return f"the path is {kind}; it was left alone", "remove it or choose another path"


def _absolute(path: str | os.PathLike[str]) -> str:
    """The absolute path, which a later change of directory does not affect; an empty path stays empty."""
    name = os.fspath(path)
    return str(Path(name).absolute()) if name else ""


def check_socket_path(path: str | os.PathLike[str]) -> None:
    """Check a path before binding, for the command line.

    :raises ConfigError: see :func:`path_problem`.
    """
    problem = path_problem(_absolute(path))
    if problem is not None:
        cause, hint = problem
        raise ConfigError(f"the control socket {os.fspath(path)!r} cannot be used: {cause}", hint=hint)


class ControlSocket:
    """A listening Unix socket, its file and its lock. Created by :func:`bind_control_socket`."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        self.lock_path = path.with_name(path.name + ".lock")
        self.socket: socket.socket
        self._mode = mode
        self._lock_fd = -1
        self._inode: _Inode | None = None
        self._take()

    def fileno(self) -> int:
        """Descriptor of the listening socket."""
        return self.socket.fileno()

    def is_bound(self) -> bool:
        """Whether the path still refers to this socket."""
        return self._inode is not None and _Inode.at(self.path) == self._inode

    def move(self, path: Path) -> None:
        """Use ``path`` from the next :meth:`rebind` on. The old path cannot be used any more."""
        if self.is_bound():
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._unlock()
        self.path = path
        self.lock_path = path.with_name(path.name + ".lock")
        self._inode = None

    def rebind(self) -> socket.socket:
        """Listen again after the file was deleted or the path changed (:meth:`move`). Open connections are kept.

        :return: the old listening socket, which the caller closes.
        :raises BindError: the path cannot be used now; the old socket is kept. May be tried again.
        """
        problem = path_problem(self.path)
        if problem is not None:
            raise self._error(*problem)
        old = self.socket
        self._take()
        return old

    def close(self) -> None:
        """Stop listening, and remove the socket and its lock if they still belong to this object. May be called
        again."""
        if self.is_bound():
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._inode = None
        self.socket.close()
        self._unlock()

    def _take(self) -> None:
        had_lock = self._lock_fd >= 0
        self._lock()
        try:
            self._remove_stale()
            self.socket, self._inode = self._listen()
        except BindError:
            if not had_lock:
                self._unlock()
            raise

    def _error(self, cause: str, hint: str) -> BindError:
        return _bind_error(str(self.path), cause, hint)

    def _busy(self, cause: str) -> BusyError:
        hint = "choose another path, or stop the process that uses it"
        return BusyError(f"cannot bind the control socket {str(self.path)!r}: {cause}", hint=hint)

    def _lock(self) -> None:
        """Lock the file that is at the path *now*: another process may unlink it between open and lock."""
        if self._lock_fd >= 0 and _Inode.of(os.fstat(self._lock_fd)) == _Inode.at(self.lock_path):
            return
        for _ in range(_LOCK_ATTEMPTS):
            fd = self._open_lock()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.read(fd, 64)[len(_LOCK_MARK) :].decode("ascii", "replace").strip()
                os.close(fd)
                if error.errno != errno.EWOULDBLOCK:
                    raise self._error(f"{self.lock_path} cannot be locked: {error.strerror}", "") from error
                who = f" (pid {owner})" if owner.isdigit() else ""
                raise self._busy(f"a running sandbox{who} is using it") from error
            if _Inode.of(os.fstat(fd)) == _Inode.at(self.lock_path):
                break
            os.close(fd)
        else:
            raise self._error(
                f"{self.lock_path} keeps being replaced", "check which processes write to that directory"
            )
        old, self._lock_fd = self._lock_fd, fd
        if old >= 0:
            os.close(old)
        # For information only: a full disk must not stop a sandbox.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, _LOCK_MARK + b"%d\n" % os.getpid(), 0)

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        hint = "remove it if no sandbox is running, or choose another path"
        try:
            fd = os.open(self.lock_path, flags, 0o600)
        except OSError as error:
            raise self._error(
                f"the lock file {self.lock_path} cannot be opened: {error.strerror}", hint
            ) from error
        beginning = os.pread(fd, len(_LOCK_MARK), 0) if stat.S_ISREG(os.fstat(fd).st_mode) else None
        if beginning is None or not _LOCK_MARK.startswith(beginning):
            os.close(fd)
            raise self._error(
                f"{self.lock_path} exists and is not a lock file of ballonet; it was left alone", hint
            )
        return fd

    def _unlock(self) -> None:
        """Remove the lock file while holding it, so that a new lock of another process cannot be removed."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd < 0:
            return
        if _Inode.of(os.fstat(fd)) == _Inode.at(self.lock_path):
            with contextlib.suppress(OSError):
                self.lock_path.unlink()
        os.close(fd)

    def _remove_stale(self) -> None:
        found = _Inode.at(self.path)
        if found is None:
            return
        if is_live(self.path):
            raise self._busy("another program is listening there")
        if _Inode.at(self.path) != found:
            raise self._error(
                "the socket changed while it was checked", "check which processes write to that directory"
            )
        log.info("removing the stale control socket %s", self.path)
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error(f"a stale socket cannot be removed: {error.strerror}", "remove it") from error

    def _listen(self) -> tuple[socket.socket, _Inode]:
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            # On Linux the file gets the mode of the unbound socket, restricted by the umask. So its mode never exceeds
            # 0600, and the umask, which other threads share, need not be changed.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fspath(self.path))
            inode = self._widen()
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            cause = (
                "another file has just been created there"
                if error.errno == errno.EADDRINUSE
                else error.strerror
            )
            raise self._error(cause or str(error), "choose another path") from error
        return listener, inode

    def _widen(self) -> _Inode:
        # Through a descriptor: between bind and chmod the path could have been replaced by a link to another file.
        fd = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISSOCK(status.st_mode):
                raise OSError(errno.EADDRINUSE, "replaced")
            if stat.S_IMODE(status.st_mode) != self._mode:
                Path(f"/proc/self/fd/{fd}").chmod(self._mode)
            return _Inode.of(status)
        finally:
            os.close(fd)


def _bind_error(path: str, cause: str, hint: str) -> BindError:
    return BindError(f"cannot bind the control socket {path!r}: {cause}", hint=hint)


def is_live(path: Path) -> bool:
    """Whether a process listens at ``path``; also true in doubt (no permission, another type of socket)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


def bind_control_socket(path: str | os.PathLike[str], *, mode: int = 0o600) -> ControlSocket:
    """Bind and listen at ``path``, replacing a stale socket, but never a live one or another file.

    :param mode: of the socket's file: 0600, or what :meth:`~ballonet.control.peers.AccessPolicy.socket_mode` says.
    :raises BusyError: a running sandbox or another program listens there; it was left alone.
    :raises BindError: it cannot be bound; the message names the path and the cause.
    """
    absolute = _absolute(path)
    problem = path_problem(absolute)
    if problem is not None:
        raise _bind_error(os.fspath(path), *problem)
    return ControlSocket(Path(absolute), mode)
