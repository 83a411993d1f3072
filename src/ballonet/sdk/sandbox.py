"""Sandbox: what a program holds. Made, found and ended here; commands, files and the balloon through it.

Async; :mod:`ballonet.sync` is the same without asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ballonet.base.arguments import check_flag, check_number, check_seconds, check_words, to_bytes, wrong_type
from ballonet.base.errors import ConfigError, NotRunningError, SandboxClosedError
from ballonet.base.forked import never_destroy
from ballonet.base.memory import to_mib
from ballonet.base.paths import sandbox_dir_path
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import image_of, inherited_settings, prepare
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Defaults, Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import start_sandbox
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, discard_sandbox, remove_sandbox, stop_sandbox, wait_end
from ballonet.machine.launch import OwnedProcess, SandboxEnd
from ballonet.machine.notes import AGENT_SOCKET, MachineNote
from ballonet.sdk.balloon import BalloonHandle
from ballonet.sdk.builder import SandboxBuilder, Size
from ballonet.sdk.connections import PerLoop
from ballonet.sdk.creation import Balloon, check_start, command_of, command_settings, configuration
from ballonet.sdk.timeouts import Timeout, start_within
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume

if TYPE_CHECKING:
    from ballonet.control.backend import Stats
    from ballonet.guest.agent_client import AgentClient, GuestProcess
    from ballonet.guest.files import GuestFiles
    from ballonet.images.image import Image
    from ballonet.images.store import Pull
    from ballonet.lifecycle.modify import Change, Plan

__all__ = ["Balloon", "ExecResult", "Sandbox", "SandboxEnd", "random_name"]

#: The most that each output of a command may have when it is collected in memory.
MAX_OUTPUT_BYTES = 256 << 20


#: What a sandbox's process says of itself, when it is up and in its note.
_FACTS = ("engine_pid", "control_socket", "agent_socket", "boot_s", "ports")


def random_name(prefix: str = "box") -> str:
    """A name that no sandbox is likely to have."""
    return f"{prefix}-{secrets.token_hex(4)}"


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
        #: The program in which this was made: a forked child has a copy, which must leave the parent's things alone.
        self._program = os.getpid()
        self._closed = False
        #: Owned sandboxes are over with their end; a detached one may be started again.
        self._owned = process is not None
        self._end: SandboxEnd | None = None
        self._agents: PerLoop[AgentClient] = PerLoop(self._new_agent, lambda agent: agent.lost is not None)
        #: The balloon: look at it, move it, watch it.
        self.balloon = BalloonHandle(self)
        #: From the start of the sandbox's process to the guest agent's first word (seconds); 0 when not known.
        self.boot_s = 0.0
        self._image: Image | None = None
        self._engine_pid = self._process_pid = 0
        self._control_socket: str | None = None
        self._agent_socket: Path | None = None
        self._ports: tuple[str, ...] = ()
        if process is not None:
            self._process_pid = process.pid
            self._take(process.facts)
        elif (note := living(record)) is not None:
            self._take_note(note)

    def __repr__(self) -> str:
        end = self._end
        if self._closed:
            how = "closed"
        elif end is not None:
            how = f"ended ({end.reason})"
        elif self._process_pid:
            how = f"running, pid {self._process_pid}"
        else:
            how = str(self._record.state)
        return f"<{type(self).__name__} {self.name!r}, {how}>"

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
        :param command: what it runs by itself; it then ends with this command. Without it the sandbox idles,
            whatever command its image has.
        :param env: variables of every command in the sandbox, its own and those of :meth:`exec`.
        :param cwd: their working directory, unless they say another.
        :param user: who they run as, unless they say so themselves: numbers, or names that the image knows.
        :param weight: share of memory that the host's autopilot gives it, against 100 for others.
        :param reserve: memory that the autopilot never takes from it.
        :param admission: where an autopilot drives the sandboxes, start only if it finds room.
        :raises AdmissionError: there is no room; nothing is left behind.
        :raises NameInUseError: there is a sandbox of that name.
        :raises ConfigError: a setting, or a pair of them, is impossible; the message names the values.
        :raises BallonetError: it did not come up; nothing is left behind.
        """
        from ballonet.lifecycle.modify import check_weight

        check_start(pull=pull, rootfs=rootfs, detached=detached, admission=admission)
        defaults = Defaults(*command_settings(env, cwd, user))
        if command is not None:
            command = check_words("command", command)
        weight, reserve_mib = check_weight(weight), to_mib(reserve, "reserve")
        config = configuration(
            name,
            image=image,
            disk=disk,
            volumes=volumes,
            tmpfs=tmpfs,
            net=net,
            ports=ports,
            memory=memory,
            cpus=cpus,
            balloon=balloon,
        )
        from ballonet.pilot.gate import gate_for

        # In a thread: an image may take its time.
        root = None if rootfs is None else Path(rootfs)
        prepared = await asyncio.to_thread(prepare, config, pull=pull, rootfs=root)
        with Registry.open() as registry:
            record = lifecycle.create(
                registry,
                prepared.config,
                image=prepared.image,
                command=command_of(prepared, command, defaults),
                defaults=defaults,
                auto_remove=not detached,
                weight=weight,
                reserve_mib=reserve_mib,
            )
            try:
                process = await start_sandbox(
                    registry, record.name, detached=detached, gate=gate_for(admission)
                )
            except BaseException:
                await discard_sandbox(registry, record.name)
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
        from ballonet.pilot.gate import gate_for

        check_flag("admission", admission)
        with Registry.open() as registry:
            process = await start_sandbox(registry, name, detached=True, gate=gate_for(admission))
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
        check_flag("force", force)
        with Registry.open() as registry:
            await remove_sandbox(registry, name, force=force)

    @staticmethod
    def builder(name: str) -> SandboxBuilder:
        """The fluent way to a configuration: ``await Sandbox.create(Sandbox.builder("box").memory("1G").build())``."""
        return SandboxBuilder(name)

    @property
    def name(self) -> str:
        """Its name."""
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
        """Process id of the engine, QEMU (0: it does not run)."""
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
        """The guest's files: read, write, list, copy in and out. As root, as ``docker cp``, whoever commands run as."""
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
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command to its end and collect its output.

        :param env: variables beside those that the sandbox was created with; of one name, these count.
        :param cwd: its working directory; by default what the sandbox was created with, else the image's.
        :param user: who it runs as; by default what the sandbox was created with, else the image's, else root.
        :param stdin: its standard input, text as UTF-8; without, it reads ``/dev/null``.
        :param timeout: seconds that it may take. Then it is killed, with everything that it started.
        :raises CommandTimeoutError: it took longer; the error has the output so far.
        :raises GuestCommandError: it could not be started.
        :raises GuestError: the guest ended, broke the protocol, or the command wrote more than 256 MiB.
        """
        data = None if stdin is None else to_bytes("stdin", stdin)
        process = await self.exec_stream(
            argv, env=env, cwd=cwd, user=user, stdin=data is not None, timeout=timeout
        )
        async with process:
            stdout, stderr = await process.communicate(data or b"", limit=MAX_OUTPUT_BYTES)
            status = await process.wait()
        return ExecResult(status.returncode, stdout, stderr)

    async def shell(
        self,
        script: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a shell script to its end: ``exec(["/bin/sh", "-c", script])``; see :meth:`exec`."""
        if not isinstance(script, str):
            raise wrong_type("script", "text", script, hint="a list of words goes to exec()")
        argv = ["/bin/sh", "-c", script]
        return await self.exec(argv, env=env, cwd=cwd, user=user, stdin=stdin, timeout=timeout)

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
        timeout: float | None = None,
    ) -> GuestProcess:
        """Start a command; its output is read, and its input written, as it runs. With ``tty`` it has a terminal.

        ``env``, ``cwd``, ``user`` and ``timeout`` are as in :meth:`exec`; after the timeout, reading and waiting raise
        :class:`~ballonet.errors.CommandTimeoutError`.

        :param stdin: its standard input will be written; without, it reads ``/dev/null``.
        """
        words = check_words("argv", argv)
        env, cwd, user = command_settings(env, cwd, user)
        check_flag("stdin", stdin)
        check_flag("tty", tty)
        check_number("rows", rows, 0, 0xFFFF)
        check_number("cols", cols, 0, 0xFFFF)
        limit = Timeout.of(timeout)
        self._check_usable()
        if self._record.image_id is not None and self._image is None:
            self._image = image_of(self._record)
        settings = inherited_settings(self._record, self._image, env, cwd, user)

        async def start() -> GuestProcess:
            agent = await self._connect_agent()
            return await agent.exec(
                words,
                env=settings.env,
                cwd=settings.cwd,
                user=settings.user,
                make_cwd=settings.make_cwd,
                stdin=stdin,
                tty=tty,
                rows=rows,
                cols=cols,
            )

        return await start_within(limit, start())

    async def metrics(self) -> Stats:
        """The guest's and the host's memory statistics, each with its age."""
        return await self.balloon.stats()

    async def modify(
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
        """Change settings: at once what can be, the rest from the next start on. What was done, and how far it came.

        :param memory: the ceiling.
        :param memory_target: moves the balloon of a running sandbox.
        :param balloon_initial: guest-visible memory at boot.
        :param balloon_min: the least that a target may ask for.
        :param guard: available memory that a shrink leaves to the guest.
        :param disk: size of the writable disk, which can only grow.
        :param volumes: all of them, as in :meth:`create`; so are ``tmpfs`` and ``ports``.
        :param weight: share of memory that the autopilot gives it, against 100 for others.
        :param reserve: memory that the autopilot never takes from it.
        :raises ConfigError: a change is impossible; nothing was changed.
        """
        from ballonet.lifecycle.modify import apply_plan

        plan = self._planned(locals())
        with Registry.open() as registry:
            return await apply_plan(registry, plan)

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
        """What :meth:`modify` would do; nothing is changed."""
        return self._planned(locals())

    def _planned(self, arguments: Mapping[str, Any]) -> Plan:
        """What the changes among a call's ``arguments`` come to."""
        from ballonet.lifecycle.modify import given, plan_changes

        self._check_usable()
        record = self.record()
        return plan_changes(record, living(record), given(arguments))

    async def wait(self) -> SandboxEnd:
        """Wait for the sandbox's end, for whatever reason; everything is then cleaned up."""
        if self._end is not None:
            return self._end
        if (process := self._followed()) is not None:
            return await self._after_end(await process.wait())
        with Registry.open() as registry:
            return await self._after_end(_end_of(await wait_end(registry, self.name)))

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> SandboxEnd:
        """Let the sandbox end in order, without once ``timeout_s`` has passed, and wait for that."""
        timeout_s = check_seconds("timeout_s", timeout_s, zero=True)
        if self._end is not None:
            return self._end
        if (process := self._followed()) is not None:
            return await self._after_end(await process.stop(timeout_s))
        await self._hang_up()
        with Registry.open() as registry:
            return await self._after_end(
                _end_of(await stop_sandbox(registry, self.name, timeout_s=timeout_s))
            )

    async def kill(self) -> SandboxEnd:
        """End the sandbox now, as pulling the plug would, and wait until nothing of it is left."""
        if self._end is None and (process := self._followed()) is not None:
            return await self._after_end(await process.kill())
        return await self.stop(timeout_s=0)

    async def close(self) -> None:
        """Let go of what this program holds: an owned sandbox ends, a detached one goes on.

        In a forked child, which has a copy of this object, the parent's sandbox goes on, too.
        """
        self._here()
        self._closed = True
        if self._process is not None:
            with contextlib.suppress(ConfigError):  # gone already
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
            sandbox._owned = False
        return sandbox

    def _take(self, facts: Mapping[str, Any]) -> None:
        self._engine_pid = int(facts["engine_pid"])
        self._control_socket = facts["control_socket"]
        self._agent_socket = Path(facts["agent_socket"])
        self._ports = tuple(facts["ports"])
        self.boot_s = float(facts["boot_s"] or 0)

    def _take_note(self, note: MachineNote) -> None:
        self._process_pid = note.process.pid
        self._take({name: getattr(note, name) for name in _FACTS})

    def _forget_facts(self) -> None:
        self._engine_pid = self._process_pid = 0
        self._control_socket, self._ports = None, ()

    def _here(self) -> None:
        """In a forked child: leave what is the parent's alone, and go on without it."""
        if self._program != os.getpid():
            never_destroy(self._process)
            self._process = None
            self._program = os.getpid()

    def _followed(self) -> OwnedProcess | None:
        """The sandbox's process where it can be followed: in the program and the loop that started it."""
        self._here()
        process = self._process
        return process if process is not None and process.loop is asyncio.get_running_loop() else None

    def _check_open(self) -> None:
        """:raises SandboxClosedError: this object was closed."""
        if self._closed:
            raise SandboxClosedError(
                f"the Sandbox object of {self.name!r} is closed",
                hint=f"use it before its 'with' block ends, or get another one: Sandbox.get({self.name!r})",
            )

    def _check_usable(self) -> None:
        """:raises SandboxClosedError: this object was closed.
        :raises NotRunningError: the sandbox has ended.
        """
        self._check_open()
        self._here()
        end = self._end
        if end is None and self._process is not None:
            end = self._process.end
        if end is not None and self._owned:
            raise NotRunningError(f"sandbox {self.name!r} does not run any more: {end.detail or end.reason}")

    def _check_running(self) -> None:
        """:raises NotRunningError: the sandbox does not run (looked up: before a connection is made)."""
        self._check_usable()
        with Registry.open() as registry:
            self._record, note = lifecycle.find_running(registry, self.name)
        self._take_note(note)

    async def _after_end(self, end: SandboxEnd) -> SandboxEnd:
        """An owned sandbox goes away with its end."""
        if self._owned:
            self._end = end
        self._forget_facts()
        await self._hang_up()
        with contextlib.suppress(ConfigError), Registry.open() as registry:  # gone already
            self._record = lifecycle.find(registry, self.name)
        return end

    async def _hang_up(self) -> None:
        await self.balloon.close()
        await self._agents.close()

    async def _connect_agent(self) -> AgentClient:
        self._check_usable()
        return await self._agents.get()

    async def _new_agent(self) -> AgentClient:
        from ballonet.guest.agent_client import AgentClient

        self._check_running()
        return await AgentClient.connect(self.agent_socket)


def _end_of(record: Record | None) -> SandboxEnd:
    if record is None:
        return SandboxEnd("removed", "it went away with its end")
    return SandboxEnd(record.end_reason or str(record.state), record.end_detail or "", record.exit_code)
