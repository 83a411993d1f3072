"""The agents of hosts and the directory as Ray actors. Only this module and ``ray_node.py`` know Ray.

Actors are detached: they outlive the program that made them, and Ray starts them again where their host is.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.util

from ballonet.base.errors import BallonetError, HostError
from ballonet.base.paths import private_dir, state_dir
from ballonet.cluster.addresses import connects_from, use_token
from ballonet.cluster.answers import Answer, failed, value_of
from ballonet.cluster.directory_service import DirectoryService
from ballonet.cluster.host_agent import HostAgent
from ballonet.cluster.host_report import Grant, HostConfig
from ballonet.cluster.host_samples import samples_here
from ballonet.cluster.ledger import Ledger, Order
from ballonet.cluster.ray_start import keep_loopback

log = logging.getLogger(__name__)

NAMESPACE = "ballonet"
DIRECTORY = "directory"
_HOST = "host:"
#: How long a host may take to remove a sandbox (seconds).
REMOVE_S = 60.0
#: Custom resources that say where an actor belongs.
HEAD_RESOURCE = "ballonet_head"
#: What a host may promise, as ``ray status`` shows it.
MEMORY_RESOURCE = "ballonet_mib"


#: The calls for streams, most of which wait for output: they never keep the directory from asking the host.
STREAMS = "streams"
#: How many of them are carried out at once, and of all other calls.
STREAM_CALLS, OTHER_CALLS = 4096, 1000


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

    async def report(self, grant: Grant) -> Answer:
        started = await self.start()
        return started if started.code is not None else await self._agent.report(grant)

    async def create(self, order: Order, permit_s: float | None) -> Answer:
        started = await self.start()
        return started if started.code is not None else await self._agent.create(order, permit_s)

    @ray.method(concurrency_group=STREAMS)  # type: ignore[untyped-decorator]
    async def stream(self, method: str, *what: Any) -> Answer:
        return await self._agent.stream(method, *what)

    async def keep_streams(self, session: str) -> Answer:
        return self._agent.streams.keep(session)

    async def use(self, name: str, method: str, what: Sequence[Any], how: Mapping[str, Any]) -> Answer:
        return await self._agent.use(name, method, what, how)

    async def collect(self) -> Answer:
        return await samples_here()

    async def fork(self, name: str, orders: Sequence[Order], permit_s: float | None) -> Answer:
        return await self._agent.fork(name, orders, permit_s)

    async def pack_up(self, name: str) -> Answer:
        return await self._agent.pack_up(name)

    async def put_back(self, name: str) -> Answer:
        return await self._agent.put_back(name)

    async def piece(self, name: str, offset: int) -> Answer:
        return await asyncio.to_thread(self._agent.piece, name, offset)

    async def take_over(self, order: Order, permit_s: float | None, source: str) -> Answer:
        """The sandbox comes from the agent of ``source``, piece by piece, and not through any other process."""

        started = await self.start()
        if started.code is not None:
            return started
        return await self._agent.take_over(order, permit_s, _pieces_of(source, order.name))

    async def snapshot(self, method: str, *what: Any) -> Answer:
        started = await self.start()
        return started if started.code is not None else await self._agent.snapshots.call(method, *what)

    async def fetch(self, snapshot: str, source: str, automatic: bool) -> Answer:
        """A copy of a snapshot comes from the agent of ``source``, as in :meth:`take_over`."""
        started = await self.start()
        if started.code is not None:
            return started
        hosts = RayHosts()
        try:
            export = await hosts.ask(source, "snapshot", "export", snapshot, self._agent.config.name)
            file = value_of(export, source)
            try:
                await self._agent.snapshots.fetch(snapshot, automatic, _pieces_of(source, file))
            finally:
                await hosts.ask(source, "snapshot", "end_export", file)
        except BallonetError as error:
            return failed(error)
        return Answer(snapshot)

    async def restore(self, order: Order, permit_s: float | None, snapshot: str) -> Answer:
        started = await self.start()
        return started if started.code is not None else await self._agent.restore(order, permit_s, snapshot)

    async def stop(self, name: str) -> Answer:
        return await self._agent.stop(name)

    async def remove(self, name: str, force: bool) -> Answer:
        return await self._agent.remove(name, force)

    async def close_host(self, why: str | None) -> Answer:
        return self._agent.close_host(why)

    async def leave(self) -> Answer:
        return self._agent.leave()

    async def end(self) -> None:
        await self._agent.close()


def _pieces_of(source: str, file: str) -> Callable[[int], Awaitable[bytes]]:
    """Reads a file of another host's agent."""

    async def piece_at(offset: int) -> bytes:
        found: bytes = value_of(await RayHosts().ask(source, "piece", file, offset), source)
        return found

    return piece_at


