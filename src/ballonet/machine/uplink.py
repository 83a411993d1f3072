"""Connects a sandbox's network namespace to the host's network with slirp4netns, and publishes ports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ballonet.base.dataclass import replace
from ballonet.base.errors import BindError, HostError
from ballonet.base.process import show_status, spawn, wait_exit
from ballonet.host.netns import Namespace
from ballonet.host.slirp4netns import answer_error, find_slirp4netns, forward_port
from ballonet.machine.net_filter import UP_INTERFACE, UP_NETWORK, inner_ports
from ballonet.machine.port_relay import PortRelay
from ballonet.machine.ports import check_ports_free, free_port
from ballonet.vmm.attach import Port
from ballonet.vmm.console import Tail

log = logging.getLogger(__name__)

#: How long it may take to start, and to end (seconds).
_START_S, _END_S = 30.0, 5.0
#: How often another free port is tried, if another program takes the one that was found.
_TRIES = 8
_SOCKET = "network.sock"


class Uplink:
    """One running slirp4netns, a child of this process. It ends with this process, whatever the reason."""

    def __init__(self, child: subprocess.Popen[bytes], alive: int, requests: Path) -> None:
        self._child = child
        self._alive = alive
        self._requests = requests
        self._messages = Tail("slirp4netns")
        self._relays: list[PortRelay] = []

    @classmethod
    async def start(
        cls, namespace: Namespace, directory: Path, *, host_loopback: bool, cgroup_procs: Sequence[str]
    ) -> Uplink:
        """Connect ``namespace``.

        :param directory: a private directory, for its socket.
        :param host_loopback: the namespace reaches the host's loopback at the gateway's address.
        :raises HostError: it is not installed, or does not start.
        """
        program = find_slirp4netns()
        requests = directory / _SOCKET
        requests.unlink(missing_ok=True)
        ready, ready_far = os.pipe()
        alive_far, alive = os.pipe()
        messages, messages_far = socket.socketpair()
        argv = program.command(
            namespace.path,
            UP_INTERFACE,
            UP_NETWORK,
            ready=ready_far,
            exit=alive_far,
            requests=requests,
            host_loopback=host_loopback,
            confined=_can_be_confined(),
        )
        try:
            child = spawn(
                argv,
                pass_fds=[namespace.descriptor, ready_far, alive_far],
                stdout=messages_far.fileno(),
                stderr=messages_far.fileno(),
                in_child=namespace.enter_user,
                die_with_parent=True,
                cgroup_procs=cgroup_procs,
            )
        except BaseException:
            for fd in (ready, alive):
                os.close(fd)
            messages.close()
            raise
        finally:
            for fd in (ready_far, alive_far):
                os.close(fd)
            messages_far.close()
        uplink = cls(child, alive, requests)
        uplink._messages.start(messages)
        try:
            async with asyncio.timeout(_START_S):
                said = await _read(ready)
        except TimeoutError:
            said = b""
        except BaseException:
            await uplink.close()
            raise
        finally:
            os.close(ready)
        if not said:
            await uplink.close()
            raise HostError(f"the guest's network cannot be connected: {uplink._end()}")
        return uplink

    @property
    def pid(self) -> int:
        return self._child.pid

    async def publish(self, ports: Sequence[Port]) -> tuple[Port, ...]:
        """Publish ports; returns them with the host ports that were chosen instead of 0.

        :raises BindError: one cannot be bound.
        """
        published = [
            await (self._publish if port.family == socket.AF_INET else self._relay)(inner, port)
            for inner, port in inner_ports(ports)
        ]
        self._requests.unlink(missing_ok=True)
        return tuple(published)

    async def _publish(self, inner: int, port: Port) -> Port:
        error: str | None = None
        for _ in range(_TRIES if port.host == 0 else 1):
            host = port.host or free_port(port)
            error = answer_error(await self._ask(forward_port(port.protocol, port.address, host, inner)))
            if error is None:
                return replace(port, host=host)
        raise BindError(
            f"port {port.place}/{port.protocol} cannot be published: {error}",
            hint="choose another port, or 0 for any free port",
        )

    async def _relay(self, inner: int, port: Port) -> Port:
        """slirp4netns publishes at IPv4 addresses only."""
        check_ports_free([port])
        inside = await self._publish(inner, Port(0, port.guest))
        try:
            relay, host = await PortRelay.start(port.address, port.host, inside.host)
        except OSError as error:
            raise BindError(
                f"port {port.place}/{port.protocol} cannot be published: {error.strerror or error}",
                hint="choose another port, or 0 for any free port",
            ) from error
        self._relays.append(relay)
        return replace(port, host=host)

    async def _ask(self, request: bytes) -> bytes:
        async with asyncio.timeout(_START_S):
            while True:
                # It serves one connection at a time, and may end one that comes too early.
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_unix_connection(self._requests)
                    try:
                        writer.write(request)
                        writer.write_eof()
                        if answer := await reader.read():
                            return answer
                    finally:
                        writer.close()
                if self._child.poll() is not None:
                    return b"it ended"
                await asyncio.sleep(0.01)

    async def wait(self) -> str:
        """Wait for its end; returns a sentence about it."""
        await wait_exit(self._child)
        await self._messages.drained()
        return self._end()

    def _end(self) -> str:
        status = self._child.poll()
        how = "it did not become ready" if status is None else f"it ended with {show_status(status)}"
        output = self._messages.last_lines(2)
        return f"slirp4netns: {how}: {output}" if output else f"slirp4netns: {how}"

    async def close(self) -> None:
        for relay in self._relays:
            await relay.close()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await wait_exit(self._child)
        if self._child.poll() is None:
            self._child.kill()
            await wait_exit(self._child)
        await self._messages.drained()
        await self._messages.stop()
        self._requests.unlink(missing_ok=True)


def _can_be_confined() -> bool:
    """Whether slirp4netns finds /etc/resolv.conf when it has only /etc and /run."""
    real = os.path.realpath("/etc/resolv.conf")
    return real.startswith(("/etc/", "/run/"))


async def _read(fd: int) -> bytes:
    """Wait until ``fd`` can be read; ``b""`` at its end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 16)
