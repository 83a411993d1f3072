"""A running sandbox's place on the host: its directory, its name, its sockets. Claimed whole, given up whole.

The agent socket's lock *is* the claim to the name: the kernel releases it however the process ends, so a name is
taken exactly while its sandbox lives. What a killed sandbox left is replaced by the next one of that name.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ballonet.control.socketfile import ControlSocket, bind_control_socket
from ballonet.errors import BindError, BusyError, ConfigError, HostError, NameInUseError
from ballonet.machine.notes import remove_notes
from ballonet.paths import private_dir, run_dir, sandbox_dir

AGENT_SOCKET = "agent.sock"
CONTROL_SOCKET = "control.sock"


def agent_socket_path(name: str) -> Path:
    """Where the sandbox ``name`` offers its guest's agent to programs of its owner."""
    return sandbox_dir(name) / AGENT_SOCKET


def control_socket_path(name: str) -> Path:
    """Where the sandbox ``name`` has its control socket, or a link to it if it was given another path."""
    return sandbox_dir(name) / CONTROL_SOCKET


class Place:
    """Made by :func:`claim_place`."""

    def __init__(self, directory: Path, agent: ControlSocket, control: ControlSocket | None) -> None:
        self.directory = directory
        self.agent = agent
        self.control = control

    def give_up(self) -> None:
        """Remove what is ours. May be repeated; servers that own a socket may have closed it before."""
        if self.control is not None:
            self.control.close()
            link = self.directory / CONTROL_SOCKET
            if link.is_symlink():
                link.unlink()
        remove_notes(self.directory)
        with contextlib.suppress(OSError):  # not empty: somebody else put something there, which is not ours
            self.agent.close()
            self.directory.rmdir()


def claim_place(
    name: str, control_socket: Path | None, *, with_control: bool, control_mode: int = 0o600
) -> Place:
    """Take the name and bind the sockets, before anything is started.

    :param control_socket: where the control socket was asked to be; ``None``: in the sandbox's directory.
    :param control_mode: of the control socket's file: see :class:`~ballonet.control.peers.AccessPolicy`.
    :raises NameInUseError: a sandbox of that name is running.
    :raises BindError: the control socket cannot be bound; nothing is left behind.
    """
    directory = private_dir(sandbox_dir(name))
    try:
        agent = bind_control_socket(directory / AGENT_SOCKET)
    except BusyError as error:
        raise NameInUseError(
            f"a sandbox named {name!r} is already running", hint="choose another name, or stop that sandbox"
        ) from error
    place = Place(directory, agent, None)
    try:
        # What is here is of a sandbox of this name that was killed: the name is ours now.
        _remove_left(directory)
        if with_control:
            default = directory / CONTROL_SOCKET
            place.control = bind_control_socket(control_socket or default, mode=control_mode)
            if control_socket is not None:
                default.symlink_to(place.control.path)
    except BaseException:
        place.give_up()
        raise
    return place


def prune_places() -> list[str]:
    """Remove what sandboxes that were killed have left in the run directory; their names. Live ones are left alone."""
    removed = []
    for directory in sorted(run_dir().iterdir()):
        try:
            claim_place(directory.name, None, with_control=False).give_up()
        except (NameInUseError, ConfigError, HostError):
            continue  # it lives, or it is not ours to judge
        if not directory.exists():
            removed.append(directory.name)
    return removed


def _remove_left(directory: Path) -> None:
    remove_notes(directory)
    left = directory / CONTROL_SOCKET
    if left.is_symlink():
        with contextlib.suppress(BindError):  # in use by somebody else now, or gone
            bind_control_socket(left.readlink()).close()
    left.unlink(missing_ok=True)
    left.with_name(CONTROL_SOCKET + ".lock").unlink(missing_ok=True)
