"""A cluster as a program uses it: ``Cluster("auto").create("box", memory="1G").exec(["true"])``."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from ballonet.base.duration import Duration, parse_duration
from ballonet.base.errors import BallonetError, ConfigError, HostError
from ballonet.base.missing_modules import require_module
from ballonet.cluster.addresses import connects_from, use_token
from ballonet.cluster.answers import value_of
from ballonet.cluster.cluster_sandbox import ClusterSandbox, ClusterSnapshot, SavedCopies
from ballonet.cluster.host_connection import HostConnections, HostLine
from ballonet.cluster.ledger import Order, Restart, check_order
from ballonet.cluster.merged_samples import merged, place_of
from ballonet.cluster.node_notes import read_node, token_path
from ballonet.cluster.request import Affinity, Request, Strategy
from ballonet.cluster.request_of import request_of
from ballonet.metrics.model import Snapshot
from ballonet.settings.config import check_name

#: How often a program that owns sandboxes or has streams says that it is there (seconds).
KEEP_S = 4.0
#: How long a host may take to say what its sandboxes use (seconds).
SAMPLES_S = 10.0


class Cluster:
    """A connection to a cluster, from one of its hosts. A program has one cluster at a time.

    :param address: ``HOST:PORT`` of the head; ``auto``: the cluster that this host has joined.
    :param token: the file with the cluster's token; by default the one that ``cluster up`` or ``join`` uses.
    :raises BallonetError: there is no such cluster, or it does not answer.
    """

    def __init__(self, address: str = "auto", *, token: Path | None = None) -> None:
        require_module("ray", "a cluster cannot be used")
        if address == "auto":
            node = read_node()
            if node is None or not node.process.alive():
                raise HostError(
                    "this host is not part of a cluster",
                    hint="'ballonet cluster up' starts one, 'ballonet cluster join ADDRESS' joins one",
                )
            address = node.address
            token = token or node.token
        token = token or token_path()
        connects_from(address)
        use_token(token)
        from ballonet.cluster import ray_actors

        ray_actors.connect(address, token)
        self.address = address
        self._ray = ray_actors
        self._directory = ray_actors.start_directory()
        #: Names this program to the hosts: what it owns ends with it.
        self.session = secrets.token_hex(8)
        self._owns = False
        self._streaming: set[str] = set()
        self._connections = HostConnections()
        #: The agents of hosts that have answered to :meth:`open_server`.
        self._actors: dict[str, Any] = {}
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="ballonet-cluster", daemon=True)
        self._keeper.start()

    def create(
        self,
        name: str,
        *,
        expected: str | int | None = None,
        labels: Mapping[str, str] | None = None,
        group: str | None = None,
        affinity: Affinity | None = None,
        strategy: Strategy = "spread",
        detached: bool = True,
        restart: Restart = "no",
        save_every: Duration | None = None,
        sandbox_labels: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> ClusterSandbox:
        """Create a sandbox on the host that fits best, and return when its guest answers.

        :param detached: keep it running when this program ends. Otherwise it is removed then, at the latest 15 s after
            a program that was killed.
        :param restart: ``elsewhere``: if its host is lost, start it on another one: from its last saved state that
            another host has, otherwise with an empty disk. It ends on a host that is cut off. ``no``: its name stays in
            use until its host returns.
        :param save_every: save it for that this often: seconds, or text such as ``5m``.
        :param expected: the memory that it will use on average, such as ``300M``; by default, what others of its image
            use, or a quarter of its ceiling.
        :param labels: labels that the host must have.
        :param group: sandboxes of a group are placed ``near`` or ``apart`` from each other (``affinity``).
        :param strategy: ``spread``: the emptiest host; ``pack``: the fullest one that has room.
        :param sandbox_labels: labels of the sandbox itself.
        :param settings: as in :meth:`ballonet.Sandbox.create`, except ``rootfs``, ``labels``, ``detached`` and
            ``admission``.
        :raises AdmissionError: no host has room; the message has the numbers of each.
        :raises NameInUseError: a sandbox on some host has this name.
        :raises BallonetError: it did not start; nothing is left behind.
        """
        if sandbox_labels:
            settings["labels"] = dict(sandbox_labels)
        request = request_of(
            name,
            settings,
            expected=expected,
            labels=labels,
            group=group,
            affinity=affinity,
            strategy=strategy,
        )
        order = check_order(self._order(request, settings, restart, detached, save_every))
        if not detached:
            self._owns = True
            self._tell("keep_session", self.session)
        host = self._tell("create", order)
        return ClusterSandbox(self, name, host)

    def _order(
        self,
        request: Request,
        settings: Mapping[str, Any],
        restart: Restart,
        detached: bool,
        save_every: Duration | None,
    ) -> Order:
        """:raises ConfigError: ``save_every`` is not a duration."""
        every_s: int | None = None
        if save_every is not None:
            try:
                every_s = parse_duration(save_every) if isinstance(save_every, str) else int(save_every)
            except (TypeError, ValueError, OverflowError):
                raise ConfigError(
                    f"save_every {save_every!r} is not a duration", hint="write seconds, 90s, 5m or 1h30m"
                ) from None
        return Order(request, settings, restart, None if detached else self.session, every_s)

    def save(self, name: str, snapshot: str | None, *, copies: int, trim: bool) -> SavedCopies:
        """Save a sandbox; see :meth:`ClusterSandbox.snapshot`."""
        return SavedCopies(*self._tell("save", name, snapshot, copies, trim))

    def snapshots(self) -> list[ClusterSnapshot]:
        """The snapshots that were made through the cluster, the oldest first."""
        return [ClusterSnapshot(*one) for one in self._tell("snapshots")]

    def find_snapshot(self, snapshot: str) -> tuple[str, ...]:
        """The hosts that have a snapshot, those that answer first.

        :raises UnknownSnapshotError: the cluster has none with that name.
        """
        return tuple(self._tell("find_snapshot", snapshot))

    def remove_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot on all hosts that have it.

        :raises UnknownSnapshotError: the cluster has none with that name.
        """
        self._tell("remove_snapshot", snapshot)

    def restore(
        self,
        snapshot: str,
        name: str,
        *,
        ports: Sequence[str] = (),
        host_labels: Mapping[str, str] | None = None,
        detached: bool = True,
        restart: Restart = "no",
        save_every: Duration | None = None,
    ) -> ClusterSandbox:
        """Make a sandbox that continues from a snapshot of the cluster, on a host that has it if one has room, else on
        another one, to which it is sent.

        :param ports: publish these ports; those of the saved sandbox are not published.
        :param host_labels: labels that the host must have.
        :param detached: as in :meth:`create`, and so are ``restart`` and ``save_every``.
        :raises UnknownSnapshotError: the cluster has none with that name.
        :raises SnapshotError: no host can restore it.
        """
        check_name(name)
        request = Request(name, 1, 1, 1, labels=dict(host_labels or {}))
        order = self._order(request, {"ports": list(ports)}, restart, detached, save_every)
        if not detached:
            self._owns = True
            self._tell("keep_session", self.session)
        return ClusterSandbox(self, name, self._tell("restore", snapshot, order))

    def get(self, name: str) -> ClusterSandbox:
        """Find a sandbox on any host.

        :raises UnknownSandboxError: no host has it.
        """
        return ClusterSandbox(self, name, self._tell("find", name))

    def status(self) -> dict[str, Any]:
        """Each host: its offer, with its age as a negative ``at_s``, its sandboxes and their states, and why it does
        not answer."""
        found: dict[str, Any] = self._tell("status")
        return found

    def hosts(self) -> dict[str, str | None]:
        """Why each host does not answer, as it was when the directory last asked; ``None``: it does."""
        found: dict[str, str | None] = self._tell("names")
        return found

    def samples(self, timeout_s: float = SAMPLES_S) -> tuple[Snapshot, str]:
        """The memory of all sandboxes on all hosts, in which a sandbox is named ``HOST/NAME``, with the sums of the
        hosts, and which hosts are missing, with the reason (empty: none).

        :param timeout_s: how long a host may take to answer.
        """

        def one(host: str) -> Snapshot | BallonetError:
            try:
                snapshot: Snapshot = self.call(host, "collect", timeout=timeout_s)
            except BallonetError as error:
                return error
            return snapshot

        hosts = list(self.status())
        with ThreadPoolExecutor(max(1, len(hosts))) as threads:
            answers = dict(zip(hosts, threads.map(one, hosts), strict=True))
        missing = [
            f"{host} is missing: {answer}"
            for host, answer in answers.items()
            if isinstance(answer, Exception)
        ]
        found = {host: answer for host, answer in answers.items() if not isinstance(answer, Exception)}
        return merged(found, time.time()), "; ".join(missing)

    def at(self, place: str) -> ClusterSandbox:
        """The sandbox that :meth:`samples` names ``HOST/NAME``."""
        host, name = place_of(place)
        return ClusterSandbox(self, name, host)

    def drain(
        self, host: str, *, undo: bool = False, move: bool = False
    ) -> Mapping[str, tuple[str | None, str]]:
        """Place no more sandboxes on a host; those that run there keep running, or are moved.

        :param move: move its sandboxes to other hosts: each is paused, sent and resumed, with its memory and disk.
            Those with volumes, and those in which commands of clients run, stay.
        :returns: for each sandbox that was there: the host that it was moved to, or ``None`` and why it was not.
        :raises ConfigError: there is no such host.
        """
        self._tell("check_host", host)
        self.call(host, "close_host", None if undo else "it is being drained")
        self._tell("check_host", host)  # the directory learns at once what it takes now
        if undo or not move:
            return {}
        moved: Mapping[str, tuple[str | None, str]] = self._tell("empty", host)
        return moved

    def forget(self, host: str) -> None:
        """Say that a host that does not answer is off for good: its names can be used again, and sandboxes that may
        run elsewhere are started there at once.

        :raises ConfigError: there is no such host, or it answers.
        """
        self._tell("check_host", host)
        self._tell("forget", host)

    def fork(self, name: str, names: Sequence[str], *, detached: bool = True) -> str:
        """Make copies of a running sandbox; see :meth:`ClusterSandbox.fork`. Returns its host."""
        if not detached:
            self._owns = True
            self._tell("keep_session", self.session)
        host: str = self._tell("fork", name, list(names), None if detached else self.session)
        return host

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a sandbox, wherever it is.

        :param force: even if it is running.
        :raises HostError: its host does not answer.
        """
        self._tell("remove", name, force)

    def close(self) -> None:
        """Disconnect this program. Sandboxes that it owns are removed, others keep running.

        If the head ends first, Ray ends a program that is still connected a minute later.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._keeper.join()
        try:
            if self._owns:
                self._tell("end_session", self.session)
        finally:
            self._ray.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, host: str, method: str, *what: Any, timeout: float | None = None, **how: Any) -> Any:
        """Ask the agent of a host.

        :param timeout: how long it may take (seconds).
        :raises BallonetError: its answer is an error, or it does not answer.
        """
        try:
            actor = self._ray.find_host(host)
        except ValueError:
            raise HostError(f"host {host} has left the cluster") from None
        return value_of(self._ray.ask(actor, method, *what, timeout=timeout, **how), host)

    async def open_server(self, host: str) -> HostLine:
        """Connect to the HTTP API of a host, through its agent. Always called in the same event loop.

        :raises HostError: it has left.
        """
        actor = self._actors.get(host)
        if actor is None:
            try:
                actor = await asyncio.to_thread(self._ray.find_host, host)
            except ValueError:
                raise HostError(f"host {host} has left the cluster") from None
            self._actors[host] = actor

        async def stream(method: str, *what: Any) -> Any:
            answer = await self._ray.asked(actor, "stream", method, *what)
            if answer.code is not None:
                self._actors.pop(host, None)  # there may be a new one
            return value_of(answer, host)

        self.streaming(host)
        return self._connections.open(stream, self.session)

    def streaming(self, host: str) -> None:
        """Tell a host from now on that this program is there."""
        self._streaming.add(host)

    def _tell(self, method: str, *what: Any) -> Any:
        """Ask the directory.

        :raises BallonetError: its answer is an error, or it does not answer.
        """
        return value_of(self._ray.ask(self._directory, "call", method, *what))

    def _keep(self) -> None:
        """Tell the directory and the hosts that this program is there."""
        while not self._closing.wait(KEEP_S):
            with contextlib.suppress(Exception):  # the next round tries again, and a call says what is wrong
                if self._owns:
                    self._ray.ask(self._directory, "call", "keep_session", self.session, timeout=KEEP_S)
                for host in list(self._streaming):
                    self._ray.ask(self._ray.find_host(host), "keep_streams", self.session, timeout=KEEP_S)