class RayHosts:
    """The hosts of the cluster for the directory: :class:`ballonet.cluster.directory_state.Hosts`."""

    async def names(self) -> list[str]:
        actors = await asyncio.to_thread(ray.util.list_named_actors)
        return sorted(name.removeprefix(_HOST) for name in actors if name.startswith(_HOST))

    async def report(self, host: str, grant: Grant) -> Answer:
        return await self.ask(host, "report", grant)

    async def create(self, host: str, order: Order, permit_s: float | None) -> Answer:
        return await self.ask(host, "create", order, permit_s)

    async def fork(self, host: str, name: str, orders: Sequence[Order], permit_s: float | None) -> Answer:
        return await self.ask(host, "fork", name, orders, permit_s)

    async def pack_up(self, host: str, name: str) -> Answer:
        return await self.ask(host, "pack_up", name)

    async def take_over(self, host: str, order: Order, permit_s: float | None, source: str) -> Answer:
        return await self.ask(host, "take_over", order, permit_s, source)

    async def put_back(self, host: str, name: str) -> Answer:
        return await self.ask(host, "put_back", name)

    async def remove(self, host: str, name: str, force: bool) -> Answer:
        try:
            return await asyncio.wait_for(self.ask(host, "remove", name, force), REMOVE_S)
        except TimeoutError:
            return Answer(None, "host", f"host {host} did not answer within {REMOVE_S:g} s")

    async def snapshot(self, host: str, method: str, *what: Any) -> Answer:
        return await self.ask(host, "snapshot", method, *what)

    async def fetch(self, host: str, snapshot: str, source: str, automatic: bool) -> Answer:
        return await self.ask(host, "fetch", snapshot, source, automatic)

    async def restore(self, host: str, order: Order, permit_s: float | None, snapshot: str) -> Answer:
        return await self.ask(host, "restore", order, permit_s, snapshot)

    async def ask(self, host: str, method: str, *what: Any) -> Answer:
        try:
            actor = await asyncio.to_thread(find_host, host)
        except ValueError:
            return Answer(None, "host-lost", "it has no agent")
        except ray.exceptions.RayError as error:
            return lost(error)._replace(code="host-lost")
        return await asked(actor, method, *what)


class DirectoryActor:
    """:class:`DirectoryService` in a process on the head. It starts with the first call."""

    def __init__(self) -> None:
        self._starting: asyncio.Task[DirectoryService] | None = None

    async def call(self, method: str, *what: Any) -> Answer:
        """Call a method of the service."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        try:
            service = await asyncio.shield(self._starting)
        except BallonetError as error:
            self._starting = None  # the next call tries again
            return failed(error)
        try:
            answer: Any = getattr(service, method)(*what)
            found: Answer = await answer if inspect.isawaitable(answer) else answer
        except Exception:
            log.exception("%s failed", method)
            raise
        return found

    async def _start(self) -> DirectoryService:
        ledger = Ledger(private_dir(state_dir() / "cluster") / "ledger.db")
        service = DirectoryService(RayHosts(), ledger)
        await service.start()
        return service


def lost(error: Exception) -> Answer:
    """The answer of a host whose agent does not answer."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # The error of a method has its traceback before it.
    words = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
    return Answer(None, "host-unknown", f"its agent does not answer: {words}"[:300])


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
    _print_nothing()
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


def _print_nothing() -> None:
    """Keep Ray from printing what happens to other hosts on this program's standard error."""
    worker: Any = importlib.import_module("ray._private.worker")
    if hasattr(worker, "listen_error_messages"):
        worker.listen_error_messages = lambda worker, threads_stopped: None


def disconnect() -> None:
    """Disconnect this program from the cluster."""
    ray.shutdown()


def start_host(config: HostConfig) -> Any:
    """The actor of this host, which must be a node of the cluster. An actor of an earlier run is replaced."""
    name = _HOST + config.name
    end_host(config.name)
    groups = {STREAMS: STREAM_CALLS}
    actor = ray.remote(concurrency_groups=groups)(HostActor).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        max_concurrency=OTHER_CALLS,
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
        max_concurrency=OTHER_CALLS,
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


async def asked(actor: Any, method: str, *what: Any) -> Answer:
    """Call an actor, as :func:`ask`, in an event loop."""
    try:
        answer: Answer = await getattr(actor, method).remote(*what)
    except ray.exceptions.RayError as error:
        return lost(error)
    return answer


def ask(actor: Any, method: str, *what: Any, timeout: float | None = None, **how: Any) -> Answer:
    """Call an actor and wait. An actor that is lost is an answer, too."""
    try:
        answer: Answer = ray.get(getattr(actor, method).remote(*what, **how), timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        return Answer(None, "host", f"no answer within {timeout:g} s")
    except ray.exceptions.RayError as error:
        return lost(error)
    return answer
