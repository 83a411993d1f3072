"""The events of many hosts as one stream. An id has the position in the log of each host: ``a=17,b=4``."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping

from ballonet.base.errors import BallonetError
from ballonet.base.timestamps import iso_time
from ballonet.serve.access import Access
from ballonet.serve.host_requests import HostRequests
from ballonet.serve.hosts import Hosts
from ballonet.serve.pieces import close_pieces
from ballonet.serve.server_events import event

#: How often the list of hosts is read, and a host that did not answer is asked again (seconds).
_LOOK_S = 10.0
_RETRY_S = 2.0
#: How many events wait for a client that is slow.
_WAITING = 64
_ID = re.compile(rb"^id: (\d+)\n", re.MULTILINE)
_PLACE = re.compile(r"[^=,]+=\d{1,18}")

#: An event of a host: its name, and the lines of the event without the blank one.
_Found = tuple[str, bytes]


def parse_position(text: str, hosts: Iterable[str]) -> dict[str, int]:
    """The position of each host in an id; ``0``: the oldest event of each. Hosts that it does not name have none."""
    if text == "0":
        return dict.fromkeys(hosts, 0)
    parts = text.split(",")
    if not all(_PLACE.fullmatch(part) for part in parts):
        return {}
    return {host: int(number) for host, _, number in (part.partition("=") for part in parts)}


def show_position(position: Mapping[str, int]) -> str:
    return ",".join(f"{host}={number}" for host, number in sorted(position.items()))


class ManyEvents:
    """The events for one client.

    :param after: continue after the event with this id; empty: begin now.
    """

    def __init__(self, hosts: Hosts, requests: HostRequests, access: Access, after: str) -> None:
        self._hosts = hosts
        self._requests = requests
        self._access = access
        self._after = after
        self._position: dict[str, int] = {}
        self._begun: dict[str, AsyncIterator[bytes]] = {}
        self._queue: asyncio.Queue[_Found] = asyncio.Queue(_WAITING)
        self._following: dict[str, asyncio.Task[None]] = {}

    async def begin(self) -> str:
        """Connect to all hosts, and return the id from which the events go on."""
        names = list(await self._hosts.names())
        self._position = parse_position(self._after, names) if self._after else {}
        opened = await asyncio.gather(*map(self._open, names), return_exceptions=True)
        for host, one in zip(names, opened, strict=True):
            if isinstance(one, BaseException):
                if not isinstance(one, BallonetError):
                    raise one
            else:
                self._begun[host] = one
        return show_position(self._position)

    async def follow(self) -> AsyncIterator[bytes]:
        """The events, as they are sent."""
        first = set(self._begun)
        lost = set() if not self._after else first - parse_position(self._after, first).keys()
        watching = asyncio.create_task(self._watch_hosts())
        try:
            for host in lost:
                yield self._sent(_reset(host, "the id says nothing about this host"))
            while True:
                yield self._sent(await self._queue.get())
        finally:
            tasks = [watching, *self._following.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for pieces in self._begun.values():  # of hosts that were not followed yet
                await close_pieces(pieces)

    async def logged(self) -> AsyncIterator[bytes]:
        """The events that are recorded now, host by host."""
        names = list(await self._hosts.names())
        self._position = parse_position(self._after or "0", names)
        for host in names:
            try:
                async for block in _blocks(await self._open(host, "&follow=false")):
                    yield self._sent((host, block))
            except BallonetError as error:
                yield self._sent(_reset(host, error.message))

    async def _open(self, host: str, more: str = "") -> AsyncIterator[bytes]:
        known = self._position.get(host)
        target = "/v1/events?" + ("" if known is None else f"after={known}") + more
        response = await self._requests.open(host, target, self._access)
        begins = response.headers.get("last-event-id", "")
        if known is None and begins.isdecimal():
            self._position[host] = int(begins)
        return response.pieces

    async def _watch_hosts(self) -> None:
        """Follow the hosts that there are; one that joins later means that a list of sandboxes is not whole."""
        later = False
        while True:
            with contextlib.suppress(BallonetError):  # the directory is restarted
                names = set(await self._hosts.names())
                for host in self._following.keys() - names:
                    self._following.pop(host).cancel()
                for host in names - self._following.keys():
                    if later:
                        await self._queue.put(_reset(host, "it joined"))
                    self._following[host] = asyncio.create_task(self._follow_host(host))
                later = True
            await asyncio.sleep(_LOOK_S)

    async def _follow_host(self, host: str) -> None:
        """Follow one host, however often it is lost."""
        pieces = self._begun.pop(host, None)
        told = False
        while True:
            try:
                if pieces is None:
                    pieces = await self._open(host)
                told = False
                async for block in _blocks(pieces):
                    await self._queue.put((host, block))
            except BallonetError as error:
                if not told:
                    await self._queue.put(_reset(host, error.message))
                told = True
            finally:
                if pieces is not None:
                    await close_pieces(pieces)
            pieces = None
            await asyncio.sleep(_RETRY_S)

    def _sent(self, found: _Found) -> bytes:
        """An event as it is sent: with the host in its data, and an id that holds for all hosts."""
        host, block = found
        number = _ID.search(block)
        if number is not None:
            self._position[host] = int(number[1])
            block = _ID.sub(f"id: {show_position(self._position)}\n".encode(), block)
        named = b'data: {"host":"' + host.encode() + b'",'
        return block.replace(b"data: {", named, 1) + b"\n\n"


async def _blocks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events in a body, without comments."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            if not block.startswith(b":"):
                yield block


def _reset(host: str, reason: str) -> _Found:
    return host, event("reset", {"at": iso_time(time.time()), "reason": f"{host}: {reason}"}).rstrip(b"\n")
