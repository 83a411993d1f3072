"""The SDK without asyncio: the same calls, each of which returns when it is done.

One event loop runs in a thread of its own for all of them; calls may come from any thread. A child made by ``fork``
(such as a worker of ``multiprocessing``) has a loop and connections of its own: what its parent has made can be used
there, and goes on when the child ends or closes it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from ballonet.base.memory import Size
from ballonet.guest.files import MAX_READ_BYTES
from ballonet.guest.files import GuestFiles as AsyncGuestFiles
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.stop import STOP_TIMEOUT_S
from ballonet.sdk import sandbox as async_sandbox
from ballonet.sdk.balloon import BalloonHandle as AsyncBalloonHandle
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.sandbox import Balloon, ExecResult, SandboxEnd
from ballonet.sdk.sync_loop import LOOP
from ballonet.sdk.sync_process import GuestProcess
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume

if TYPE_CHECKING:
    from ballonet.control.backend import BalloonSnapshot, Stats, TrimResult
    from ballonet.control.protocol import SetReply
    from ballonet.guest.files import FileInfo
    from ballonet.images.store import Pull
    from ballonet.lifecycle.modify import Change, Plan

__all__ = ["Balloon", "ExecResult", "GuestProcess", "Sandbox", "SandboxEnd"]

_T = TypeVar("_T")
_Class = TypeVar("_Class", bound=type)


def _documented_as(twin: type) -> Callable[[_Class], _Class]:
    """Give a class's methods and properties the documentation of those of its asynchronous twin."""

    def document(cls: _Class) -> _Class:
        for name, member in vars(cls).items():
            said = inspect.getdoc(vars(twin).get(name))
            target = getattr(member, "__func__", member)
            if name.startswith("_") or said is None or inspect.getdoc(target) is not None:
                continue
            if isinstance(member, property):
                setattr(cls, name, property(member.fget, doc=said))
            else:
                target.__doc__ = said.replace("await ", "")
        return cls

    return document


