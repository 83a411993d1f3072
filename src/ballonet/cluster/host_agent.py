"""The agent of one host: a thin edge over the library, with the host's autopilot. It knows nothing of Ray.

The host's registry is the truth about its sandboxes. The agent keeps beside it what only placement needs: the requests
of its sandboxes and whether the host takes more, in one file.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ballonet.base.errors import BallonetError, NotRunningError
from ballonet.base.paths import private_dir, replace_file, state_dir
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.bounds import DEFAULT_BOUNDS
from ballonet.cluster.offer import HostOffer, make_offer
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


class HostConfig(NamedTuple):
    """How a host takes part."""

    name: str
    budget_mib: int | None = None
    reserve_mib: int | None = None
    labels: Mapping[str, str] = {}


class HostReport(NamedTuple):
    """What a host says about itself."""

    #: ``at_s`` is the negative age of the offer: clocks of hosts are not compared.
    offer: HostOffer
    #: Its sandboxes, running or not, and their states.
    sandboxes: Mapping[str, str]


class HostAgent:
    """The methods that return an :class:`Answer` never raise a :class:`BallonetError`."""

    def __init__(self, config: HostConfig) -> None:
        self.config = config
        self._pilot: asyncio.Task[None] | None = None
        self._ticked = asyncio.Event()
        self._tick: Tick | None = None
        self._usage: dict[str, Usage] = {}
        self._boxes: dict[str, Sandbox] = {}
        self._requests, self._closed = _read_notes()

    async def start(self) -> Answer:
        """Start the autopilot and wait for its first tick."""
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
        return Answer(self.config.name)

    async def close(self) -> None:
        """Stop the autopilot. Sandboxes keep running."""
        if self._pilot is not None:
            self._pilot.cancel()
            await asyncio.gather(self._pilot, return_exceptions=True)

    async def report(self) -> Answer:
        """What the host offers, and its sandboxes: an :class:`HostReport`."""
        tick = self._tick
        if tick is None:
            return Answer(None, "host", "the autopilot has not reported yet")
        try:
            records, images = await asyncio.to_thread(_read_host)
        except BallonetError as error:
            return failed(error)
        groups: dict[str, int] = {}
        for record in records:
            request = self._requests.get(record.name)
            if request is not None and request.group is not None and record.state.lives:
                groups[request.group] = groups.get(request.group, 0) + 1
        usages = {view.name: self._usage[view.name] for view in tick.sandboxes}
        by_image: dict[str, list[Usage]] = {}
        for name, usage in usages.items():
            request = self._requests.get(name)
            if request is not None and request.image is not None:
                by_image.setdefault(request.image, []).append(usage)
        offer = make_offer(
            self.config.name,
            tick.host,
            tick.sandboxes,
            [usage.expectation for usage in usages.values()],
            at_s=tick.at - time.time(),
            groups=groups,
            labels=self.config.labels,
            images=images,
            version=__version__,
            held={image: telling(some) for image, some in by_image.items()},
            closed=self._closed,
        )
        return Answer(HostReport(offer, {record.name: record.state.value for record in records}))

    async def create(self, request: Request, settings: Mapping[str, Any]) -> Answer:
        """Create a detached sandbox. The host's admission has the last word."""
        if self._closed is not None:
            return Answer(None, "no-room", self._closed)
        self._note(request.name, request)
        try:
            box = await Sandbox.create(request.name, detached=True, **settings)
        except BallonetError as error:
            if error.code != "name-in-use":
                self._note(request.name, None)
            return failed(error)
        self._boxes[request.name] = box
        return Answer(request.name)

    async def exec(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Run a command and collect its output: status, standard output and standard error."""
        try:
            box = await self._box(name)
            done = await box.exec(argv, env=env, cwd=cwd, user=user, stdin=stdin, timeout=timeout)
        except NotRunningError as error:
            self._boxes.pop(name, None)
            return failed(error)
        except BallonetError as error:
            return failed(error)
        return Answer((done.returncode, done.stdout, done.stderr))

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
        except BallonetError as error:
            return failed(error)
        self._boxes.pop(name, None)
        self._note(name, None)
        return Answer(name)

    def close_host(self, why: str | None) -> Answer:
        """Take no more sandboxes, or take them again (``None``). This survives a restart of the agent."""
        self._closed = why
        try:
            self._write_notes()
        except BallonetError as error:
            return failed(error)
        return Answer(self.config.name)

    async def _box(self, name: str) -> Sandbox:
        found = self._boxes.get(name)
        if found is None:
            found = self._boxes[name] = await Sandbox.get(name)
        return found

    def _on_tick(self, tick: Tick) -> None:
        """Follow what each sandbox holds."""
        before = self._tick
        seconds = 0.0 if before is None else max(0.0, tick.at - before.at)
        usage = {}
        for view in tick.sandboxes:
            known = self._usage.get(view.name)
            if known is None:
                request = self._requests.get(view.name)
                known = unknown(view.ceiling_mib) if request is None else expected(request)
            held = view.resident_mib
            usage[view.name] = known if held is None else observed(known, float(held), seconds)
        self._usage, self._tick = usage, tick
        self._ticked.set()

    def _note(self, name: str, request: Request | None) -> None:
        if request is None:
            self._requests.pop(name, None)
        else:
            self._requests[name] = request
        self._write_notes()

    def _write_notes(self) -> None:
        document = {
            "closed": self._closed,
            "requests": {name: request._asdict() for name, request in self._requests.items()},
        }
        replace_file(private_dir(state_dir() / "cluster") / _NOTES, json.dumps(document).encode())


def _read_host() -> tuple[list[Record], frozenset[str]]:
    """The host's sandboxes, and the names of its images."""
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    return records, frozenset(name for image in ImageStore.open().list() for name in image.names)


_NOTES = "host.json"


def _read_notes() -> tuple[dict[str, Request], str | None]:
    """The requests of sandboxes, and why the host is closed. A file that cannot be read says nothing."""
    try:
        document = json.loads((state_dir() / "cluster" / _NOTES).read_bytes())
        requests = {name: Request(**fields) for name, fields in document["requests"].items()}
        return requests, document["closed"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}, None
