"""The agents of hosts and the directory as Ray actors. Only this module and ``ray_node.py`` know Ray.

Actors are detached: they outlive the program that made them, and Ray starts them again where their host is.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.util

from ballonet.base.errors import HostError
from ballonet.cluster.addresses import connects_from, use_token
from ballonet.cluster.answers import Answer
from ballonet.cluster.directory_service import DirectoryService
from ballonet.cluster.host_agent import HostAgent, HostConfig
from ballonet.cluster.ray_start import keep_loopback
from ballonet.cluster.request import Request

NAMESPACE = "ballonet"
DIRECTORY = "directory"
_HOST = "host:"
#: Custom resources that say where an actor belongs.
HEAD_RESOURCE = "ballonet_head"
#: What a host may promise, as ``ray status`` shows it.
MEMORY_RESOURCE = "ballonet_mib"


def host_resource(host: str) -> str:
    """The resource that only this host's node has."""
    return f"ballonet_host_{host}"


class HostActor:
    """:class:`HostAgent` in a process of its host. It starts with the first call."""

    def __init__(self, config: HostConfig) -> None:
        self._agent = HostAgent(config)
        self._started: asyncio.Task[Answer] | None = None

    async def start(self) -> Answer:
        if self._started is None:
            self._started = asyncio.create_task(self._agent.start())
        answer = await asyncio.shield(self._started)
        if answer.code is not None:
            self._started = None  # the next call tries again
        return answer

    async def report(self) -> Answer:
        started = await self.start()
        return started if started.code is not None else await self._agent.report()

    async def create(self, request: Request, settings: Mapping[str, Any]) -> Answer:
        started = await self.start()
        return started if started.code is not None else await self._agent.create(request, settings)

    async def exec(self, name: str, argv: Sequence[str], **how: Any) -> Answer:
        return await self._agent.exec(name, argv, **how)

    async def stop(self, name: str) -> Answer:
        return await self._agent.stop(name)

    async def remove(self, name: str, force: bool) -> Answer:
        return await self._agent.remove(name, force)

    async def close_host(self, why: str | None) -> Answer:
        return self._agent.close_host(why)

    async def end(self) -> None:
        await self._agent.close()


class RayHosts:
    """The hosts of the cluster for the directory: :class:`ballonet.cluster.directory_service.Hosts`."""

    async def names(self) -> list[str]:
        actors = await asyncio.to_thread(ray.util.list_named_actors)
        return sorted(name.removeprefix(_HOST) for name in actors if name.startswith(_HOST))

    async def report(self, host: str) -> Answer:
        return await self._ask(host, "report")

    async def create(self, host: str, request: Request, settings: Mapping[str, Any]) -> Answer:
        return await self._ask(host, "create", request, settings)

    async def _ask(self, host: str, method: str, *what: Any) -> Answer:
        try:
            actor = await asyncio.to_thread(find_host, host)
            answer: Answer = await getattr(actor, method).remote(*what)
        except (ray.exceptions.RayError, ValueError) as error:
            return lost(error)
        return answer


class DirectoryActor:
    """:class:`DirectoryService` in a process on the head."""

    def __init__(self) -> None:
        self._service = DirectoryService(RayHosts())
        self._started: asyncio.Task[None] | None = None

    async def _start(self) -> None:
        if self._started is None:
            self._started = asyncio.create_task(self._service.start())
        await asyncio.shield(self._started)

    async def create(self, request: Request, settings: Mapping[str, Any]) -> Answer:
        await self._start()
        return await self._service.create(request, settings)

    async def find(self, name: str) -> Answer:
        await self._start()
        return self._service.find(name)

    async def check_host(self, host: str) -> Answer:
        await self._start()
        await self._service.refresh()
        return self._service.check_host(host)

    async def status(self) -> Answer:
        await self._start()
        return await self._service.status()


def lost(error: Exception) -> Answer:
    """The answer of a host whose agent does not answer."""
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Answer(None, "host-lost", f"its agent does not answer: {words}"[:300])


def connect(address: str, token: Path) -> None:
    """Connect this program to the cluster.

    :raises BallonetError: the address is not one, or no head answers there.
    """
    if ray.is_initialized():
        return
    connects_from(address)
    use_token(token)
    if address.startswith("127."):
        keep_loopback()
    with contextlib.suppress(ImportError, AttributeError):
        # The program may have imported Ray before.
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HostError(
            f"this program cannot connect to the cluster at {address}: {words}"[:400],
            hint=f"this host must have joined the cluster ('ballonet cluster join {address}'), and {token} must be the "
            f"token of the cluster",
        ) from error


def disconnect() -> None:
    """Disconnect this program from the cluster."""
    ray.shutdown()


def start_host(config: HostConfig) -> Any:
    """The actor of this host, which must be a node of the cluster. An actor of an earlier run is replaced."""
    name = _HOST + config.name
    end_host(config.name)
    actor = ray.remote(HostActor).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        max_concurrency=1000,
        num_cpus=0,
        resources={host_resource(config.name): 1},
    )
    return actor.remote(config)


def start_directory() -> Any:
    """The directory: the one that there is, or a new one."""
    actor = ray.remote(DirectoryActor).options(
        name=DIRECTORY,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=1000,
        num_cpus=0,
        resources={HEAD_RESOURCE: 1},
    )
    return actor.remote()


def find_host(host: str) -> Any:
    """The actor of a host.

    :raises ValueError: there is none.
    """
    return ray.get_actor(_HOST + host, namespace=NAMESPACE)


def end_host(host: str) -> None:
    """End the actor of a host, for good."""
    with contextlib.suppress(ValueError):  # there is none
        ray.kill(find_host(host), no_restart=True)


def nodes_of(host: str) -> int:
    """How many nodes that are alive have this name."""
    return sum(host_resource(host) in node["Resources"] for node in ray.nodes() if node["Alive"])


def ask(actor: Any, method: str, *what: Any, timeout: float | None = None, **how: Any) -> Answer:
    """Call an actor and wait. An actor that is lost is an answer, too."""
    try:
        answer: Answer = ray.get(getattr(actor, method).remote(*what, **how), timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        return Answer(None, "host", f"no answer within {timeout:g} s")
    except ray.exceptions.RayError as error:
        return lost(error)
    return answer
