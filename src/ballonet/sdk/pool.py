"""Pool: sandboxes that were started before they are needed, and wait with little memory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, Unpack

from ballonet.base.arguments import check_flag, check_seconds, check_text, wrong_type
from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, ConfigError, SandboxClosedError
from ballonet.sdk.creation import Balloon, configuration, with_defaults
from ballonet.sdk.random_name import random_name
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.signatures import takes_settings
from ballonet.settings.config import check_name
from ballonet.settings.definitions import CreateSettings
from ballonet.settings.labels import check_labels
from ballonet.settings.values import names_packages
from ballonet.vmm.builder import default_floor_mib

log = logging.getLogger(__name__)

#: The most sandboxes of a pool, and how many of them start at once.
MOST_WAITING = 1000
_AT_ONCE = 2
#: After a failed start, the first and the longest pause before the next one (seconds).
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Pool:
    """Keeps ``size`` sandboxes waiting, each with its balloon at the floor. :meth:`take` gives one out, and another one
    is started in the background.

    ``async with Pool(size=4, image="debian:12") as pool: async with await pool.take() as box: …``. Waiting sandboxes
    end with the block, and with this program however it ends. One that was taken is the caller's: it ends with its own
    block, or with this program.

    The settings are those of :meth:`Sandbox.create`. Use a pool in one event loop.
    """

    @takes_settings(CreateSettings)
    def __init__(
        self,
        *,
        size: int,
        snapshot: str | None = None,
        prefix: str = "pool",
        balloon: Balloon | bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        admission: bool = True,
        **settings: Unpack[CreateSettings],
    ) -> None:
        """Check the settings; nothing is started before :meth:`open`.

        :param size: how many sandboxes wait.
        :param snapshot: restore the sandboxes from this snapshot, which has the other settings.
        :param prefix: what their names begin with.
        :param settings: generated from ballonet.settings.definitions
        :param balloon: the balloon's settings; its initial size is what a sandbox gets when it is taken.
        :param env: environment variables of all commands.
        :param cwd: default working directory of commands.
        :param user: default user of commands.
        :param admission: if an autopilot manages the host's sandboxes, start one only if it finds room.
        :raises ConfigError: a setting is invalid.
        """
        if isinstance(size, bool) or not isinstance(size, int):
            raise wrong_type("size", "a whole number", size)
        if not 1 <= size <= MOST_WAITING:
            raise ConfigError(f"size {size} is outside 1 to {MOST_WAITING}")
        check_text("snapshot", snapshot)
        check_name(f"{prefix}-00000000", "prefix")
        check_flag("admission", admission)
        self._size = size
        self._prefix = prefix
        #: What a sandbox gets when it is taken (MiB); ``None``: it has no balloon.
        self._taken_mib: int | None = None
        if snapshot is not None:
            if settings or balloon is not True or env or cwd or user:
                given = ", ".join(settings) or "balloon, env, cwd and user"
                raise ConfigError(
                    f"a pool of snapshot {snapshot!r} has the settings of the snapshot, and takes no {given}",
                    hint="leave them out, or the snapshot",
                )
            self._start = self._restoring(snapshot, admission)
        else:
            common = {"env": env, "cwd": cwd, "user": user, "admission": admission}
            self._start = self._creating(settings, balloon, common)
        self._waiting: deque[Sandbox] = deque()
        self._failure: BallonetError | None = None
        self._changed: asyncio.Condition | None = None
        self._filler: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        how = "closed" if self._closed else f"{len(self._waiting)} of {self._size} waiting"
        return f"<{type(self).__name__}, {how}>"

    @property
    def waiting(self) -> int:
        """How many sandboxes are ready to be taken."""
        return len(self._waiting)

    async def open(self) -> Self:
        """Begin to start sandboxes, in the background. Entering the ``async with`` block does this."""
        if self._closed:
            self._opened()
        if self._filler is None:
            from ballonet.machine.launch import expect_starts

            self._changed = asyncio.Condition()
            expect_starts(self._size)
            self._filler = asyncio.create_task(self._fill(), name="pool")
        return self

    async def take(self, timeout_s: float | None = None) -> Sandbox:
        """Take a sandbox, which is the caller's from now on. If none is ready, wait for the next one.

        :param timeout_s: how long to wait at most.
        :raises BallonetError: none is ready, and the last start has failed: the error of that start.
        :raises TimeoutError: none was ready in time.
        :raises SandboxClosedError: the pool is closed, or not open yet.
        """
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        async with asyncio.timeout(timeout_s):
            while True:
                box = await self._next()
                if await self._prepared(box):
                    return box

    async def fill(self, timeout_s: float | None = None) -> None:
        """Wait until all sandboxes of the pool are ready.

        :raises BallonetError: a start has failed.
        :raises TimeoutError: they were not ready in time.
        """
        changed = self._opened()
        async with asyncio.timeout(timeout_s), changed:
            while len(self._waiting) < self._size:
                self._opened()
                self._raise_failure()
                await changed.wait()

    async def close(self) -> None:
        """End the sandboxes that wait. May be repeated. Sandboxes that were taken are not affected."""
        self._closed = True
        filler, self._filler = self._filler, None
        if filler is not None:
            filler.cancel()
            await asyncio.wait({filler})
        while self._waiting:
            await self._waiting.popleft().close()
        if self._changed is not None:
            async with self._changed:
                self._changed.notify_all()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _next(self) -> Sandbox:
        changed = self._opened()
        async with changed:
            while not self._waiting:
                self._raise_failure()
                await changed.wait()
                self._opened()
            box = self._waiting.popleft()
            changed.notify_all()
        return box

    async def _prepared(self, box: Sandbox) -> bool:
        """Give a sandbox its memory; false if it has ended meanwhile, for example because someone has killed it."""
        try:
            if self._taken_mib is not None:
                await box.balloon.set(self._taken_mib)
            else:
                box._check_usable()
        except BallonetError as error:
            log.info("sandbox %s of the pool is not used: %s", box.name, error)
            await box.close()
            return False
        except BaseException:
            await box.close()
            raise
        return True

    async def _fill(self) -> None:
        """Start sandboxes whenever some are missing, until this is cancelled."""
        assert self._changed is not None
        starts: set[asyncio.Task[None]] = set()
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                async with self._changed:
                    while True:
                        starts = {start for start in starts if not start.done()}
                        if len(starts) < min(_AT_ONCE, self._size - len(self._waiting)):
                            break
                        await self._changed.wait()
                    failed = self._failure is not None
                if failed:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                else:
                    pause_s = _FIRST_PAUSE_S
                starts.add(asyncio.create_task(self._add(), name="start for a pool"))
        finally:
            for start in starts:
                start.cancel()
            if starts:
                await asyncio.wait(starts)

    async def _add(self) -> None:
        """Start one sandbox, and let it wait."""
        assert self._changed is not None
        failure: BallonetError | None = None
        box: Sandbox | None = None
        try:
            box = await self._start(random_name(self._prefix))
            if self._taken_mib is not None:
                await box.balloon.get()  # connects, so that take() does not wait for that
        except BallonetError as error:
            log.info("a sandbox of the pool was not started: %s", error)
            failure = error
            if box is not None:
                await box.close()
        except BaseException:
            if box is not None:
                await box.close()
            raise
        async with self._changed:
            self._failure = failure
            if box is not None and failure is None:
                self._waiting.append(box)
            self._changed.notify_all()

    def _creating(
        self, settings: CreateSettings, balloon: Balloon | bool, common: dict[str, Any]
    ) -> Callable[[str], Awaitable[Sandbox]]:
        """A function that creates a sandbox with its balloon at the floor."""
        check_labels(settings.get("labels", {}))
        config = configuration(f"{self._prefix}-00000000", with_defaults(settings), balloon=balloon)
        if names_packages(settings.get("net_allow")):  # once, not for each sandbox
            settings = settings | {"net_allow": config.net_allow}
        if config.has_balloon:
            wanted = Balloon() if isinstance(balloon, bool) else balloon
            self._taken_mib = initial = config.balloon_initial_mib or config.memory_mib
            floor = config.balloon_min_mib
            floor = default_floor_mib(config.memory_mib, initial) if floor is None else floor
            balloon = replace(wanted, initial=floor, min=floor)

        async def create(name: str) -> Sandbox:
            return await Sandbox.create(name, balloon=balloon, **common, **settings)

        return create

    def _restoring(self, snapshot: str, admission: bool) -> Callable[[str], Awaitable[Sandbox]]:
        """A function that restores a sandbox, and moves its balloon to the floor."""

        async def restore(name: str) -> Sandbox:
            box = await Sandbox.restore(snapshot, name, admission=admission)
            try:
                if box.config.has_balloon:
                    state = await box.balloon.get()
                    self._taken_mib = state.target_mib
                    await box.balloon.set(state.floor_mib, wait=True)
            except BaseException:
                await box.close()
                raise
            return box

        return restore

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _opened(self) -> asyncio.Condition:
        """:raises SandboxClosedError: the pool is closed, or not open yet."""
        if self._closed:
            raise SandboxClosedError("the pool is closed", hint="use it in its 'with' block")
        if self._changed is None:
            raise SandboxClosedError("the pool is not open yet", hint="async with Pool(…) as pool: …")
        return self._changed
