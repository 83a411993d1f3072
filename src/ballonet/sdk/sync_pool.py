"""Pool without asyncio; :mod:`ballonet.sdk.pool` has the one with it."""

from __future__ import annotations

from typing import Any, Self, Unpack

from ballonet.base.errors import EventLoopError
from ballonet.sdk.creation import Balloon
from ballonet.sdk.pool import Pool as AsyncPool
from ballonet.sdk.signatures import takes_settings
from ballonet.sdk.sync import Sandbox
from ballonet.sdk.sync_calls import undo_create
from ballonet.sdk.sync_loop import LOOP
from ballonet.settings.definitions import CreateSettings


class Pool:
    """Keeps ``size`` sandboxes waiting, each with its balloon at the floor. :meth:`take` gives one out, and another one
    is started in the background.

    ``with Pool(size=4, image="debian:12") as pool: with pool.take() as box: …``. See
    :class:`ballonet.sdk.pool.Pool`. Calls may come from any thread.
    """

    @takes_settings(CreateSettings)
    def __init__(
        self,
        *,
        size: int,
        snapshot: str | None = None,
        prefix: str = "pool",
        balloon: Balloon | bool = True,
        env: dict[str, str] | None = None,
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
        given: dict[str, Any] = {**settings}
        self._inner = AsyncPool(
            size=size,
            snapshot=snapshot,
            prefix=prefix,
            balloon=balloon,
            env=env,
            cwd=cwd,
            user=user,
            admission=admission,
            **given,
        )

    def __repr__(self) -> str:
        return repr(self._inner)

    @property
    def waiting(self) -> int:
        """How many sandboxes are ready to be taken."""
        return self._inner.waiting

    def open(self) -> Self:
        """Begin to start sandboxes, in the background. Entering the ``with`` block does this."""
        LOOP.run(self._inner.open())
        return self

    def take(self, timeout_s: float | None = None) -> Sandbox:
        """Take a sandbox, which is the caller's from now on. If none is ready, wait for the next one.

        :param timeout_s: how long to wait at most.
        :raises BallonetError: none is ready, and the last start has failed: the error of that start.
        :raises TimeoutError: none was ready in time.
        :raises SandboxClosedError: the pool is closed, or not open yet.
        """
        return Sandbox(LOOP.run(self._inner.take(timeout_s), undo_create))

    def fill(self, timeout_s: float | None = None) -> None:
        """Wait until all sandboxes of the pool are ready.

        :raises BallonetError: a start has failed.
        :raises TimeoutError: they were not ready in time.
        """
        LOOP.run(self._inner.fill(timeout_s))

    def close(self) -> None:
        """End the sandboxes that wait. May be repeated. Sandboxes that were taken are not affected."""
        try:
            LOOP.run(self._inner.close())
        except EventLoopError:
            raise
        except BaseException:  # interrupted (Ctrl-C): it continues in the loop
            LOOP.forget(self._inner.close())
            raise

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()
