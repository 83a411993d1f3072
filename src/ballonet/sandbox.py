"""Sandbox: what a program holds. Made, found and ended here; commands, files and the balloon through it.

Async; :mod:`ballonet.sync` is the same without asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ballonet import lifecycle
from ballonet.balloon_handle import BalloonHandle
from ballonet.builder import SandboxBuilder, Size
from ballonet.config import SandboxConfig
from ballonet.errors import ConfigError
from ballonet.imaged import Prepared, image_of, prepare, settings_for
from ballonet.machine.launch import OwnedProcess, SandboxEnd
from ballonet.machine.notes import AGENT_SOCKET
from ballonet.memory import to_mib
from ballonet.paths import sandbox_dir_path
from ballonet.registry.record import Command, Record
from ballonet.registry.registry import Registry
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume

if TYPE_CHECKING:
    from ballonet.control.backend import Stats
    from ballonet.guest.agent_client import AgentClient, GuestProcess
    from ballonet.guest.files import GuestFiles
    from ballonet.images.image import Image
    from ballonet.images.store import Pull
    from ballonet.modify import Change, Plan

__all__ = ["Balloon", "ExecResult", "Sandbox", "SandboxEnd", "random_name"]

#: The most that each output of a command may have when it is collected in memory.
MAX_OUTPUT_BYTES = 256 << 20


#: What a sandbox's process says of itself, when it is up and in its note.
_FACTS = ("engine_pid", "control_socket", "agent_socket", "boot_s", "ports")


def random_name(prefix: str = "box") -> str:
    """A name that no sandbox is likely to have."""
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Balloon:
    """A sandbox's balloon, for :meth:`Sandbox.create`. Sizes are MiB, or text such as ``"1.5G"``."""

    #: Guest-visible memory at boot; the ceiling by default.
    initial: Size | None = None
    #: The least that a target may ask for; by default max(128 MiB, a quarter of the ceiling).
    min: Size | None = None
    control_socket: str | Path | None = None
    #: Available memory that a shrink leaves to the guest unless forced.
    guard: Size | None = None
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    pressure_relief: bool = True
    hard_cap: bool = False


