"""The SDK without asyncio: the same calls, each of which returns when it is done.

One event loop runs in a thread of its own for all of them; calls may come from any thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ballonet import lifecycle
from ballonet import sandbox as async_sandbox
from ballonet.balloon_handle import BalloonHandle as AsyncBalloonHandle
from ballonet.builder import SandboxBuilder
from ballonet.config import SandboxConfig
from ballonet.memory import Size
from ballonet.registry.record import Record
from ballonet.sandbox import Balloon, ExecResult, SandboxEnd
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume

if TYPE_CHECKING:
    from ballonet.control.backend import BalloonSnapshot, Stats, TrimResult
    from ballonet.control.protocol import SetReply
    from ballonet.guest.files import FileInfo
    from ballonet.images.store import Pull
    from ballonet.modify import Change, Plan

__all__ = ["Balloon", "ExecResult", "Sandbox", "SandboxEnd"]

_T = TypeVar("_T")


class _Loop:
    """An event loop in a daemon thread, started when first used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="ballonet", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C here ends the call there
            raise


_loop = _Loop()


class Sandbox:
    """See :class:`ballonet.sandbox.Sandbox`; ``with Sandbox.create("box") as box: …``."""

    def __init__(self, inner: async_sandbox.Sandbox) -> None:
        self._inner = inner
        self.balloon = BalloonHandle(inner.balloon)

    @classmethod
    def create(
        cls,
        name: str | SandboxConfig,
        *,
        image: str | None = None,
        rootfs: str | Path | None = None,
        pull: Pull = "missing",
        disk: Size | None = None,
        volumes: Sequence[str | Volume] = (),
        tmpfs: Sequence[str | Tmpfs] = (),
        net: Net | str | None = None,
        ports: Sequence[str | Port] = (),
        memory: Size = 512,
        cpus: int = 1,
        balloon: Balloon | bool = True,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        weight: int = 100,
        reserve: Size = 0,
        detached: bool = False,
        admission: bool = True,
    ) -> Self:
        """See :meth:`ballonet.sandbox.Sandbox.create`."""
        work = _create(
            name,
            image=image,
            rootfs=rootfs,
            pull=pull,
            disk=disk,
            volumes=volumes,
            tmpfs=tmpfs,
            net=net,
            ports=ports,
            memory=memory,
            cpus=cpus,
            balloon=balloon,
            command=command,
            env=env,
            cwd=cwd,
            user=user,
            weight=weight,
            reserve=reserve,
            detached=detached,
            admission=admission,
        )
        return cls(_loop.run(work))

    @classmethod
    def start(cls, name: str, *, admission: bool = True) -> Self:
        """See :meth:`ballonet.sandbox.Sandbox.start`."""
        return cls(_loop.run(async_sandbox.Sandbox.start(name, admission=admission)))

    @classmethod
    def get(cls, name: str) -> Self:
        """See :meth:`ballonet.sandbox.Sandbox.get`."""
        return cls(_loop.run(async_sandbox.Sandbox.get(name)))

    @staticmethod
    def list() -> list[Record]:
        """See :meth:`ballonet.sandbox.Sandbox.list`."""
        return _loop.run(async_sandbox.Sandbox.list())

    @staticmethod
    def remove(name: str, *, force: bool = False) -> None:
        """See :meth:`ballonet.sandbox.Sandbox.remove`."""
        _loop.run(async_sandbox.Sandbox.remove(name, force=force))

    @staticmethod
    def builder(name: str) -> SandboxBuilder:
        """See :meth:`ballonet.sandbox.Sandbox.builder`."""
        return SandboxBuilder(name)

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def config(self) -> SandboxConfig:
        return _loop.run(_value(lambda: self._inner.config))

    @property
    def control_socket(self) -> Path | None:
        return self._inner.control_socket

    @property
    def ports(self) -> tuple[Port, ...]:
        """See :attr:`ballonet.sandbox.Sandbox.ports`."""
        return self._inner.ports

    @property
    def fs(self) -> GuestFiles:
        """See :attr:`ballonet.sandbox.Sandbox.fs`."""
        return GuestFiles(self._inner)

    def record(self) -> Record:
        """See :meth:`ballonet.sandbox.Sandbox.record`."""
        return _loop.run(_value(self._inner.record))

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """See :meth:`ballonet.sandbox.Sandbox.exec`."""
        return _loop.run(self._inner.exec(argv, env=env, cwd=cwd, user=user, stdin=stdin))

    def exec_stream(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Iterator[bytes]:
        """A command's standard output, piece by piece; leaving the iteration kills the command."""
        process = _loop.run(self._inner.exec_stream(argv, env=env, cwd=cwd))
        try:
            while piece := _loop.run(process.stdout.read()):
                yield piece
        finally:
            _loop.run(_value(process.abandon))

    def shell(
        self, script: str, *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> ExecResult:
        """See :meth:`ballonet.sandbox.Sandbox.shell`."""
        return _loop.run(self._inner.shell(script, env=env, cwd=cwd))

    def metrics(self) -> Stats:
        """See :meth:`ballonet.sandbox.Sandbox.metrics`."""
        return _loop.run(self._inner.metrics())

    def modify(self, **changes: Any) -> Sequence[Change]:
        """See :meth:`ballonet.sandbox.Sandbox.modify`."""
        return _loop.run(self._inner.modify(**changes))

    def plan(self, **changes: Any) -> Plan:
        """See :meth:`ballonet.sandbox.Sandbox.plan`."""
        return _loop.run(_value(lambda: self._inner.plan(**changes)))

    def wait(self) -> SandboxEnd:
        """See :meth:`ballonet.sandbox.Sandbox.wait`."""
        return _loop.run(self._inner.wait())

    def stop(self, timeout_s: float = lifecycle.STOP_TIMEOUT_S) -> SandboxEnd:
        """See :meth:`ballonet.sandbox.Sandbox.stop`."""
        return _loop.run(self._inner.stop(timeout_s))

    def kill(self) -> SandboxEnd:
        """See :meth:`ballonet.sandbox.Sandbox.kill`."""
        return _loop.run(self._inner.kill())

    def close(self) -> None:
        """See :meth:`ballonet.sandbox.Sandbox.close`."""
        _loop.run(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BalloonHandle:
    """See :class:`ballonet.balloon_handle.BalloonHandle`."""

    def __init__(self, inner: AsyncBalloonHandle) -> None:
        self._inner = inner

    def get(self) -> BalloonSnapshot:
        return _loop.run(self._inner.get())

    def set(
        self,
        target: Size,
        *,
        strict: bool = False,
        wait: bool = False,
        timeout_s: float = 30,
        force: bool = False,
    ) -> SetReply:
        work = self._inner.set(target, strict=strict, wait=wait, timeout_s=timeout_s, force=force)
        return _loop.run(work)

    def limit(self, limit: Size | None) -> BalloonSnapshot:
        return _loop.run(self._inner.limit(limit))

    def stats(self) -> Stats:
        return _loop.run(self._inner.stats())

    def trim(self) -> TrimResult:
        return _loop.run(self._inner.trim())

    def watch(self) -> Iterator[BalloonSnapshot]:
        changes = self._inner.watch()
        try:
            while True:
                try:
                    yield _loop.run(anext(changes))  # type: ignore[arg-type]
                except StopAsyncIteration:
                    return
        finally:
            _loop.run(changes.aclose())  # type: ignore[attr-defined]


class GuestFiles:
    """See :class:`ballonet.guest.files.GuestFiles`."""

    def __init__(self, sandbox: async_sandbox.Sandbox) -> None:
        self._files = sandbox.fs

    def read(self, path: str) -> bytes:
        return _loop.run(self._files.read(path))

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644, parents: bool = False) -> None:
        _loop.run(self._files.write(path, data, mode=mode, parents=parents))

    def list(self, path: str) -> list[FileInfo]:
        return _loop.run(self._files.list(path))

    def stat(self, path: str) -> FileInfo:
        return _loop.run(self._files.stat(path))

    def exists(self, path: str) -> bool:
        return _loop.run(self._files.exists(path))

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        _loop.run(self._files.mkdir(path, parents=parents))

    def remove(self, path: str, *, recursive: bool = False) -> None:
        _loop.run(self._files.remove(path, recursive=recursive))

    def copy_in(self, source: Path | str, target: str) -> None:
        _loop.run(self._files.copy_in(source, target))

    def copy_out(self, source: str, target: Path | str) -> None:
        _loop.run(self._files.copy_out(source, target))


async def _create(name: str | SandboxConfig, **settings: Any) -> async_sandbox.Sandbox:
    return await async_sandbox.Sandbox.create(name, **settings)


async def _value(get: Callable[[], _T]) -> _T:
    """Something synchronous, done in the loop's thread like all else."""
    return get()
