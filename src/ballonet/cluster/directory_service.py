"""Places sandboxes and knows where each one is, for all programs that use a cluster. It knows nothing of Ray.

There is one per cluster. It asks all hosts every :data:`REFRESH_S` seconds; what it knows is a copy of that, so that it
can be started again at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ballonet.base.errors import BallonetError, ConfigError, NameInUseError, UnknownSandboxError
from ballonet.base.suggest import hint_for
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.bounds import DEFAULT_BOUNDS, Bounds
from ballonet.cluster.directory import Directory
from ballonet.cluster.host_agent import HostReport
from ballonet.cluster.request import Request, check_request
from ballonet.version import __version__

REFRESH_S = 2.0
#: How long a host may take for a report before the next host is read without it (seconds).
REPORT_S = 5.0


class Hosts(Protocol):
    """The hosts of the cluster, as the service reaches them."""

    async def names(self) -> list[str]:
        """The hosts whose agents exist."""
        ...

    async def report(self, host: str) -> Answer: ...

    async def create(self, host: str, request: Request, settings: Mapping[str, Any]) -> Answer: ...


class DirectoryService:
    """The methods that return an :class:`Answer` never raise a :class:`BallonetError`."""

    def __init__(
        self,
        hosts: Hosts,
        bounds: Bounds = DEFAULT_BOUNDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._clock = clock
        self._directory = Directory(bounds, __version__)
        #: Of each host: its sandboxes and their states, as last reported.
        self._sandboxes: dict[str, Mapping[str, str]] = {}
        #: Sandboxes that are being created, and where (``None``: not decided yet).
        self._creating: dict[str, str | None] = {}
        self._silent: dict[str, str] = {}
        self._refreshing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all hosts, and keep reading them."""
        await self.refresh()
        self._task = asyncio.create_task(self._keep_reading(), name="refresh")

    async def _keep_reading(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read all hosts once. A host that does not answer keeps its last offer, which becomes stale."""
        async with self._refreshing:
            names = await self._hosts.names()
            for host in set(self._sandboxes) - set(names):
                self._directory.forget(host)
                self._sandboxes.pop(host)
                self._silent.pop(host, None)
            await asyncio.gather(*(self._read(host) for host in names))

    async def _read(self, host: str) -> None:
        asked_s = self._clock()
        self._sandboxes.setdefault(host, {})
        try:
            answer = await asyncio.wait_for(self._hosts.report(host), REPORT_S)
        except TimeoutError:
            answer = Answer(None, "host", f"it did not answer within {REPORT_S:g} s")
        if answer.code is not None:
            self._silent[host] = answer.message
            return
        report: HostReport = answer.value
        self._silent.pop(host, None)
        self._sandboxes[host] = report.sandboxes
        # Its age counts from the question on, so that what was placed meanwhile is not taken as included.
        self._directory.update(report.offer._replace(at_s=asked_s + min(0.0, report.offer.at_s)))

    async def create(self, request: Request, settings: Mapping[str, Any]) -> Answer:
        """Create a sandbox on the best host that takes it; the answer is the host."""
        try:
            check_request(request)
            if self._where(request.name) is not None:
                await self.refresh()  # it may have been removed since
            self._claim(request.name)
        except BallonetError as error:
            return failed(error)
        try:
            return await self._create(self._directory.informed(request), settings)
        finally:
            self._creating.pop(request.name, None)

    def _claim(self, name: str) -> None:
        """No name is used twice in a cluster."""
        host = self._where(name)
        if host is not None or name in self._creating:
            where = f"on host {host}" if host is not None else "and is being created"
            raise NameInUseError(f"a sandbox {name!r} exists already, {where}", hint="choose another name")
        self._creating[name] = None

    async def _create(self, request: Request, settings: Mapping[str, Any]) -> Answer:
        tried: dict[str, str] = {}
        while len(tried) < self._directory.bounds.tries:
            found = self._directory.choose(request, self._clock())
            host = next((fit.host for fit in found.fits if fit.host not in tried), None)
            if host is None:
                break
            self._creating[request.name] = host
            self._directory.reserve(request, host)
            try:
                answer = await self._hosts.create(host, request, settings)
            except BaseException:
                self._directory.settle(request.name, host, self._clock(), created=False)
                raise
            created = answer.code is None
            self._directory.settle(request.name, host, self._clock(), created=created)
            if created:
                self._sandboxes[host] = {**self._sandboxes.get(host, {}), request.name: "running"}
                return Answer(host)
            if answer.code not in ("no-room", "host-lost"):
                return answer._replace(message=f"host {host}: {answer.message}")
            tried[host] = answer.message
        return failed(self._directory.explain(request, self._clock(), tried))

    def find(self, name: str) -> Answer:
        """The host of a sandbox."""
        host = self._where(name)
        if host is None:
            known = [box for boxes in self._sandboxes.values() for box in boxes]
            return failed(
                UnknownSandboxError(
                    f"no host has a sandbox {name!r}"[:200],
                    hint=hint_for(name, known, "'ballonet cluster status' lists all sandboxes"),
                )
            )
        return Answer(host)

    def _where(self, name: str) -> str | None:
        return next((host for host, boxes in self._sandboxes.items() if name in boxes), None)

    async def status(self) -> Answer:
        """All hosts, now: offers with their ages, sandboxes, and why a host does not answer."""
        await self.refresh()
        now = self._clock()
        return Answer(
            {
                host: {
                    "offer": offer if offer is None else offer._replace(at_s=offer.at_s - now),
                    "sandboxes": dict(boxes),
                    "silent": self._silent.get(host),
                }
                for host, boxes in sorted(self._sandboxes.items())
                for offer in (self._directory.offers.get(host),)
            }
        )

    def check_host(self, host: str) -> Answer:
        """Whether there is such a host."""
        if host not in self._sandboxes:
            known = sorted(self._sandboxes)
            return failed(
                ConfigError(
                    f"the cluster has no host {host!r}"[:200],
                    hint=hint_for(host, known, f"its hosts: {', '.join(known) or 'none'}"),
                )
            )
        return Answer(host)
