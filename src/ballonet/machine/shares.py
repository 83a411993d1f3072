"""The servers of a sandbox's volumes: one virtiofsd per volume, a child of the sandbox's process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ballonet.base.errors import HostError, os_hint
from ballonet.base.process import spawn, wait_exit
from ballonet.host.mounts import read_only_view
from ballonet.host.virtiofsd import find_virtiofsd
from ballonet.vmm.attach import Volume
from ballonet.vmm.console import Tail

log = logging.getLogger(__name__)

#: How long a server may take to end after its engine has ended (seconds).
_END_S = 5.0


class ServerEnd(NamedTuple):
    """How a server ended. Status 0: because its engine has disconnected."""

    status: int
    #: A sentence.
    detail: str


class ShareServer:
    """The server of one volume. Created by :func:`serve_volume`; ends with the engine's connection, or with
    :meth:`close`."""

    def __init__(self, volume: Volume, child: subprocess.Popen[bytes], engine: socket.socket) -> None:
        self.volume = volume
        #: The engine's end of the connection: close it when the engine has its copy.
        self.engine = engine
        self._child = child
        self._messages = Tail(f"server of {volume}")

    @property
    def pid(self) -> int:
        return self._child.pid

    def read_messages(self, messages: socket.socket) -> None:
        self._messages.start(messages)

    async def wait(self) -> ServerEnd:
        """Wait for the server's end."""
        status = await wait_exit(self._child)
        await self._messages.drained()
        output = self._messages.last_lines(3)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        message = f"the server of volume {self.volume} ended with {how}"
        return ServerEnd(status, f"{message}: {output}" if output else message)

    async def close(self) -> None:
        self.engine.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await wait_exit(self._child)
        if self._child.poll() is None:
            self._child.kill()
            await wait_exit(self._child)
        await self._messages.stop()


def serve_volume(volume: Volume, directory: Path, *, cgroup_procs: Sequence[str] = ()) -> ShareServer:
    """Start the server of one volume, with a connection for the engine.

    :param directory: a private directory, for its socket until the engine is connected.
    :raises HostError: the volume's directory does not exist, or the server cannot be started.
    """
    check_source(volume)
    program = find_virtiofsd()
    # Without root, the one in C cannot confine itself, and a read-only mount is not possible.
    if os.geteuid() != 0 and not (program.rust and (program.read_only or not volume.read_only)):
        what = "read-only, but only" if program.rust else "only"
        raise HostError(
            f"volume {volume}: {program.binary} can serve it {what} for root",
            hint=f"run as root, set BALLONET_VIRTIOFSD to a newer virtiofsd{' with --readonly' * program.rust} (in "
            "Rust, which Debian 12 does not have), or copy files with 'ballonet cp'",
        )
    path = directory / "share.sock"
    engine = socket.socket(socket.AF_UNIX)
    messages, messages_far = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, messages_far:
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen(1)
            # Connected before the server starts; nobody else can connect once the path is removed.
            engine.connect(str(path))
            path.unlink()
            # If the server does not support read-only, a mount enforces it.
            view = None
            if volume.read_only and not program.read_only:
                view = read_only_view(volume.source)
            child = spawn(
                program.command(volume.source, listener.fileno(), read_only=volume.read_only),
                pass_fds=[listener.fileno()],
                stdout=messages_far.fileno(),
                stderr=messages_far.fileno(),
                die_with_parent=True,
                cgroup_procs=cgroup_procs,
                in_child=view,
            )
        except BaseException as error:
            engine.close()
            messages.close()
            if isinstance(error, OSError):
                raise HostError(
                    f"volume {volume} cannot be served: {error.strerror}", hint=os_hint(error, directory)
                ) from error
            raise
    server = ShareServer(volume, child, engine)
    server.read_messages(messages)
    return server


class ShareServers:
    """The servers of all of a sandbox's volumes."""

    def __init__(self) -> None:
        self._servers: list[ShareServer] = []

    def start(self, volumes: Sequence[Volume], directory: Path, *, cgroup_procs: Sequence[str]) -> None:
        """Start one per volume, see :func:`serve_volume`. After a failure, :meth:`close` ends those that were
        started."""
        for volume in volumes:
            self._servers.append(serve_volume(volume, directory, cgroup_procs=cgroup_procs))

    @property
    def sockets(self) -> list[socket.socket]:
        """The engine's ends of the connections."""
        return [server.engine for server in self._servers]

    def hand_over(self) -> None:
        """Close the engine's ends: the engine has copies now, and a server ends with them."""
        for server in self._servers:
            server.engine.close()

    async def first_end(self) -> ServerEnd:
        """Wait until one of them has ended."""
        waits = [asyncio.ensure_future(server.wait()) for server in self._servers]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    async def close(self) -> None:
        for server in self._servers:
            await server.close()


def check_source(volume: Volume) -> None:
    """:raises HostError: the volume's source is not a directory."""
    if not volume.source.is_dir():
        found = "is not a directory" if volume.source.exists() else "does not exist"
        raise HostError(f"volume {volume}: {volume.source} {found} on the host")
