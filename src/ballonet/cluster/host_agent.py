"""The agent of one host: a thin edge over the library, with the host's autopilot. It knows nothing of Ray.

The host's registry is the truth about its sandboxes. The agent keeps beside it what only the cluster needs: what was
asked for, and whether the host takes more (:mod:`ballonet.cluster.host_notes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ballonet.base.errors import (
    BallonetError,
    ConfigError,
    NameInUseError,
    NotRunningError,
    StillRunningError,
    UnknownSandboxError,
)
from ballonet.cluster import host_forks, host_moving
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.bounds import DEFAULT_BOUNDS
from ballonet.cluster.fence import start_fence
from ballonet.cluster.host_labels import own_labels
from ballonet.cluster.host_notes import HostNotes, boot_time_s, fenced_names, lease_path
from ballonet.cluster.host_report import Figures, Grant, HostConfig, HostReport
from ballonet.cluster.host_snapshots import HostSnapshots, snapshots_here
from ballonet.cluster.host_streams import HostStreams
from ballonet.cluster.lease import LEASE_S, HostLease
from ballonet.cluster.ledger import Order
from ballonet.cluster.offer import make_offer
from ballonet.cluster.request import Request
from ballonet.cluster.usage import Usage, expected, observed, telling, unknown
from ballonet.images.store import ImageStore
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.pilot.lock import PilotLock
from ballonet.pilot.loop import DEFAULT_POLICY, Pilot, Settings, Tick
from ballonet.pilot.policies.catalog import make_policy
from ballonet.sdk.sandbox import Sandbox
from ballonet.version import __version__

#: How long a start of the agent waits for the autopilot's first tick (seconds).
FIRST_TICK_S = 30.0


#: What may be called of a sandbox: methods that take and return plain values.
METHODS = frozenset(
    [
        *("record", "metrics", "usage", "pause", "resume", "touch", "modify", "kill", "send_signal"),
        *(f"balloon.{name}" for name in ("get", "set", "limit", "stats", "trim")),
        *(f"fs.{name}" for name in ("list", "stat", "exists", "is_directory", "mkdir", "remove")),
    ]
)


class HostAgent:
    """The methods that return an :class:`Answer` never raise a :class:`BallonetError`."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self._labels = {**config.labels, **own_labels()}
        self._pilot: asyncio.Task[None] | None = None
        self._ticked = asyncio.Event()
        self._tick: Tick | None = None
        #: When the last tick was, on a clock that nobody sets.
        self._ticked_s = 0.0
        self._usage: dict[str, Usage] = {}
        self._boxes: dict[str, Sandbox] = {}
        self.notes = HostNotes()
        self._lease = HostLease()
        self.streams = HostStreams(self._box)
        self.snapshots = HostSnapshots(self.notes, self._box)

    async def start(self) -> Answer:
        """Start the autopilot and wait for its first tick. What an agent before it had not finished is removed."""
        try:
            lock = PilotLock.acquire(DEFAULT_POLICY)
        except BallonetError as error:
            return failed(error)
        settings = Settings(
            budget_mib=self.config.budget_mib,
            reserve_mib=self.config.reserve_mib,
            overcommit=DEFAULT_BOUNDS.overcommit,
        )
        pilot = Pilot(make_policy(DEFAULT_POLICY), settings, on_tick=self._on_tick)

        async def fly() -> None:
            with lock:
                await pilot.run()

        self._pilot = asyncio.create_task(fly(), name="autopilot")
        try:
            await asyncio.wait_for(self._ticked.wait(), FIRST_TICK_S)
        except TimeoutError:
            return Answer(None, "host", f"the autopilot did not report within {FIRST_TICK_S:g} s")
        try:
            await self._finish_creations()
            self.snapshots.remove_transfers()
            self._lease.expires_s = _held_lease_s()
            self.notes.write_lease(self._lease.expires_s)
            start_fence()
        except BallonetError as error:
            return failed(error)
        return Answer(self.config.name)

    async def _finish_creations(self) -> None:
        """Keep what an agent before this one created, and remove what it did not finish."""
        if not self.notes.creating:
            return
        records, _, _ = await asyncio.to_thread(_read_host)
        running = {record.name for record in records if record.state.value == "running"}
        for name in list(self.notes.creating):
            if name in running:
                self.notes.created(name)
                continue
            with contextlib.suppress(UnknownSandboxError):
                await Sandbox.remove(name, force=True)
            self.notes.forget(name)

    async def close(self) -> None:
        """Stop the autopilot, and close all streams. Sandboxes keep running."""
        await self.streams.close()
        if self._pilot is not None:
            self._pilot.cancel()
            await asyncio.gather(self._pilot, return_exceptions=True)

    async def report(self, grant: Grant | None = None) -> Answer:
        """What the host offers, and its sandboxes: an :class:`HostReport`."""
        mark_s = boot_time_s()
        grant = grant or Grant()
        try:
            renewed = self._lease.renew(grant.mark_s, mark_s)
            if self.notes.keep(grant.kept) or renewed:
                self.notes.write_lease(self._lease.expires_s)
            start_fence()
        except BallonetError as error:
            return failed(error)
        await self.streams.close_silent()
        tick = self._tick
        if tick is None:
            return Answer(None, "host", "the autopilot has not reported yet")
        try:
            records, images, snapshots = await asyncio.to_thread(_read_host)
        except BallonetError as error:
            return failed(error)
        groups: dict[str, int] = {}
        for record in records:
            request = self._request(record.name)
            if request is not None and request.group is not None and record.state.lives:
                groups[request.group] = groups.get(request.group, 0) + 1
        usages = {view.name: self._usage[view.name] for view in tick.sandboxes}
        by_image: dict[str, list[Usage]] = {}
        for name, usage in usages.items():
            request = self._request(name)
            if request is not None and request.image is not None:
                by_image.setdefault(request.image, []).append(usage)
        offer = make_offer(
            self.config.name,
            tick.host,
            tick.sandboxes,
            [usage.expectation for usage in usages.values()],
            at_s=self._ticked_s - boot_time_s(),
            groups=groups,
            labels=self._labels,
            images=images,
            states=snapshots,
            version=__version__,
            held={image: telling(some) for image, some in by_image.items()},
            closed=self.notes.closed,
        )
        figures = {view.name: Figures.of(view) for view in tick.sandboxes}
        states = {record.name: record.state.value for record in records}
        orders = {name: order for name, order in self.notes.orders.items() if name in states}
        return Answer(
            HostReport(
                offer,
                states,
                mark_s,
                orders,
                frozenset(self.notes.creating),
                fenced_names(),
                frozenset(self.notes.moving),
                frozenset(self.notes.automatic) & snapshots,
                figures,
                time.time(),
            )
        )

    async def create(self, order: Order, permit_s: float | None = None) -> Answer:
        """Create a detached sandbox. The host's admission has the last word.

        :param permit_s: the mark of this host with which that was decided. A question that arrives late is refused,
            because the sandbox may have been created elsewhere.
        """
        name = order.name
        refused = self._refusal(name, permit_s)
        if refused is not None:
            return refused
        try:
            self.notes.begin(order)
            self.notes.write_lease(self._lease.expires_s)
            start_fence()
            box = await Sandbox.create(name, detached=True, **order.settings)
            self.notes.created(name)
        except BallonetError as error:
            self.notes.forget(name)
            return failed(error)
        self._boxes[name] = box
        return Answer(name)

    async def pack_up(self, name: str) -> Answer:
        """Pause a sandbox and make a file of it: see :mod:`ballonet.cluster.host_moving`."""
        try:
            await host_moving.pack_up(self.notes, await self._box(name))
        except BallonetError as error:
            return failed(error)
        return Answer(name)

    async def put_back(self, name: str) -> Answer:
        """It is not moved."""
        try:
            await host_moving.put_back(self.notes, await Sandbox.get(name))
        except BallonetError as error:
            return failed(error)
        return Answer(name)

    def piece(self, name: str, offset: int) -> Answer:
        """A part of the file of a sandbox that is being moved."""
        try:
            return Answer(host_moving.piece(name, offset))
        except BallonetError as error:
            return failed(error)

    async def take_over(
        self, order: Order, permit_s: float | None, piece_at: Callable[[int], Awaitable[bytes]]
    ) -> Answer:
        """Take a sandbox over from another host."""
        refused = self._refusal(order.name, permit_s)
        if refused is not None:
            return refused
        try:
            self._boxes[order.name] = await host_moving.take_over(
                self.notes, order, piece_at, lambda: self._lease.expires_s
            )
        except BallonetError as error:
            return failed(error)
        return Answer(order.name)

    async def restore(self, order: Order, permit_s: float | None, snapshot: str) -> Answer:
        """Make a sandbox of a snapshot of this host."""
        refused = self._refusal(order.name, permit_s)
        if refused is not None:
            return refused
        try:
            self._boxes[order.name] = await self.snapshots.restore(
                order, snapshot, lambda: self._lease.expires_s
            )
        except BallonetError as error:
            return failed(error)
        return Answer(order.name)

    async def fork(self, name: str, orders: Sequence[Order], permit_s: float | None) -> Answer:
        """Make copies of a running sandbox here."""
        for order in orders:
            refused = self._refusal(order.name, permit_s)
            if refused is not None:
                return refused
        try:
            made = await host_forks.fork(self.notes, await self._box(name), orders, self._lease.expires_s)
        except BallonetError as error:
            return failed(error)
        self._boxes |= {box.name: box for box in made}
        return Answer(name)

    def _refusal(self, name: str, permit_s: float | None) -> Answer | None:
        """Why nothing is started here. Otherwise the permit is a lease, too."""
        if self.notes.closed is not None:
            return Answer(None, "no-room", self.notes.closed)
        if permit_s is not None and boot_time_s() >= permit_s + LEASE_S:
            return Answer(None, "host-lost", "it was cut off, and was asked too long ago")
        if name in self.notes.orders:
            return failed(NameInUseError(f"sandbox {name!r} exists already, or is being created"))
        self._lease.renew(permit_s, boot_time_s())
        return None

    async def stream(self, method: str, *what: Any) -> Answer:
        """Something about a stream: see :class:`ballonet.cluster.host_streams.HostStreams`."""
        return await self.streams.call(method, *what)

    async def use(self, name: str, method: str, what: Sequence[Any], how: Mapping[str, Any]) -> Answer:
        """Call one of :data:`METHODS` of a sandbox."""
        if method not in METHODS:
            return failed(ConfigError(f"unknown method {method!r}"[:200]))
        try:
            found: Any = await self._box(name)
            for word in method.split("."):
                found = getattr(found, word)
            answer = found(*what, **how)
            return Answer(await answer if inspect.isawaitable(answer) else answer)
        except NotRunningError as error:
            self._boxes.pop(name, None)
            return failed(error)
        except BallonetError as error:
            return failed(error)

    async def stop(self, name: str) -> Answer:
        """Stop a sandbox; it stays registered."""
        try:
            await (await self._box(name)).stop()
        except BallonetError as error:
            return failed(error)
        finally:
            self._boxes.pop(name, None)
        return Answer(name)

    async def remove(self, name: str, force: bool) -> Answer:
        """Remove a sandbox."""
        try:
            await Sandbox.remove(name, force=force)
            if name in self.notes.moving:
                await host_moving.clean_up(name)
        except UnknownSandboxError as error:
            self.notes.forget(name)
            return failed(error)
        except BallonetError as error:
            return failed(error)
        self._boxes.pop(name, None)
        self.notes.forget(name)
        return Answer(name)

    def close_host(self, why: str | None) -> Answer:
        """Take no more sandboxes, or take them again (``None``). This survives a restart of the agent."""
        self.notes.closed = why
        try:
            self.notes.write()
        except BallonetError as error:
            return failed(error)
        return Answer(self.config.name)

    def leave(self) -> Answer:
        """Leave the cluster: what is left here is no longer the cluster's."""
        self.notes.orders.clear()
        self.notes.kept.clear()
        try:
            self.notes.write()
        except BallonetError as error:
            return failed(error)
        lease_path().unlink(missing_ok=True)
        return Answer(self.config.name)

    def _request(self, name: str) -> Request | None:
        order = self.notes.orders.get(name)
        return None if order is None else order.request

    async def _box(self, name: str) -> Sandbox:
        if name in self.notes.moving:
            raise StillRunningError(f"sandbox {name!r} is being moved to another host", hint="try again")
        found = self._boxes.get(name)
        if found is None:
            found = self._boxes[name] = await Sandbox.get(name)
        return found

    def _on_tick(self, tick: Tick) -> None:
        """Follow what each sandbox holds."""
        now_s = boot_time_s()
        seconds = 0.0 if self._tick is None else now_s - self._ticked_s
        usage = {}
        for view in tick.sandboxes:
            known = self._usage.get(view.name)
            if known is None:
                request = self._request(view.name)
                known = unknown(view.ceiling_mib) if request is None else expected(request)
            held = view.resident_mib
            usage[view.name] = known if held is None else observed(known, float(held), seconds)
        self._usage, self._tick, self._ticked_s = usage, tick, now_s
        self._ticked.set()


def _read_host() -> tuple[list[Record], frozenset[str], frozenset[str]]:
    """The host's sandboxes, and the names of its images and snapshots."""
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    images = frozenset(name for image in ImageStore.open().list() for name in image.names)
    return records, images, snapshots_here()


def _held_lease_s() -> float:
    """The lease that an agent before this one wrote down; it is still good."""
    try:
        held_s = float(json.loads(lease_path().read_bytes())["expires_s"])
        return held_s if held_s <= boot_time_s() + LEASE_S else 0.0  # it is of an earlier boot
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
