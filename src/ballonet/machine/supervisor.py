"""Runs one sandbox: binds its sockets, boots the VM, serves it, and cleans up.

The order is guaranteed: sockets are bound before the guest boots, readiness is reported when the agent answers, and the
end is reported when the engine has ended and the files are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import logging
import signal
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import BallonetError, ConfigError, GuestError, HostError
from ballonet.base.memory import mib_to_bytes
from ballonet.control.peers import AccessPolicy
from ballonet.host.identity import ProcessId
from ballonet.machine import network_request
from ballonet.machine.build import build_vm
from ballonet.machine.guest_setup import root_kind, setup_steps
from ballonet.machine.hardcap import HardCap
from ballonet.machine.notes import read_stop_seconds
from ballonet.machine.owner_channel import OwnerChannel, Report
from ballonet.machine.run_directory import RunDirectory, claim_run_directory
from ballonet.machine.run_note import RunNote
from ballonet.machine.run_options import RunOptions
from ballonet.machine.vm_start import StartedVm, VmStart
from ballonet.vmm.attach import Net
from ballonet.vmm.config import VmConfig
from ballonet.vmm.engine import ExitReason, Vm, VmExit

if TYPE_CHECKING:
    from ballonet.machine.command import MainCommand
    from ballonet.machine.network import GuestNetwork
    from ballonet.machine.services import Services
    from ballonet.machine.shares import ShareServers

log = logging.getLogger(__name__)

#: How long a guest may take to boot, from the start of the engine until its agent is ready (seconds). Emulation on a
#: busy host is slow.
BOOT_TIMEOUT_S = 120.0
#: How long a guest may take to power off when the sandbox is stopped (seconds).
POWEROFF_TIMEOUT_S = 5.0


#: How long the engine may take to end after it has disconnected from the servers of its volumes (seconds).
_ENGINE_END_S = 5.0
#: How long the sandbox's own command may take to end when the sandbox is stopped (seconds), unless the stop has a
#: timeout (:data:`~ballonet.machine.notes.STOP_NOTE`).
STOP_COMMAND_S = 10.0
#: How often the sandbox checks that its sockets and its note exist (seconds).
_UPKEEP_S = 2.0


class Ending(StrEnum):
    """Why the sandbox ends."""

    STOP = "stop"
    #: Stop without asking the guest.
    FORCE = "force"
    OWNER_GONE = "owner-gone"
    GUEST = "guest"
    COMMAND = "command"
    VOLUME = "volume"


class Supervisor:
    """Runs one sandbox until it ends. Create it inside a running event loop."""

    def __init__(
        self,
        config: VmConfig,
        owner: OwnerChannel,
        options: RunOptions | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self._config = config
        self._owner = owner
        self._options = options or RunOptions()
        self._note = RunNote(self._options, flags)
        self._exit_code: int | None = None
        self._command: MainCommand | None = None
        self._volume_failure = ""
        self._force = asyncio.Event()
        self._network_request = asyncio.Event()
        self._policy = AccessPolicy(
            allow_users=frozenset(config.balloon_allow_users),
            allow_groups=frozenset(config.balloon_allow_groups),
            read_only_users=frozenset(config.balloon_observe_users),
            read_only_groups=frozenset(config.balloon_observe_groups),
        )
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Run the sandbox until it ends; returns the exit status of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, Ending.STOP)
        loop.add_signal_handler(signal.SIGUSR1, self._end, Ending.FORCE)
        loop.add_signal_handler(network_request.SIGNAL, self._network_request.set)
        await self._owner.open()
        try:
            run_directory = claim_run_directory(
                self._config.name,
                self._config.balloon_control_socket,
                with_control=self._config.has_balloon,
                control_mode=self._policy.socket_mode(),
                state_dir=self._options.state_dir,
            )
            try:
                self._note.write(
                    run_dir=str(run_directory.path), control_socket=_text(run_directory.control_path)
                )
                try:
                    report = await self._live(run_directory)
                except OSError as error:
                    log.exception("a system call failed")
                    raise HostError(
                        f"the sandbox's process failed: {error}",
                        hint="raise the limit of open files: ulimit -n 1024"
                        if error.errno == errno.EMFILE
                        else None,
                    ) from error
                self._note.end(report, self._exit_code)
            except BallonetError as error:
                self._note.end(Report.failed(error), self._exit_code)
                raise
            finally:
                run_directory.release()
        except BallonetError as error:
            log.error("%s", error)
            report = Report.failed(error)
        self._owner.send(report)
        await self._owner.close()
        return 0 if report.event == "ended" else 1

    async def _live(self, run_directory: RunDirectory) -> Report:
        started = time.monotonic()
        vm = build_vm(self._config, disk=self._disk())
        if self._config.ports:
            from ballonet.machine.ports import check_ports_free

            check_ports_free(self._config.ports)
        async with contextlib.AsyncExitStack() as stack:
            cap = self._hard_cap(vm)
            if cap is not None:
                stack.push_async_callback(cap.close)
            cgroup_procs = None if cap is None else cap.procs_file
            servers = self._serve_volumes(run_directory, stack, cgroup_procs)
            network = self._open_network(run_directory, stack, cgroup_procs)
            start = VmStart(
                stack,
                servers,
                cgroup_procs=cgroup_procs,
                cold=self._options.cold,
                network=network,
                launched=self._engine_launched,
                ending=self._ending,
            )
            started_vm = await start.run(vm)
            vm = started_vm.vm
            if cap is not None and vm.balloon is not None:
                cap.follow(vm.pid, vm.balloon)
            stack.push_async_callback(_cancel, asyncio.create_task(self._watch_engine(vm)))
            stack.push_async_callback(_cancel, asyncio.create_task(self._watch_owner()))
            if servers is not None:
                stack.push_async_callback(_cancel, asyncio.create_task(self._watch_volumes(vm, servers)))
            if network is not None:
                network.hand_over()
                stack.push_async_callback(_cancel, asyncio.create_task(network.watch()))
                stack.push_async_callback(_cancel, asyncio.create_task(self._answer_requests(network)))
            from ballonet.machine.services import Services

            services = Services(vm, started_vm.channel, run_directory, cap, self._policy)
            stack.push_async_callback(services.close)
            await services.open_control()
            steps = setup_steps(self._config, root_kind(self._config.root))
            boot = asyncio.create_task(
                services.boot(
                    BOOT_TIMEOUT_S,
                    steps,
                    relief=self._config.pressure_relief,
                    at_ready=started_vm.at_ready,
                )
            )
            stack.push_async_callback(_cancel, boot)
            either: set[asyncio.Future[Any]] = {boot, self._ending}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._ending.done():
                boot.result()
                await self._start_command(services, stack)
                boot_s = time.monotonic() - started
                await self._report_ready(started_vm, network, run_directory, boot_s)
                stack.push_async_callback(
                    _cancel, asyncio.create_task(self._maintain(services, run_directory))
                )
                if self._options.run_id is not None and self._options.state_dir is not None:
                    services.keep_history(self._config.name, self._options.run_id, self._options.state_dir)
            ending = await self._ending
            ended = await self._shut_down(ending, vm, services)
            if cap is not None and cap.kills():
                detail = f"the host killed it because it exceeded its hard cap of {cap.limit_mib} MiB"
                ended = VmExit(ExitReason.HOST_OOM, ended.status, detail)
        log.info("sandbox %s ended (%s): %s", self._config.name, ending, ended.detail)
        facts = {"reason": ended.reason, "status": ended.status, "detail": ended.detail}
        return Report("ended", {**facts, "exit_code": self._exit_code})

    def _engine_launched(self, vm: Vm) -> None:
        self._note.write(engine=ProcessId.of(vm.pid))
        importlib.import_module("ballonet.machine.services")  # loaded while the engine starts

    async def _start_command(self, services: Services, stack: contextlib.AsyncExitStack) -> None:
        """Start the sandbox's own command, if it has one; the sandbox ends with it."""
        if not self._options.command:
            return
        assert self._options.state_dir is not None
        from ballonet.machine.command import MainCommand

        self._command = command = MainCommand(services.agent, self._options.state_dir)
        stack.callback(command.close)
        await command.start()
        stack.push_async_callback(_cancel, asyncio.create_task(self._watch_command(command)))

    async def _watch_command(self, command: MainCommand) -> None:
        with contextlib.suppress(GuestError):  # the end of the engine follows, with the reason
            self._exit_code = await command.wait()
            self._end(Ending.COMMAND)

    async def _shut_down(self, ending: Ending, vm: Vm, services: Services) -> VmExit:
        """End the VM as ``ending`` requires; returns how it ended."""
        if ending is Ending.GUEST:
            return await vm.wait()
        oom_kills = await services.oom_kills() if self._exit_code == 128 + signal.SIGKILL else 0
        if ending in (Ending.STOP, Ending.COMMAND):
            graceful = asyncio.create_task(self._ask_to_end(ending, services))
            forced = asyncio.create_task(self._force.wait())
            await asyncio.wait({graceful, forced}, return_when=asyncio.FIRST_COMPLETED)
            for task in (graceful, forced):
                await _cancel(task)
        ended = await vm.kill()
        if ending is Ending.VOLUME:
            return VmExit(ExitReason.VOLUME_FAILED, ended.status, self._volume_failure)
        if ending is Ending.COMMAND:
            detail = f"its command ended with status {self._exit_code}"
            if oom_kills:
                killed = "one process" if oom_kills == 1 else f"{oom_kills} processes"
                detail += f"; the guest's kernel killed {killed} because memory ran out"
            ended = VmExit(ExitReason.GUEST_OOM if oom_kills else ExitReason.COMPLETED, ended.status, detail)
        elif ending is Ending.STOP and not self._force.is_set():
            ended = VmExit(ExitReason.STOPPED, ended.status, "it was stopped")
        else:
            why = "because its owner has ended" if ending is Ending.OWNER_GONE else "on request"
            ended = VmExit(ExitReason.STOPPED, ended.status, f"it was killed {why}")
        return ended

    async def _ask_to_end(self, ending: Ending, services: Services) -> None:
        if ending is Ending.STOP and self._command is not None:
            assert self._options.state_dir is not None  # the command is there
            await self._command.terminate(read_stop_seconds(self._options.state_dir, STOP_COMMAND_S))
        await services.power_off(POWEROFF_TIMEOUT_S)

    def _serve_volumes(
        self, run_directory: RunDirectory, stack: contextlib.AsyncExitStack, cgroup_procs: str | None
    ) -> ShareServers | None:
        if not self._config.volumes:
            return None
        from ballonet.machine.shares import ShareServers

        servers = ShareServers()
        stack.push_async_callback(servers.close)
        servers.start(self._config.volumes, run_directory.path, cgroup_procs=cgroup_procs)
        return servers

    def _open_network(
        self, run_directory: RunDirectory, stack: contextlib.AsyncExitStack, cgroup_procs: str | None
    ) -> GuestNetwork | None:
        if self._config.net is not Net.USER:
            return None
        from ballonet.machine.network import GuestNetwork

        network = GuestNetwork(
            self._config, run_directory.path, state_dir=self._options.state_dir, cgroup_procs=cgroup_procs
        )
        stack.push_async_callback(network.close)
        network.open()
        return network

    async def _answer_requests(self, network: GuestNetwork) -> None:
        from ballonet.machine.network_requests import answer_request

        while True:
            await self._network_request.wait()
            self._network_request.clear()
            if self._options.state_dir is not None:
                await answer_request(network, self._note, self._options.state_dir)

    def _disk(self) -> Path | None:
        if self._config.disk_mib is None:
            return None
        if self._options.state_dir is None:
            raise ConfigError("ballonet sandbox: a disk requires --state-dir")
        from ballonet.machine.disk import obtain_disk

        return obtain_disk(self._options.state_dir, self._config.disk_mib)

    def _hard_cap(self, vm: Vm) -> HardCap | None:
        if not self._config.hard_cap:
            return None
        balloon = vm.spec.balloon
        return HardCap(
            self._config.name, mib_to_bytes(vm.spec.memory_mib if balloon is None else balloon.initial_mib)
        )

    async def _report_ready(
        self, started: StartedVm, network: GuestNetwork | None, run_directory: RunDirectory, boot_s: float
    ) -> None:
        vm = started.vm
        ports = await vm.published_ports() if network is None else network.ports
        facts: dict[str, Any] = {
            "control_socket": _text(run_directory.control_path),
            "ports": tuple(map(str, ports)),
            "boot_s": round(boot_s, 3),
            "started_at": time.time(),
        }
        self._note.write(ready=True, **facts)
        facts |= {
            "engine_pid": vm.pid,
            "agent_socket": str(run_directory.agent.path),
            "start": started.source,
        }
        self._owner.send(Report("ready", facts))

    async def _maintain(self, services: Services, run_directory: RunDirectory) -> None:
        """Restore the sandbox's sockets and note if they are removed."""
        logged = ""
        while True:
            await asyncio.sleep(_UPKEEP_S)
            try:
                if not run_directory.intact():
                    await services.repair()
                facts: dict[str, Any] = {
                    "run_dir": str(run_directory.path),
                    "control_socket": _text(run_directory.control_path),
                }
                self._note.keep(**facts)
            except BallonetError as error:
                if error.message != logged:  # once, not every two seconds
                    log.error("%s", error)
                logged = error.message

    def _end(self, ending: Ending) -> None:
        """End the sandbox. Only the first call counts, except that ``FORCE`` always applies."""
        if ending is Ending.FORCE:
            self._force.set()
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _watch_engine(self, vm: Vm) -> None:
        await vm.wait()
        self._end(Ending.GUEST)

    async def _watch_volumes(self, vm: Vm, servers: ShareServers) -> None:
        end = await servers.first_end()
        if end.status == 0:
            # An engine that ends disconnects from its servers first: its own end is the reason then.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENGINE_END_S):
                    await vm.wait()
                    return
        self._volume_failure = end.detail
        self._end(Ending.VOLUME)

    async def _watch_owner(self) -> None:
        if await self._owner.wait_stop():
            self._end(Ending.STOP)
        elif not (self._options.detached and self._note.ready):
            self._end(Ending.OWNER_GONE)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