@_documented_as(async_sandbox.Sandbox)
class Sandbox:
    """A sandbox. *Owned* ones end and go away with the program that created them, however that ends; *detached* ones
    stay until they are stopped and removed.

    ``with Sandbox.create("box", memory="1G") as box: …``; leaving the block ends an owned sandbox at once, and leaves
    a detached one alone.
    """

    def __init__(self, inner: async_sandbox.Sandbox) -> None:
        self._inner = inner
        #: The balloon: look at it, move it, watch it.
        self.balloon = BalloonHandle(inner.balloon)

    def __repr__(self) -> str:
        return repr(self._inner)

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
        return cls(LOOP.run(work, _remove if detached else async_sandbox.Sandbox.close))

    @classmethod
    def start(cls, name: str, *, admission: bool = True) -> Self:
        return cls(LOOP.run(async_sandbox.Sandbox.start(name, admission=admission)))

    @classmethod
    def get(cls, name: str) -> Self:
        return cls(LOOP.run(async_sandbox.Sandbox.get(name)))

    @staticmethod
    def list() -> list[Record]:
        return LOOP.run(async_sandbox.Sandbox.list())

    @staticmethod
    def remove(name: str, *, force: bool = False) -> None:
        LOOP.run(async_sandbox.Sandbox.remove(name, force=force))

    @staticmethod
    def builder(name: str) -> SandboxBuilder:
        return SandboxBuilder(name)

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def config(self) -> SandboxConfig:
        return LOOP.call(lambda: self._inner.config)

    @property
    def boot_s(self) -> float:
        """From the start of the sandbox's process to the guest agent's first word (seconds); 0 when not known."""
        return self._inner.boot_s

    @property
    def pid(self) -> int:
        return self._inner.pid

    @property
    def engine_pid(self) -> int:
        return self._inner.engine_pid

    @property
    def agent_socket(self) -> Path:
        return self._inner.agent_socket

    @property
    def control_socket(self) -> Path | None:
        return self._inner.control_socket

    @property
    def ports(self) -> tuple[Port, ...]:
        return self._inner.ports

    @property
    def fs(self) -> GuestFiles:
        return GuestFiles(self._inner)

    def record(self) -> Record:
        return LOOP.call(self._inner.record)

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        return LOOP.run(self._inner.exec(argv, env=env, cwd=cwd, user=user, stdin=stdin, timeout=timeout))

    def shell(
        self,
        script: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        return LOOP.run(self._inner.shell(script, env=env, cwd=cwd, user=user, stdin=stdin, timeout=timeout))

    def exec_stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
        timeout: float | None = None,
    ) -> GuestProcess:
        """Start a command; its output is read, and its input written, as it runs. With ``tty`` it has a terminal.

        ``for piece in box.exec_stream(["ls"]): …`` reads its standard output; leaving the loop kills the command.
        ``env``, ``cwd``, ``user`` and ``timeout`` are as in :meth:`exec`; after the timeout, reading and waiting raise
        :class:`~ballonet.errors.CommandTimeoutError`.

        :param stdin: its standard input will be written; without, it reads ``/dev/null``.
        """
        work = self._inner.exec_stream(
            argv,
            env=env,
            cwd=cwd,
            user=user,
            stdin=stdin,
            tty=tty,
            rows=rows,
            cols=cols,
            timeout=timeout,
        )
        return GuestProcess(LOOP.run(work))

    def metrics(self) -> Stats:
        return LOOP.run(self._inner.metrics())

    def modify(
        self,
        *,
        memory: Size | None = None,
        memory_target: Size | None = None,
        balloon_initial: Size | None = None,
        balloon_min: Size | None = None,
        guard: Size | None = None,
        disk: Size | None = None,
        cpus: int | None = None,
        deflate_on_oom: bool | None = None,
        free_page_reporting: bool | None = None,
        pressure_relief: bool | None = None,
        hard_cap: bool | None = None,
        net: Net | str | None = None,
        volumes: Sequence[str | Volume] | None = None,
        tmpfs: Sequence[str | Tmpfs] | None = None,
        ports: Sequence[str | Port] | None = None,
        weight: int | None = None,
        reserve: Size | None = None,
    ) -> Sequence[Change]:
        work = self._inner.modify(
            memory=memory,
            memory_target=memory_target,
            balloon_initial=balloon_initial,
            balloon_min=balloon_min,
            guard=guard,
            disk=disk,
            cpus=cpus,
            deflate_on_oom=deflate_on_oom,
            free_page_reporting=free_page_reporting,
            pressure_relief=pressure_relief,
            hard_cap=hard_cap,
            net=net,
            volumes=volumes,
            tmpfs=tmpfs,
            ports=ports,
            weight=weight,
            reserve=reserve,
        )
        return LOOP.run(work)

    def plan(
        self,
        *,
        memory: Size | None = None,
        memory_target: Size | None = None,
        balloon_initial: Size | None = None,
        balloon_min: Size | None = None,
        guard: Size | None = None,
        disk: Size | None = None,
        cpus: int | None = None,
        deflate_on_oom: bool | None = None,
        free_page_reporting: bool | None = None,
        pressure_relief: bool | None = None,
        hard_cap: bool | None = None,
        net: Net | str | None = None,
        volumes: Sequence[str | Volume] | None = None,
        tmpfs: Sequence[str | Tmpfs] | None = None,
        ports: Sequence[str | Port] | None = None,
        weight: int | None = None,
        reserve: Size | None = None,
    ) -> Plan:
        return LOOP.call(
            lambda: self._inner.plan(
                memory=memory,
                memory_target=memory_target,
                balloon_initial=balloon_initial,
                balloon_min=balloon_min,
                guard=guard,
                disk=disk,
                cpus=cpus,
                deflate_on_oom=deflate_on_oom,
                free_page_reporting=free_page_reporting,
                pressure_relief=pressure_relief,
                hard_cap=hard_cap,
                net=net,
                volumes=volumes,
                tmpfs=tmpfs,
                ports=ports,
                weight=weight,
                reserve=reserve,
            )
        )

    def wait(self) -> SandboxEnd:
        return LOOP.run(self._inner.wait())

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> SandboxEnd:
        return LOOP.run(self._inner.stop(timeout_s))

    def kill(self) -> SandboxEnd:
        return LOOP.run(self._inner.kill())

    def close(self) -> None:
        LOOP.run(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@_documented_as(AsyncBalloonHandle)
class BalloonHandle:
    """A sandbox's balloon. Connects to the control socket when first used.

    Every call raises :class:`~ballonet.errors.NotRunningError` without a running sandbox that has a balloon, and what
    :class:`ballonet.control.client.Client` raises.
    """

    def __init__(self, inner: AsyncBalloonHandle) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def get(self) -> BalloonSnapshot:
        return LOOP.run(self._inner.get())

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
        return LOOP.run(work)

    def limit(self, limit: Size | None) -> BalloonSnapshot:
        return LOOP.run(self._inner.limit(limit))

    def stats(self) -> Stats:
        return LOOP.run(self._inner.stats())

    def trim(self) -> TrimResult:
        return LOOP.run(self._inner.trim())

    def watch(self) -> Iterator[BalloonSnapshot]:
        return _iterate(self._inner.watch())

    def close(self) -> None:
        LOOP.run(self._inner.close())


@_documented_as(AsyncGuestFiles)
class GuestFiles:
    """The files of one guest, as root, whoever its commands run as.

    Every call raises :class:`~ballonet.errors.GuestFileError` with the guest's own words when it cannot be done.
    """

    def __init__(self, sandbox: async_sandbox.Sandbox) -> None:
        self._files = sandbox.fs

    def read(self, path: str, *, limit: int = MAX_READ_BYTES) -> bytes:
        return LOOP.run(self._files.read(path, limit=limit))

    def read_stream(self, path: str) -> Iterator[bytes]:
        return _iterate(self._files.read_stream(path))

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644, parents: bool = False) -> None:
        LOOP.run(self._files.write(path, data, mode=mode, parents=parents))

    def write_stream(
        self, path: str, pieces: Iterator[bytes], *, mode: int = 0o644, parents: bool = False
    ) -> None:
        LOOP.run(self._files.write_stream(path, _read_in_threads(pieces), mode=mode, parents=parents))

    def list(self, path: str) -> list[FileInfo]:
        return LOOP.run(self._files.list(path))

    def stat(self, path: str) -> FileInfo:
        return LOOP.run(self._files.stat(path))

    def exists(self, path: str) -> bool:
        return LOOP.run(self._files.exists(path))

    def is_directory(self, path: str) -> bool:
        return LOOP.run(self._files.is_directory(path))

    def follow(self, path: str) -> FileInfo | None:
        return LOOP.run(self._files.follow(path))

    def resolve(self, path: str) -> str:
        return LOOP.run(self._files.resolve(path))

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        LOOP.run(self._files.mkdir(path, parents=parents))

    def remove(self, path: str, *, recursive: bool = False) -> None:
        LOOP.run(self._files.remove(path, recursive=recursive))

    def copy_in(
        self,
        source: Path | str,
        target: str,
        *,
        contents: bool = False,
        follow: bool = False,
        owners: bool = False,
    ) -> None:
        LOOP.run(self._files.copy_in(source, target, contents=contents, follow=follow, owners=owners))

    def copy_out(
        self,
        source: str,
        target: Path | str,
        *,
        contents: bool = False,
        follow: bool = False,
        owners: bool = False,
    ) -> None:
        LOOP.run(self._files.copy_out(source, target, contents=contents, follow=follow, owners=owners))

    def unpack_stream(self, tar: Iterator[bytes], directory: str) -> None:
        LOOP.run(self._files.unpack_stream(_read_in_threads(tar), directory))

    def pack_stream(self, path: str, *, follow: bool = False) -> Iterator[bytes]:
        return _iterate(self._files.pack_stream(path, follow=follow))


def _iterate(items: AsyncIterator[_T]) -> Iterator[_T]:
    """An asynchronous iteration, one step at a time; leaving it ends it there."""
    generator = cast("AsyncGenerator[_T, None]", items)
    over = object()

    async def step() -> Any:
        return await anext(generator, over)

    async def end() -> None:
        await generator.aclose()

    try:
        while (item := LOOP.run(step())) is not over:
            yield item
    finally:
        LOOP.forget(end())


async def _read_in_threads(items: Iterator[_T]) -> AsyncIterator[_T]:
    """An iteration of the caller's, whose steps may take their time."""
    over = object()
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, over)) is not over:
        yield cast("_T", item)


async def _remove(sandbox: async_sandbox.Sandbox) -> None:
    await async_sandbox.Sandbox.remove(sandbox.name, force=True)


async def _create(name: str | SandboxConfig, **settings: Any) -> async_sandbox.Sandbox:
    return await async_sandbox.Sandbox.create(name, **settings)
