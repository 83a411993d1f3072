"""Carries out requests: maps methods to calls of the backend, and errors to replies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.control import protocol
from ballonet.control.backend import Backend, BalloonSnapshot, ChangeSignal, TrimRequest, clamp
from ballonet.control.peers import Access
from ballonet.control.protocol import (
    LimitParams,
    Refusal,
    Request,
    SetParams,
    StatsParams,
    VersionResult,
    set_reply,
)

log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A refusal raised by a handler; caught in this file."""

    def __init__(
        self, code: int, message: str, hint: str | None = None, error_code: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.error_code = error_code


class Watch:
    """The position of one watcher in the stream of changes."""

    def __init__(self, signal: ChangeSignal) -> None:
        self._signal = signal
        self._version = 0

    async def next(self) -> BalloonSnapshot:
        """The newest state, once it is newer than the last one returned."""
        self._version, snapshot = await self._signal.wait_change(self._version)
        return snapshot


class Dispatcher:
    """Answers requests with calls of a backend. One per server.

    :param call_s: timeout for calls of the backend other than a trim or a wait (seconds).
    """

    def __init__(self, backend: Backend, *, program_version: str, call_s: float) -> None:
        self._backend = backend
        self._program_version = program_version
        self._call_s = call_s
        self._trimming = False

    def answer_at_once(self, request: Request, access: Access) -> bytes | None:
        """The reply to a request that needs no waiting; ``None``: use :meth:`answer`.

        Reading the state, the most frequent request, needs no task switch.
        """
        name = request.method.name
        try:
            if access is not Access.FULL and not request.method.observers:
                raise _RefusedError(
                    protocol.NOT_PERMITTED,
                    f"{name}: observers may read, but not change",
                    "ask the sandbox's owner",
                )
            if name == "balloon.get":
                result: object = self.balloon()
            elif name == "version":
                capabilities = self._backend.capabilities()
                result = VersionResult(protocol.PROTOCOL_VERSION, self._program_version, capabilities)
            else:
                return None
        except Exception as error:
            return self._error_line(request, error)
        return protocol.result_line(request.id, result)

    async def answer(self, request: Request, on_wait: Callable[[], None]) -> bytes:
        """Carry out a request and return its reply.

        :param on_wait: called when only waiting is left: from then on this may be cancelled.
        """
        params = request.params
        try:
            result = await self._carry_out(params, on_wait)
        except Exception as error:
            return self._error_line(request, error)
        return protocol.result_line(request.id, result)

    async def begin_watch(self, request: Request) -> tuple[bytes, Watch | None]:
        """The reply to ``balloon.watch``, and a watch that continues from the state in that reply."""
        try:
            self.balloon()
            watch = Watch(self._backend.subscribe())
            snapshot = await self._in_time(watch.next())
        except Exception as error:
            return self._error_line(request, error), None
        return protocol.result_line(request.id, snapshot), watch

    async def answer_plain(self, target_mib: int) -> bytes:
        """Carry out a plain request and return its reply."""
        try:
            snapshot = self.balloon()
            result = await self._in_time(self._backend.set_target(target_mib, force=False))
        except Exception as error:
            return protocol.plain_error(_refusal(error).message)
        return protocol.plain_ok(snapshot.ceiling_mib, result.target_mib)

    def balloon(self) -> BalloonSnapshot:
        """The current state.

        :raises _RefusedError: there is no balloon.
        """
        snapshot = self._backend.balloon
        if snapshot is None:
            raise _RefusedError(
                protocol.NO_BALLOON,
                "this sandbox has no balloon",
                "set a balloon option when making the sandbox",
            )
        return snapshot

    async def _carry_out(self, params: object, on_wait: Callable[[], None]) -> object:
        if isinstance(params, SetParams):
            return await self._set(params, on_wait)
        if isinstance(params, LimitParams):
            return await self._limit(params)
        if isinstance(params, TrimRequest):
            return await self._trim(params)
        assert isinstance(params, StatsParams)
        return await self._in_time(self._backend.stats(params.max_age_s))

    async def _set(self, params: SetParams, on_wait: Callable[[], None]) -> object:
        before = self.balloon()
        target_mib, clamped = clamp(params.target_mib, before)
        if params.strict and clamped is not None:
            raise _RefusedError(
                protocol.OUT_OF_RANGE,
                f"target {params.target_mib} MiB is outside the range: the {clamped} is {target_mib} MiB",
                "leave strict out to have it clamped",
            )
        # Nothing else runs between the check above and this call, so strict holds for the bounds that were checked.
        result = await self._in_time(self._backend.set_target(params.target_mib, force=params.force))
        if not params.wait:
            return set_reply(result, self.balloon(), "accepted")
        on_wait()
        snapshot, outcome = await self._backend.wait_settled(result.generation, params.timeout_s)
        return set_reply(result, snapshot, outcome)

    async def _limit(self, params: LimitParams) -> BalloonSnapshot:
        before = self.balloon()
        if params.limit_mib is not None and params.limit_mib < before.floor_mib:
            raise _RefusedError(
                protocol.OUT_OF_RANGE,
                f"limit {params.limit_mib} MiB is below the floor, {before.floor_mib} MiB",
                "give a limit from the floor to the ceiling",
            )
        await self._in_time(self._backend.set_limit(params.limit_mib))
        return self.balloon()

    async def _trim(self, params: TrimRequest) -> object:
        if self._trimming:
            raise _RefusedError(protocol.BUSY, "a trim is running already", "try again when it has ended")
        self._trimming = True
        try:
            return await self._in_time(self._backend.trim(params), params.timeout_s + self._call_s)
        finally:
            self._trimming = False

    async def _in_time(self, call: Any, seconds: float | None = None) -> Any:
        seconds = self._call_s if seconds is None else seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await call
        except TimeoutError:
            if not limit.expired():
                raise
            raise _RefusedError(
                protocol.TIMED_OUT, f"the sandbox did not answer within {seconds:g} s", "see its log"
            ) from None

    def _error_line(self, request: Request, error: Exception) -> bytes:
        refused = _refusal(error)
        return protocol.error_line(
            Refusal(
                refused.code, refused.message, request.id, hint=refused.hint, error_code=refused.error_code
            )
        )


def _refusal(error: Exception) -> _RefusedError:
    if isinstance(error, _RefusedError):
        return error
    if isinstance(error, BallonetError):
        return _RefusedError(protocol.FAILED, error.message, error.hint, error.code)
    # A defect: the client gets an internal error, the log has the details, and the server continues.
    log.error("a control request failed unexpectedly", exc_info=error)
    return _RefusedError(
        protocol.INTERNAL_ERROR, f"internal error: {type(error).__name__}", "see the sandbox's log"
    )
