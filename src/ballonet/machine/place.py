"""A running sandbox's place on the host: its directory, its name, its sockets. Claimed whole, given up whole.

The agent socket's lock *is* the claim to the name: the kernel releases it however the process ends, so a name is
taken exactly while its sandbox lives. What a killed sandbox left is replaced by the next one of that name.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ballonet.control.socketfile import ControlSocket, bind_control_socket
from ballonet.errors import BusyError, NameInUseError
from ballonet.paths import private_dir, sandbox_dir

AGENT_SOCKET = "agent.sock"
CONTROL_SOCKET = "control.sock"


def agent_socket_path(name: str) -> Path:
    """Where the sandbox ``name`` offers its guest's agent to programs of its owner."""
    return sandbox_dir(name) / AGENT_SOCKET


def control_socket_path(name: str) -> Path:
    """Where the sandbox ``name`` has its control socket, unless it was given another path."""
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
        with contextlib.suppress(OSError):  # not empty: somebody else put something there, which is not ours
            self.agent.close()
            self.directory.rmdir()


def claim_place(name: str, control_socket: Path | None, *, with_control: bool) -> Place:
    """Take the name and bind the sockets, before anything is started.

    :param control_socket: where the control socket was asked to be; ``None``: in the sandbox's directory.
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
        default = directory / CONTROL_SOCKET
        for left in (default, default.with_name(CONTROL_SOCKET + ".lock")):
            left.unlink(missing_ok=True)  # from a sandbox of this name that was killed: the name is ours now
        if with_control:
            place.control = bind_control_socket(control_socket or default)
    except BaseException:
        place.give_up()
        raise
    return place
