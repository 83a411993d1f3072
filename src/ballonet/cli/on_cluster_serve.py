"""``ballonet --cluster ADDRESS serve``: the HTTP API of all hosts."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from ballonet.cli import serve

if TYPE_CHECKING:
    from ballonet.metrics.model import Snapshot
    from ballonet.serve.hosts import Line
    from ballonet.serve.requests import Placement

_R = TypeVar("_R")

#: How many requests wait for the directory at once.
_THREADS = 16

add_options = serve.add_server_options


def run(cluster: Any, options: argparse.Namespace) -> int:
    from ballonet.serve.many_hosts import ManyHosts

    return serve.run_server(options, endpoints=ManyHosts(ClusterHosts(cluster)).endpoints())


class ClusterHosts:
    """The hosts of a cluster, as :class:`ballonet.serve.hosts.Hosts`."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._threads = ThreadPoolExecutor(_THREADS, "cluster")

    async def _do(self, call: Callable[[], _R]) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def names(self) -> Mapping[str, str | None]:
        found: dict[str, str | None] = await self._do(self._cluster.hosts)
        return found

    async def status(self) -> Mapping[str, Mapping[str, Any]]:
        found: dict[str, dict[str, Any]] = await self._do(self._cluster.status)
        return {
            host: {**one, "offer": one["offer"] and one["offer"].document()} for host, one in found.items()
        }

    async def find(self, sandbox: str) -> str:
        return await self._do(lambda: str(self._cluster.get(sandbox).host))

    async def connect(self, host: str) -> Line:
        found: Line = await self._cluster.open_server(host)
        return found

    async def create(self, name: str, settings: Mapping[str, Any], placement: Placement) -> None:
        given = dict(settings)
        labels = given.pop("labels", None)
        where = {word: getattr(placement, word) for word in placement.__struct_fields__}
        await self._do(lambda: self._cluster.create(name, sandbox_labels=labels, **where, **given))

    async def remove(self, name: str, *, force: bool) -> None:
        await self._do(lambda: self._cluster.remove(name, force=force))

    async def fork(self, name: str, names: Sequence[str]) -> None:
        await self._do(lambda: self._cluster.get(name).fork(*names))

    async def save(self, name: str, snapshot: str | None) -> str:
        return await self._do(lambda: str(self._cluster.get(name).snapshot(snapshot).name))

    async def find_snapshot(self, name: str) -> str:
        return await self._do(lambda: str(self._cluster.find_snapshot(name)[0]))

    async def remove_snapshot(self, name: str) -> None:
        await self._do(lambda: self._cluster.remove_snapshot(name))

    async def restore(self, snapshot: str, name: str, ports: Sequence[str]) -> None:
        await self._do(lambda: self._cluster.restore(snapshot, name, ports=ports))

    async def collect(self) -> Snapshot:
        found: Snapshot = (await self._do(self._cluster.samples))[0]
        return found
