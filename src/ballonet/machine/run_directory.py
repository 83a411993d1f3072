"""The run directory of a running sandbox, with its sockets, and the locks on its name.

There are two locks, which the kernel releases when the process ends. The one in the sandbox's state directory prevents
a sandbox of one registry from running twice, even with different run directories. The one of the agent socket prevents
two registries that share a run directory from using the same name. A sandbox replaces what a killed one with the same
name left behind. If the run directory is removed while its sandbox runs, :meth:`RunDirectory.repair` creates it again,
or another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from ballonet.base.errors import BindError, BusyError, ConfigError, HostError, NameInUseError
from ballonet.base.paths import fallback_run_dirs, private_dir, run_dir, sandbox_dir
from ballonet.control.socketfile import ControlSocket, bind_control_socket, path_problem
from ballonet.machine.notes import AGENT_SOCKET, CONTROL_SOCKET

log = logging.getLogger(__name__)

#: In the state directory: the sandbox's process holds it while it runs.
RUN_LOCK = "run.lock"


class RunDirectory:
    """Created by :func:`claim_run_directory`."""

    def __init__(self, directory: Path, agent: ControlSocket, control: ControlSocket | None) -> None:
        self.path = directory
        self.agent = agent
        self.control = control
        #: Descriptor of the lock in the state directory.
        self.lock_fd = -1

    @property
    def control_path(self) -> Path | None:
        """The path of the control socket; ``None`` if there is none."""
        return None if self.control is None else self.control.path

    def intact(self) -> bool:
        """Whether the sockets, and the link to the control socket, exist."""
        return (
            self.agent.is_bound()
            and (self.control is None or self.control.is_bound())
            and self._link_is_there()
        )

    def repair(self) -> None:
        """Create the run directory again if it is missing or unusable, at its path or at a fallback, so that sockets
        can be bound there again.

        :raises HostError: it can be created nowhere.
        """
        was = self.path
        own_control = self.control is not None and self.control.path == was / CONTROL_SOCKET
        sockets = [AGENT_SOCKET, CONTROL_SOCKET] if own_control else [AGENT_SOCKET]
        for parent in (was.parent, *fallback_run_dirs()):
            directory = parent / was.name
            try:
                private_dir(parent)
                private_dir(directory)
            except HostError as error:
                log.debug("no run directory: %s", error)
                continue
            if any(path_problem(directory / socket) for socket in sockets):
                continue  # another file occupies the path of a socket
            break
        else:
            raise HostError(
                f"the run directory {was} is missing and cannot be created again, there or elsewhere"
            )
        if directory != was:
            log.warning("the run directory %s cannot be used any more; using %s", was, directory)
            self.path = directory
            self.agent.move(directory / AGENT_SOCKET)
            if own_control:
                assert self.control is not None
                self.control.move(directory / CONTROL_SOCKET)
        if self.control is not None and self.control.path != directory / CONTROL_SOCKET:
            self._repair_chosen(self.control, directory / CONTROL_SOCKET)

    def _repair_chosen(self, control: ControlSocket, link: Path) -> None:
        """Repair the link to a control socket that has a path chosen by the user."""
        problem = path_problem(control.path)
        if problem is None and self._link_is_there():
            return
        with contextlib.suppress(OSError):  # it is a directory; the chosen path still works
            link.unlink(missing_ok=True)
            if problem is None:
                link.symlink_to(control.path)
            else:
                log.warning(
                    "the control socket %s cannot be bound: %s; using %s", control.path, problem[0], link
                )
                control.move(link)

    def release(self) -> None:
        """Remove the sockets, the directory and the lock. May be called again; servers may have closed sockets
        before."""
        if self.control is not None:
            self.control.close()
            link = self.path / CONTROL_SOCKET
            if link.is_symlink():
                link.unlink()
        with contextlib.suppress(OSError):  # not empty: it contains files of other programs
            self.agent.close()
            self.path.rmdir()
        fd, self.lock_fd = self.lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def _link_is_there(self) -> bool:
        """Whether the directory has a link to a control socket with another path."""
        link = self.path / CONTROL_SOCKET
        return self.control is None or self.control.path == link or link.is_symlink()


def claim_run_directory(
    name: str,
    control_socket: Path | None,
    *,
    with_control: bool,
    control_mode: int = 0o600,
    state_dir: Path | None = None,
) -> RunDirectory:
    """Lock the name and bind the sockets, before anything is started.

    :param control_socket: the requested path of the control socket; ``None``: in the run directory.
    :param control_mode: of the control socket's file: see :class:`~ballonet.control.peers.AccessPolicy`.
    :param state_dir: the sandbox's own state directory, if it has one.
    :raises NameInUseError: a sandbox with that name is running.
    :raises BindError: the control socket cannot be bound; nothing is left behind.
    """
    lock_fd = -1 if state_dir is None else _lock(state_dir / RUN_LOCK, name)
    try:
        claimed = _bind(
            sandbox_dir(name), control_socket, with_control=with_control, control_mode=control_mode
        )
        claimed.lock_fd = lock_fd
        return claimed
    except BaseException:
        if lock_fd >= 0:
            os.close(lock_fd)
        raise


def remove_abandoned(directory: Path) -> bool:
    """Remove a run directory that a sandbox has left behind, unless one is running there; returns whether it is
    gone."""
    if not directory.is_dir():
        return False
    # It is in use, belongs to another user, or contains files of other programs.
    with contextlib.suppress(NameInUseError, ConfigError, HostError, BindError, OSError):
        _bind(directory, None, with_control=False, control_mode=0o600).release()
    return not directory.exists()


def prune_run_directories() -> list[str]:
    """Remove the run directories that killed sandboxes have left behind; returns their names."""
    return [directory.name for directory in sorted(run_dir().iterdir()) if remove_abandoned(directory)]


def _bind(
    directory: Path, control_socket: Path | None, *, with_control: bool, control_mode: int
) -> RunDirectory:
    private_dir(directory)
    try:
        agent = bind_control_socket(directory / AGENT_SOCKET)
    except BusyError as error:
        raise _in_use(directory.name) from error
    claimed = RunDirectory(directory, agent, None)
    try:
        # The lock is held: existing files belong to a sandbox that was killed.
        _remove_left(directory)
        if with_control:
            default = directory / CONTROL_SOCKET
            claimed.control = bind_control_socket(control_socket or default, mode=control_mode)
            if control_socket is not None:
                default.symlink_to(claimed.control.path)
    except BaseException:
        claimed.release()
        raise
    return claimed


def _lock(path: Path, name: str) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"lock file {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise _in_use(name) from None
    return fd


def _in_use(name: str) -> NameInUseError:
    return NameInUseError(
        f"a sandbox named {name!r} is already running", hint="choose another name, or stop that sandbox"
    )


def _remove_left(directory: Path) -> None:
    left = directory / CONTROL_SOCKET
    if left.is_symlink():
        with contextlib.suppress(BindError):  # used by another process now, or missing
            bind_control_socket(left.readlink()).close()
    for path in (left, left.with_name(CONTROL_SOCKET + ".lock"), *map(directory.joinpath, _OLD_NOTES)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


#: What earlier versions kept in the run directory.
_OLD_NOTES = ("machine.json", "stop")
