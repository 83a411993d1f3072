"""The servers of a sandbox's volumes: one virtiofsd each, a child of the sandbox's process, and their ends."""

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

#: How long a server may take to end once its engine is gone (seconds).
_END_S = 5.0


class ServerEnd(NamedTuple):
    """How a server ended: with 0 it has seen its engine go."""

    status: int
    #: A sentence.
    detail: str


class ShareServer:
    """One volume's server. Made by :func:`serve_volumes`; ends with its engine's connection, or with :meth:`close`."""

    def __init__(self, volume: Volume, child: subprocess.Popen[bytes], engine: socket.socket) -> None:
        self.volume = volume
        #: The engine's end of the connection: to be closed when the engine has its copy.
        self.engine = engine
        self._child = child
        self._words = Tail(f"server of {volume}")

    @property
    def pid(self) -> int:
        return self._child.pid

    def read_words(self, words: socket.socket) -> None:
        self._words.start(words)

    async def wait(self) -> ServerEnd:
        """Wait for the server's end."""
        status = await wait_exit(self._child)
        await self._words.drained()
        said = self._words.last_lines(3)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        message = f"the server of volume {self.volume} ended with {how}"
        return ServerEnd(status, f"{message}: {said}" if said else message)

    async def close(self) -> None:
        self.engine.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await wait_exit(self._child)
        if self._child.poll() is None:
            self._child.kill()
            await wait_exit(self._child)
        await self._words.stop()


def serve_volume(volume: Volume, directory: Path, *, cgroup_procs: str | None = None) -> ShareServer:
    """Start the server of one volume, with a connection for the engine.

    :param directory: where its socket may be for a moment: one that only we can enter.
    :raises HostError: the volume's directory is not there, or the server cannot be started.
    """
    check_source(volume)
    program = find_virtiofsd()
    # The one in C cannot confine itself otherwise, nor can we keep a directory from being written.
    if os.geteuid() != 0 and not (program.rust and (program.read_only or not volume.read_only)):
        what = "read-only, but only" if program.rust else "only"
        raise HostError(
            f"volume {volume}: {program.binary} can serve it {what} for root",
            hint=f"run as root, name a newer virtiofsd{' with --readonly' * program.rust} with BALLONET_VIRTIOFSD (the "
            "one in Rust; Debian 12 has none), or copy files with 'ballonet cp'",
        )
    path = directory / "share.sock"
    engine = socket.socket(socket.AF_UNIX)
    words, words_far = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as listener, words_far:
        try:
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen(1)
            # We are its one client, before it has even started; nobody can connect once the path is gone.
            engine.connect(str(path))
            path.unlink()
            # The server of newer systems does it by itself, where it can; the mount holds for either.
            view = None
            if volume.read_only and not program.read_only:
                view = read_only_view(volume.source)
            child = spawn(
                program.command(volume.source, listener.fileno(), read_only=volume.read_only),
                pass_fds=[listener.fileno()],
                stdout=words_far.fileno(),
                stderr=words_far.fileno(),
                die_with_parent=True,
                cgroup_procs=cgroup_procs,
                in_child=view,
            )
        except BaseException as error:
            engine.close()
            words.close()
            if isinstance(error, OSError):
                raise HostError(
                    f"volume {volume} cannot be served: {error.strerror}", hint=os_hint(error, directory)
                ) from error
            raise
    server = ShareServer(volume, child, engine)
    server.read_words(words)
    return server


class ShareServers:
    """The servers of all of a sandbox's volumes."""

    def __init__(self) -> None:
        self._servers: list[ShareServer] = []

    def start(self, volumes: Sequence[Volume], directory: Path, *, cgroup_procs: str | None) -> None:
        """Start one for each; see :func:`serve_volume`. What was started before a failure is for :meth:`close`."""
        for volume in volumes:
            self._servers.append(serve_volume(volume, directory, cgroup_procs=cgroup_procs))

    @property
    def sockets(self) -> list[socket.socket]:
        """The engine's ends of the connections."""
        return [server.engine for server in self._servers]

    def hand_over(self) -> None:
        """The engine has its own copies now: a server ends with them."""
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
    """:raises HostError: the volume's directory is not one that we can use."""
    if not volume.source.is_dir():
        found = "is not a directory" if volume.source.exists() else "does not exist"
        raise HostError(f"volume {volume}: {volume.source} {found} on the host")