@dataclass(frozen=True)
class ExecResult:
    """A finished command: its output, and its exit status (128+n where signal n killed it)."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Sandbox:
    """A sandbox. *Owned* ones end and go away with the program that created them, however that ends; *detached* ones
    stay until they are stopped and removed.

    ``async with await Sandbox.create("box", memory="1G") as box: …``; leaving the block ends an owned sandbox at
    once, and leaves a detached one alone.
    """

    # The registry is opened for each look: one kept open by every sandbox would cost a program three descriptors each.

    def __init__(self, record: Record, process: OwnedProcess | None = None) -> None:
        self._record = record
        self._process = process
        self._agent: AgentClient | None = None
        self._connecting = asyncio.Lock()
        #: The balloon: look at it, move it, watch it.
        self.balloon = BalloonHandle(self)
        #: From the start of the sandbox's process to the guest agent's first word (seconds); 0 when not known.
        self.boot_s = 0.0
        self._control_socket: str | None = None
        self._agent_socket: Path | None = None
        self._ports: tuple[str, ...] = ()
        self._image: Image | None = None
        self._engine_pid = 0
        self._process_pid = 0
        if process is not None:
            self._process_pid = process.pid
            self._take(process.facts)
        elif (note := lifecycle.living(record)) is not None:
            self._process_pid = note.process.pid
            self._take({name: getattr(note, name) for name in _FACTS})

    @classmethod
    async def create(
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
        """Register a sandbox, boot it, and return when its guest answers.

        :param name: its name; or a whole configuration, and then what follows until ``balloon`` says nothing, except
            ``rootfs`` and ``pull``.
        :param image: an image's reference, layout or archive; by default the built-in root.
        :param rootfs: a directory of the host to make the root from, instead of an image.
        :param pull: when to ask the image's registry: ``missing``, ``always`` or ``never``.
        :param disk: size of the writable disk; with an image 8 GiB by default. It takes space as it is filled.
        :param volumes: ``SOURCE:GUEST[:ro]`` each: a directory of the host (with a slash) or a named volume.
        :param tmpfs: ``PATH[:SIZE]`` each: directories in the guest's memory.
        :param net: ``none`` (the default without ports), ``user`` (the default with them) or ``isolated``.
        :param ports: ``[ADDRESS:]HOST:GUEST[/udp]`` each; see :attr:`ports` for what the host chose for 0.
        :param memory: the ceiling.
        :param balloon: ``True`` is one with its defaults, ``False`` none.
        :param command: what it runs by itself; it then ends with this command. ``env``, ``cwd`` and ``user``
            (numbers, or names that the image knows) are the command's. Without it the sandbox idles, whatever
            command its image has.
        :param weight: share of memory that the host's autopilot gives it, against 100 for others.
        :param reserve: memory that the autopilot never takes from it.
        :param admission: where an autopilot drives the sandboxes, start only if it finds room.
        :raises AdmissionError: there is no room; nothing is left behind.
        :raises NameInUseError: there is a sandbox of that name.
        :raises ConfigError: a setting, or a pair of them, is impossible; the message names the values.
        :raises BallonetError: it did not come up; nothing is left behind.
        """
        from ballonet.modify import check_weight

        if isinstance(name, SandboxConfig):
            config = name
        else:
            builder = SandboxBuilder(name).image(image).volume(*volumes).tmpfs(*tmpfs)
            if disk is not None:
                builder.disk(disk)
            if net is not None:
                builder.net(net)
            config = _config(builder.publish(*ports).cpus(cpus).memory(memory), memory, balloon)
        # In a thread: an image may take its time.
        root = None if rootfs is None else Path(rootfs)
        prepared = await asyncio.to_thread(prepare, config, pull=pull, rootfs=root)
        with Registry.open() as registry:
            record = lifecycle.create(
                registry,
                prepared.config,
                image=prepared.image,
                command=None if command is None else make_command(prepared, command, env, cwd, user),
                auto_remove=not detached,
                weight=check_weight(weight),
                reserve_mib=to_mib(reserve, "reserve"),
            )
            try:
                process = await lifecycle.start(registry, record.name, detached=detached, admission=admission)
            except BaseException:
                await lifecycle.discard(registry, record.name)
                raise
            return cls._started(registry.get(record.name), process, detached)

    @classmethod
    async def start(cls, name: str, *, admission: bool = True) -> Self:
        """Start a sandbox that exists and does not run; it is detached from then on.

        :param admission: where an autopilot drives the sandboxes, start only if it finds room.
        :raises AdmissionError: there is no room.
        :raises UnknownSandboxError: there is none of that name.
        :raises StillRunningError: it runs.
        """
        with Registry.open() as registry:
            process = await lifecycle.start(registry, name, detached=True, admission=admission)
            return cls._started(registry.get(name), process, detached=True)

    @classmethod
    async def get(cls, name: str) -> Self:
        """A sandbox that exists, running or not.

        :raises UnknownSandboxError: there is none of that name.
        """
        with Registry.open() as registry:
            return cls(lifecycle.find(registry, name))

    @staticmethod
    async def list() -> list[Record]:
        """What sandboxes there are, the oldest first."""
        with Registry.open() as registry:
            return lifecycle.list_sandboxes(registry)

    @staticmethod
    async def remove(name: str, *, force: bool = False) -> None:
        """Remove a sandbox, its logs and its disk; with ``force`` even one that runs.

        :raises UnknownSandboxError: there is none of that name.
        :raises StillRunningError: it runs, and ``force`` was not given.
        """
        with Registry.open() as registry:
            await lifecycle.remove(registry, name, force=force)

    @staticmethod
    def builder(name: str) -> SandboxBuilder:
        """The fluent way to a configuration: ``await Sandbox.create(Sandbox.builder("box").memory("1G").build())``."""
        return SandboxBuilder(name)

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def config(self) -> SandboxConfig:
        """The desired configuration: what the next start uses."""
        return lifecycle.config_of(self._record)

    @property
    def pid(self) -> int:
        """Process id of the sandbox's own process (0: it does not run); the engine's is :attr:`engine_pid`."""
        return self._process_pid

    @property
    def engine_pid(self) -> int:
        return self._engine_pid

    @property
    def agent_socket(self) -> Path:
        """Where its guest's agent is reached by frames (docs/agent.md), while it runs."""
        return self._agent_socket or sandbox_dir_path(self.name) / AGENT_SOCKET

    @property
    def control_socket(self) -> Path | None:
        """Where the balloon is moved; ``None`` without a balloon, or when it does not run."""
        return None if self._control_socket is None else Path(self._control_socket)

    @property
    def ports(self) -> tuple[Port, ...]:
        """The published ports of a sandbox that runs, with those that the host chose."""
        return tuple(map(Port.parse, self._ports))

    @property
    def fs(self) -> GuestFiles:
        """The guest's files: read, write, list, copy in and out."""
        from ballonet.guest.files import GuestFiles

        return GuestFiles(self._connect_agent)

    def record(self) -> Record:
        """What the registry and the sandbox's process say of it now.

        :raises UnknownSandboxError: it is gone.
        """
        with Registry.open() as registry:
            self._record = lifecycle.find(registry, self.name)
        return self._record

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """Run a command to its end and collect its output.

        :raises GuestCommandError: it could not be started.
        :raises GuestError: the guest ended, broke the protocol, or the command wrote more than 256 MiB.
        """
        process = await self.exec_stream(argv, env=env, cwd=cwd, user=user, stdin=stdin is not None)
        async with process:
            stdout, stderr = await process.communicate(stdin or b"", limit=MAX_OUTPUT_BYTES)
            status = await process.wait()
        return ExecResult(status.returncode, stdout, stderr)

    async def shell(
        self, script: str, *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> ExecResult:
        """Run a shell script to its end: ``exec(["/bin/sh", "-c", script])``."""
        if not isinstance(script, str):
            raise ConfigError(f"a script must be text, not {type(script).__name__} ({script!r})")
        return await self.exec(["/bin/sh", "-c", script], env=env, cwd=cwd)

    async def exec_stream(
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
    ) -> GuestProcess:
        """Start a command; its output is read, and its input written, as it runs. With ``tty`` it has a terminal."""
        if self._record.image_id is not None and self._image is None:
            self._image = image_of(self._record)
        settings = settings_for(self._image, env or {}, cwd, user)
        agent = await self._connect_agent()
        return await agent.exec(
            argv,
            env=settings.env,
            cwd=settings.cwd,
            user=settings.user,
            make_cwd=settings.make_cwd,
            stdin=stdin,
            tty=tty,
            rows=rows,
            cols=cols,
        )

    async def metrics(self) -> Stats:
        """The guest's and the host's memory statistics, each with its age."""
        return await self.balloon.stats()

    async def modify(self, **changes: Any) -> Sequence[Change]:
        """Change settings: at once what can be, the rest from the next start on. What was done, and how far it came.

        See :func:`ballonet.modify.plan_changes` for the names.

        :raises ConfigError: a change is impossible; nothing was changed.
        """
        from ballonet.modify import apply_plan

        plan = self.plan(**changes)
        with Registry.open() as registry:
            return await apply_plan(registry, plan)

    def plan(self, **changes: Any) -> Plan:
        """What :meth:`modify` would do."""
        from ballonet.modify import plan_changes

        record = self.record()
        return plan_changes(record, lifecycle.living(record), changes)

    async def wait(self) -> SandboxEnd:
        """Wait for the sandbox's end, for whatever reason; everything is then cleaned up."""
        if self._process is not None:
            return await self._after_end(await self._process.wait())
        with Registry.open() as registry:
            return _end_of(await lifecycle.wait_end(registry, self.name))

    async def stop(self, timeout_s: float = lifecycle.STOP_TIMEOUT_S) -> SandboxEnd:
        """Let the sandbox end in order, without once ``timeout_s`` has passed, and wait for that."""
        if self._process is not None:
            return await self._after_end(await self._process.stop(timeout_s))
        await self._hang_up()
        with Registry.open() as registry:
            return _end_of(await lifecycle.stop(registry, self.name, timeout_s=timeout_s))

    async def kill(self) -> SandboxEnd:
        """End the sandbox now, as pulling the plug would, and wait until nothing of it is left."""
        if self._process is not None:
            return await self._after_end(await self._process.kill())
        return await self.stop(timeout_s=0)

    async def close(self) -> None:
        """Let go of what this program holds: an owned sandbox ends, a detached one goes on."""
        if self._process is not None:
            await self.kill()
        await self._hang_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @classmethod
    def _started(cls, record: Record, process: OwnedProcess, detached: bool) -> Self:
        sandbox = cls(record, process)
        if detached:
            process.let_go()
            sandbox._process = None
        return sandbox

    def _take(self, facts: Mapping[str, Any]) -> None:
        self._engine_pid = int(facts["engine_pid"])
        self._control_socket = facts["control_socket"]
        self._agent_socket = Path(facts["agent_socket"])
        self._ports = tuple(facts["ports"])
        self.boot_s = float(facts["boot_s"] or 0)

    async def _after_end(self, end: SandboxEnd) -> SandboxEnd:
        """An owned sandbox goes away with its end."""
        await self._hang_up()
        with contextlib.suppress(ConfigError), Registry.open() as registry:  # gone already
            lifecycle.find(registry, self.name)
        return end

    async def _hang_up(self) -> None:
        await self.balloon.close()
        if self._agent is not None:
            agent, self._agent = self._agent, None
            await agent.close()

    async def _connect_agent(self) -> AgentClient:
        async with self._connecting:
            if self._agent is None:
                from ballonet.guest.agent_client import AgentClient

                with Registry.open() as registry:
                    _, note = lifecycle.find_running(registry, self.name)
                self._agent_socket = note.agent_socket
                self._agent = await AgentClient.connect(note.agent_socket)
            return self._agent


def make_command(
    prepared: Prepared,
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
) -> Command:
    """:raises ConfigError: no command can be like that."""
    if isinstance(argv, str | bytes) or not all(isinstance(word, str) for word in argv):
        raise ConfigError(f"a command is a list of words, not {type(argv).__name__} ({argv!r})")
    if not argv:
        raise ConfigError("the command is empty", hint="give a list of words, such as ['sleep', '60']")
    settings = prepared.settings(env or {}, cwd, user)
    return Command(tuple(argv), settings.env, settings.cwd, settings.user)


def _config(builder: SandboxBuilder, memory: Size, balloon: Balloon | bool) -> SandboxConfig:
    if balloon is True:
        balloon = Balloon()
    if isinstance(balloon, Balloon):
        initial = memory if balloon.initial is None else balloon.initial
        builder.balloon(initial, balloon.min, balloon.control_socket)
        builder.deflate_on_oom(balloon.deflate_on_oom).free_page_reporting(balloon.free_page_reporting)
        builder.pressure_relief(balloon.pressure_relief).hard_cap(balloon.hard_cap)
        if balloon.guard is not None:
            builder.guard(balloon.guard)
    elif balloon is not False:
        raise ConfigError(
            f"balloon must be a Balloon, True or False, not {type(balloon).__name__} ({balloon!r})"
        )
    return builder.build()


def _end_of(record: Record | None) -> SandboxEnd:
    if record is None:
        return SandboxEnd("removed", "it went away with its end")
    return SandboxEnd(record.end_reason or str(record.state), record.end_detail or "", record.exit_code)
