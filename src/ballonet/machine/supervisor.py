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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import BallonetError, GuestError, HostError
from ballonet.control.peers import AccessPolicy
from ballonet.host.identity import ProcessId
from ballonet.machine.build import build_vm
from ballonet.machine.ending import Ending
from ballonet.machine.event_file import EventFile
from ballonet.machine.guest_setup import root_kind, setup_steps
from ballonet.machine.notes import MachineNote, read_stop_seconds
from ballonet.machine.owner_channel import OwnerChannel, Report
from ballonet.machine.paused_file import discard_paused
from ballonet.machine.resources import engine_limits, hard_cap, open_network, serve_volumes, writable_disk
from ballonet.machine.run_directory import RunDirectory, claim_run_directory
from ballonet.machine.run_notes import RunNotes
from ballonet.machine.run_options import RunOptions
from ballonet.machine.start_counts import count_start
from ballonet.machine.vm_start import StartedVm, VmStart
from ballonet.settings.flags import with_limits
from ballonet.vmm.attach import Net
from ballonet.vmm.config import VmConfig
from ballonet.vmm.engine import ExitReason, Vm, VmExit

if TYPE_CHECKING:
    from ballonet.machine.command import MainCommand
    from ballonet.machine.engine_confinement import Confinement
    from ballonet.machine.engine_limits import EngineLimits
    from ballonet.machine.network import GuestNetwork
    from ballonet.machine.requests import Requests
    from ballonet.machine.resuming import PausedSandbox
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
        self._notes = RunNotes(
            MachineNote(
                run_id=self._options.run_id or "",
                process=ProcessId.current(),
                flags=tuple(flags),
                resumed=self._options.resume,
                health="starting" if config.has_health_check else None,
            ),
            None if self._options.run_id is None else self._options.state_dir,
        )
        self._exit_code: int | None = None
        self._command: MainCommand | None = None
        self._volume_failure = ""
        self._stop_detail = "it was stopped"
        self._requests: Requests | None = None
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
        if self._config.net is Net.USER:
            from ballonet.machine import network_request

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
                self._notes.write(
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
                self._notes.write_end(report, self._exit_code)
            except BallonetError as error:
                self._notes.write_end(Report.failed(error), self._exit_code)
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
        async with contextlib.AsyncExitStack() as stack:
            config, saved, least_bytes = self._config, None, 0
            if self._options.resume:
                from ballonet.machine.resuming import open_paused

                saved = stack.enter_context(open_paused(config, self._state_dir))
                config, least_bytes = saved.config, saved.data_bytes
            vm = build_vm(config, disk=writable_disk(config, self._options.state_dir))
            if saved is not None:
                saved.prepare(vm)
            elif config.ports:
                from ballonet.machine.ports import check_ports_free

                check_ports_free(config.ports)
            cap = hard_cap(config, vm, least_bytes)
            limits = engine_limits(config, cap, stack)
            cgroup_procs = limits.procs_files
            servers = serve_volumes(config, run_directory, stack, cgroup_procs)
            network = open_network(config, run_directory, self._options.state_dir, stack, cgroup_procs)
            start = VmStart(
                stack,
                servers,
                cgroup_procs=cgroup_procs,
                cold=self._options.cold,
                network=network,
                saved=None if saved is None else saved.state,
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
                self._serve_network(network, stack)
            from ballonet.machine.services import Services

            services = Services(vm, started_vm.channel, run_directory, cap, self._policy)
            stack.push_async_callback(services.close)
            await services.open_control()
            if saved is None:
                steps = setup_steps(config, root_kind(config.root))
                booting = services.boot(
                    BOOT_TIMEOUT_S, steps, relief=config.pressure_relief, at_ready=started_vm.at_ready
                )
            else:
                if saved.notes.command is not None:
                    await self._run_command(services, stack, saved)
                booting = services.resume(BOOT_TIMEOUT_S, saved.steps, relief=config.pressure_relief)
            boot = asyncio.create_task(booting)
            stack.push_async_callback(_cancel, boot)
            either: set[asyncio.Future[Any]] = {boot, self._ending}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._ending.done():
                boot.result()
                if saved is not None:
                    saved.running()
                if saved is None or saved.notes.command is None:
                    await self._run_command(services, stack, None)
                boot_s = time.monotonic() - started
                await self._report_ready(started_vm, network, run_directory, boot_s)
                stack.push_async_callback(
                    _cancel, asyncio.create_task(self._notes.maintain(services, run_directory))
                )
                if self._options.run_id is not None and self._options.state_dir is not None:
                    earlier = None if saved is None else saved.earlier
                    services.keep_history(config.name, self._options.run_id, self._state_dir, earlier)
                if self._options.state_dir is not None:
                    ran_s = 0.0 if saved is None else saved.notes.ran_s
                    self._serve_requests(vm, services, network, limits, ran_s)
            ending = await self._ending
            if self._requests is not None:
                await self._requests.close(wait=ending is not Ending.FORCE)
            ended = await self._shut_down(ending, vm, services)
            if cap is not None and cap.kills():
                detail = f"the host killed it because it exceeded its hard cap of {cap.limit_mib} MiB"
                ended = VmExit(ExitReason.HOST_OOM, ended.status, detail)
        log.info("sandbox %s ended (%s): %s", self._config.name, ending, ended.detail)
        facts = {"reason": ended.reason, "status": ended.status, "detail": ended.detail}
        return Report("ended", {**facts, "exit_code": self._exit_code})

    def _serve_network(self, network: GuestNetwork, stack: contextlib.AsyncExitStack) -> None:
        """Keep the network of a guest that runs, and carry out requests about it."""
        network.hand_over()
        stack.push_async_callback(_cancel, asyncio.create_task(network.watch()))
        if self._options.state_dir is not None:
            from ballonet.machine.network_requests import answer_requests

            answering = answer_requests(self._network_request, network, self._notes, self._state_dir)
            stack.push_async_callback(_cancel, asyncio.create_task(answering))

    def _serve_requests(
        self, vm: Vm, services: Services, network: GuestNetwork | None, limits: EngineLimits, ran_s: float
    ) -> None:
        """Carry out requests to this process, and keep to the limits of its lifetime."""
        from ballonet.machine.live_save import LiveSave
        from ballonet.machine.requests import Requests

        config = self._config
        live = LiveSave(config.name, vm, services, self._command, self._state_dir, lambda: self._notes.note)
        if network is not None:
            live.open_connections = network.open_connections
        self._requests = Requests(live, limits, self._ending.done, config, self._modified, self._stop, ran_s)
        services.agent.manager = self._requests.carry_out
        events = EventFile(self._state_dir, self._notes.note.run_id)
        services.keep_events(events)

        def health_changed(state: str, problem: str | None) -> None:
            self._notes.write(health=state)
            events.append(state, detail=problem)

        self._requests.check_health(health_changed)

    def _modified(self, config: VmConfig) -> None:
        self._notes.write(flags=with_limits(self._notes.note.flags, config))

    def _stop(self, why: str) -> None:
        self._stop_detail = f"it was stopped: {why}"
        self._end(Ending.STOP)

    def _engine_launched(self, vm: Vm, confinement: Confinement) -> None:
        self._notes.write(engine=ProcessId.of(vm.pid))
        if self._state_dir is not None:
            confinement.write(self._state_dir)
        for module in ("services", "requests"):  # loaded while the engine starts
            importlib.import_module(f"ballonet.machine.{module}")

    async def _run_command(
        self, services: Services, stack: contextlib.AsyncExitStack, saved: PausedSandbox | None
    ) -> None:
        """Start the sandbox's own command, or continue that of a saved one; the sandbox ends with it."""
        if not self._options.command:
            return
        from ballonet.machine.command import MainCommand

        self._command = command = MainCommand(services.agent, self._state_dir)
        stack.callback(command.close)
        if saved is None:
            await command.start()
        elif saved.notes.command is not None:
            command.adopt(saved.notes.command)
        stack.push_async_callback(_cancel, asyncio.create_task(self._watch_command(command)))

    async def _watch_command(self, command: MainCommand) -> None:
        with contextlib.suppress(GuestError):  # the end of the engine follows, with the reason
            self._exit_code = await command.wait()
            self._end(Ending.COMMAND)

    async def _shut_down(self, ending: Ending, vm: Vm, services: Services) -> VmExit:
        """End the VM as ``ending`` requires; returns how it ended."""
        if self._requests is not None and self._requests.paused:
            ended = await vm.kill()
            if ending is Ending.GUEST:
                return VmExit(ExitReason.PAUSED, ended.status, "it was paused")
            discard_paused(self._state_dir)  # it was to end meanwhile
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
            return VmExit(ExitReason.GUEST_OOM if oom_kills else ExitReason.COMPLETED, ended.status, detail)
        if ending is Ending.STOP and not self._force.is_set():
            return VmExit(ExitReason.STOPPED, ended.status, self._stop_detail)
        why = "because its owner has ended" if ending is Ending.OWNER_GONE else "on request"
        return VmExit(ExitReason.STOPPED, ended.status, f"it was killed {why}")

    async def _ask_to_end(self, ending: Ending, services: Services) -> None:
        if ending is Ending.STOP and self._command is not None:
            assert self._options.state_dir is not None  # the command is there
            await self._command.terminate(read_stop_seconds(self._options.state_dir, STOP_COMMAND_S))
        await services.power_off(POWEROFF_TIMEOUT_S)

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
        self._notes.write(ready=True, **facts)
        facts |= {
            "engine_pid": vm.pid,
            "agent_socket": str(run_directory.agent.path),
            "start": started.source,
        }
        self._owner.send(Report("ready", facts))
        if self._options.state_dir is not None:  # beside the registry
            count_start(self._options.state_dir.parent.parent, started.kind, boot_s)

    @property
    def _state_dir(self) -> Path:
        assert self._options.state_dir is not None
        return self._options.state_dir

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
        elif not (self._options.detached and self._notes.note.ready):
            self._end(Ending.OWNER_GONE)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
