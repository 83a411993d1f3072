"""Runs dnsmasq, the name server of a sandbox whose rules have names, in the sandbox's network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Sequence

from ballonet.base.errors import HostError
from ballonet.base.process import find_program, show_status, spawn, wait_exit
from ballonet.host.netns import Namespace
from ballonet.machine.name_gate import Asked, NameGate

_HINT = "install it: apt-get install dnsmasq-base; rules for addresses alone (--net-allow 192.0.2.0/24) need it as well"
#: How long it may take to start (seconds).
_START_S = 30.0
#: The longest line that is read.
_MAX_LINE = 2048
#: How many queries may be without a result: the oldest is forgotten.
_MOST_PENDING = 256
#: Nov 26 21:33:39 dnsmasq[241]: 3 10.0.2.15/40000 query[A] example.org from 10.0.2.15
_LINE = re.compile(r"dnsmasq\[\d+\]: (?:(?P<number>\d+) \S+ )?(?P<text>.*)")
_QUERY = re.compile(r"query\[(?P<type>[^]]+)\] (?P<name>\S+) from ")


class NameServer:
    """One running dnsmasq, a child of this process. It ends with this process, whatever the reason."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        messages: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        gate: NameGate,
        asked: Asked,
    ) -> None:
        self._child = child
        self._gate = gate
        self._lines, self._writer = messages
        self._asked = asked
        self._last = ""
        self._pending: dict[str, tuple[str, str]] = {}
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        configuration: str,
        namespace: Namespace,
        gate: NameGate,
        asked: Asked,
        cgroup_procs: Sequence[str],
    ) -> NameServer:
        """Start it, and wait until it answers.

        :param gate: lets queries through as long as it runs.
        :raises HostError: it is not installed, or does not start.
        """
        program = find_name_server()
        near, far = socket.socketpair()
        commands = os.memfd_create("configuration")
        try:
            os.write(commands, configuration.encode())
            os.lseek(commands, 0, os.SEEK_SET)
            child = spawn(
                # --no-daemon: it keeps its user, and starts no other process.
                [program, "--no-daemon", "--conf-file=-", "--pid-file="],
                stdin=commands,
                stdout=far.fileno(),
                stderr=far.fileno(),
                in_child=namespace.enter_as_server,
                die_with_parent=True,
                cgroup_procs=cgroup_procs,
            )
        except BaseException:
            near.close()
            raise
        finally:
            os.close(commands)
            far.close()
        server = cls(child, await asyncio.open_connection(sock=near, limit=_MAX_LINE), gate, asked)
        try:
            async with asyncio.timeout(_START_S):
                while "started, version" not in (line := await server._line()):
                    if not line:
                        raise HostError(f"the guest's name server does not start: {await server.wait()}")
        except TimeoutError:
            await server.close()
            raise HostError("the guest's name server does not start: it does not answer") from None
        except BaseException:
            await server.close()
            raise
        gate.open()
        server._reading = asyncio.create_task(server._read(), name="name server")
        return server

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> str:
        """Wait for its end; returns a sentence about it."""
        status = await wait_exit(self._child)
        return f"dnsmasq ended with {show_status(status)}" + (f": {self._last}" if self._last else "")

    async def close(self) -> None:
        self._gate.close()
        if self._child.poll() is None:
            self._child.kill()
        await wait_exit(self._child)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        self._writer.close()

    async def _line(self) -> str:
        """The next line; ``""`` at the end."""
        while True:
            try:
                line = (await self._lines.readuntil()).decode(errors="replace").strip()
            except asyncio.IncompleteReadError:
                return ""
            except asyncio.LimitOverrunError as error:
                await self._lines.readexactly(error.consumed)
                continue
            if line:
                self._last = line
                return line

    async def _read(self) -> None:
        with contextlib.suppress(OSError):
            while line := await self._line():
                self._took(line)

    def _took(self, line: str) -> None:
        match = _LINE.search(line)
        if match is None or match["number"] is None:
            return
        number, text = match["number"], match["text"]
        if query := _QUERY.match(text):
            if len(self._pending) >= _MOST_PENDING:
                self._pending.pop(next(iter(self._pending)))
            self._pending[number] = query["name"], query["type"]
        elif (asked := self._pending.pop(number, None)) is not None:
            self._asked(*asked, text.startswith("forwarded "))


def find_name_server() -> str:
    """:raises HostError: it is not installed."""
    return str(find_program("dnsmasq", hint=_HINT))
