"""The network ``user`` of one sandbox: a network namespace of its own, a packet filter in it, and a connection to the
host's network.

The guest's interface is one end of a link whose other end is in the namespace; the engine has only that link, and no
network of its own. What leaves the namespace, the kernel decides with the rules of
:mod:`ballonet.machine.net_filter`; slirp4netns then makes ordinary connections of this user on the host
(:mod:`ballonet.machine.uplink`). The namespace ends with the last process and descriptor that refer to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, HostError
from ballonet.base.ipv4 import Block
from ballonet.base.process import find_program, spawn, wait_exit
from ballonet.host.addresses import AddressChanges, own_addresses
from ballonet.host.bandwidth import limit_bandwidth
from ballonet.host.conntrack import count_connections
from ballonet.host.netns import LOOPBACK, Interface, Namespace, empty_network
from ballonet.host.slirp4netns import find_slirp4netns
from ballonet.machine.name_gate import NameGate
from ballonet.machine.name_queries import NameLimits
from ballonet.machine.name_rules import render_names
from ballonet.machine.name_server import NameServer, find_name_server
from ballonet.machine.net_counters import read_counters
from ballonet.machine.net_filter import (
    GUEST_INTERFACE,
    LOG_GROUP,
    UP_INTERFACE,
    Addresses,
    FilterRules,
    render_filter,
    render_own,
)
from ballonet.machine.network_log import NetworkLog
from ballonet.machine.network_request import NewRules
from ballonet.machine.uplink import Uplink
from ballonet.vmm.attach import Port
from ballonet.vmm.config import VmConfig
from ballonet.vmm.default_engine import DefaultEngine
from ballonet.vmm.engine import NetworkLink

log = logging.getLogger(__name__)

_HINT = "install it: apt-get install nftables; without it, the networks isolated and none work"
_USER = DefaultEngine.user_network
_ADDRESSES = Addresses(_USER.guest, _USER.gateway, _USER.name_server)
_MTU = 1500
#: How long to wait before a failed connection to the host's network is made again (seconds).
_RETRY_S = 1.0


class GuestNetwork:
    """Call :meth:`open`, then :meth:`connect` before the guest runs, then :meth:`watch`, then :meth:`close`."""

    def __init__(
        self, config: VmConfig, directory: Path, *, state_dir: Path | None, cgroup_procs: Sequence[str]
    ) -> None:
        self._rules = FilterRules(
            allow=config.net_allow,
            deny=config.net_deny,
            host_ports=config.net_allow_host,
            ports=config.ports,
            connections=config.net_connections,
        )
        self._rate_kib = config.net_rate_kib
        self._name_limits = NameLimits(self._rules)
        #: Of the sandbox's own name server.
        self._asked_for = {"names_asked": 0, "names_refused": 0}
        self._directory = directory
        self._cgroup_procs = cgroup_procs
        self._namespace = Namespace(
            Interface(GUEST_INTERFACE, (_ADDRESSES.gateway, _ADDRESSES.name_server), 24, _MTU), LOG_GROUP
        )
        self._log = NetworkLog(state_dir)
        self._number = 1
        self._own: tuple[Block, ...] = ()
        self._changes: AddressChanges | None = None
        self._filter: asyncio.Task[None] | None = None
        self._uplink: Uplink | None = None
        self._names: NameServer | None = None
        self._resolving: asyncio.Task[None] | None = None
        #: The published ports, with the host ports that were chosen.
        self.ports: tuple[Port, ...] = ()

    def link(self) -> NetworkLink:
        """The engine's end, until :meth:`hand_over`."""
        return NetworkLink(self._namespace.guest_end, empty_network())

    def open(self) -> None:
        """Make the namespace. Its filter is loaded meanwhile.

        :raises HostError: it cannot be made, or a program is not installed.
        """
        check_network_programs(names=self._rules.resolves_names)
        self._changes = AddressChanges()  # before the addresses are read: no change is missed
        self._own = own_addresses()
        first, *others = render_filter(self._rules, _ADDRESSES, self._own, number=self._number)
        child, errors = self._start_nft(first, self._namespace.in_child)
        try:
            self._namespace.receive()
        except HostError:
            child.wait()
            os.close(errors)
            raise
        assert self._namespace.log is not None
        self._log.follow(self._namespace.log)
        self._filter = asyncio.create_task(self._load(others, (child, errors)), name="packet filter")

    async def connect(self) -> None:
        """Wait until the filter is in force, connect the namespace, and publish the ports. May be called again.

        :raises HostError: it cannot be connected.
        :raises BindError: a port cannot be published.
        """
        assert self._filter is not None, "the network was not opened"
        await asyncio.shield(self._filter)
        if self._uplink is None:
            await self._connect()
        if self._names is None and self._rules.resolves_names:
            await self._serve_names()

    async def _serve_names(self) -> None:
        queries, server = self._namespace.queries, self._namespace.name_server
        assert queries is not None
        assert server is not None
        gate = NameGate(queries, server, self._name_limits, self._asked)
        self._names = await NameServer.start(
            render_names(self._rules, LOOPBACK), self._namespace, gate, self._asked, self._cgroup_procs
        )

    def _asked(self, name: str, kind: str, forwarded: bool) -> None:
        self._asked_for["names_asked"] += 1
        self._asked_for["names_refused"] += not forwarded
        self._log.add("name", name=name, type=kind, forwarded=forwarded)

    async def _connect(self) -> None:
        # Otherwise the host's loopback is closed there as well as by the filter. But answers of a published UDP port
        # would be lost with it.
        loopback = bool(self._rules.host_ports) or any(port.protocol == "udp" for port in self._rules.ports)
        self._uplink = await Uplink.start(
            self._namespace,
            self._directory,
            host_loopback=loopback,
            cgroup_procs=self._cgroup_procs,
        )
        self._limit(self._rate_kib)
        self.ports = await self._uplink.publish(self.ports or self._rules.ports)

    def _limit(self, rate_kib: int | None) -> None:
        """Limit what the guest sends, at the uplink, and what it receives, at its own interface.

        :raises HostError: it cannot be limited.
        """
        assert self._namespace.links is not None, "the network was not opened"
        for interface in (UP_INTERFACE, GUEST_INTERFACE):
            limit_bandwidth(self._namespace.links, interface, rate_kib)

    async def change(self, new: NewRules) -> None:
        """Put other rules and limits in force. Connections that are not allowed any more end with their next packet.

        :raises HostError: they cannot be put in force, and the old ones stay; or no name is resolved now.
        """
        assert self._filter is not None, "the network was not opened"
        old, rules = (
            self._rules,
            replace(self._rules, allow=new.net_allow, deny=new.net_deny, connections=new.net_connections),
        )
        if new.net_rate_kib != self._rate_kib:
            self._limit(new.net_rate_kib)
            self._log.add("limits", rate_kib=new.net_rate_kib)
        self._rate_kib = new.net_rate_kib
        if rules == old:
            return
        if rules.resolves_names:
            find_name_server()
        await self._load(render_filter(rules, _ADDRESSES, self._own, number=self._number + 1, old=old))
        self._rules, self._number, self._name_limits = rules, self._number + 1, NameLimits(rules)
        self._log.add("rules", allow=list(map(str, rules.allow)), deny=list(map(str, rules.deny)))
        await _cancel(self._resolving)
        if self._names is not None:
            await self._names.close()
            self._names = None
        try:
            if rules.resolves_names:
                await self._serve_names()
        finally:
            self._resolving = asyncio.create_task(self._keep_resolving(), name="name server")

    async def counters(self) -> Mapping[str, Any]:
        """What the filter has counted.

        :raises HostError: it cannot be read.
        """
        output = os.memfd_create("counters")
        try:
            await self._loaded(
                *self._start_nft("", self._namespace.enter, ["-j", "list", "counters"], output)
            )
            counted = read_counters(os.pread(output, os.fstat(output).st_size, 0), self._rules)
            if self._rules.resolves_names:
                counted |= self._asked_for
            return counted
        finally:
            os.close(output)

    async def open_connections(self) -> int:
        """How many TCP connections are open, in both directions.

        :raises HostError: the kernel does not say.
        """
        assert self._namespace.table is not None, "the network was not opened"
        return count_connections(self._namespace.table)

    def hand_over(self) -> None:
        """Close this process's copy of the engine's end: the engine runs."""
        self._namespace.close_guest_end()

    async def watch(self) -> None:
        """Keep the connection and the host's own addresses up to date."""
        assert self._changes is not None
        changes = self._changes
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(changes.fileno(), changed.set)
        try:
            self._resolving = asyncio.create_task(self._keep_resolving(), name="name server")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_connected())
                tasks.create_task(self._keep_closed(changed, changes))
        finally:
            await _cancel(self._resolving)
            loop.remove_reader(changes.fileno())

    async def _keep_connected(self) -> None:
        while True:
            if self._uplink is not None:
                self._failed("the guest has no network", await self._uplink.wait())
                await self._uplink.close()
                self._uplink = None
            try:
                await self._connect()
                log.info("the guest's network is connected again")
            except BallonetError as error:
                log.error("%s", error)
                await asyncio.sleep(_RETRY_S)

    async def _keep_resolving(self) -> None:
        while self._rules.resolves_names:
            if self._names is not None:
                self._failed("the guest resolves no names", await self._names.wait())
                await self._names.close()
                self._names = None
            try:
                await self._serve_names()
            except BallonetError as error:
                log.error("%s", error)
            await asyncio.sleep(_RETRY_S)

    def _failed(self, what: str, why: str) -> None:
        log.error("%s: %s; it is started again", what, why)
        self._log.add("failed", detail=f"{what}: {why}")

    async def _keep_closed(self, changed: asyncio.Event, changes: AddressChanges) -> None:
        while True:
            await changed.wait()
            changed.clear()
            changes.drain()
            if (own := own_addresses()) == self._own:
                continue
            try:
                await self._load([render_own(own)])
                self._own = own
            except BallonetError as error:
                log.error("the host's addresses have changed: %s", error)
                await asyncio.sleep(_RETRY_S)
                changed.set()

    async def close(self) -> None:
        if self._filter is not None:
            with contextlib.suppress(HostError):
                await self._filter
        if self._names is not None:
            await self._names.close()
        if self._uplink is not None:
            await self._uplink.close()
        self._log.close()
        if self._changes is not None:
            self._changes.close()
        self._namespace.close()

    def _start_nft(
        self,
        text: str,
        in_child: Callable[[], None],
        words: Sequence[str] = ("-f", "-"),
        output: int = subprocess.DEVNULL,
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start ``nft`` with this input in the namespace; returns the child and the file of its messages."""
        nft = find_nft()
        commands, errors = os.memfd_create("commands"), os.memfd_create("errors")
        try:
            os.write(commands, text.encode())
            os.lseek(commands, 0, os.SEEK_SET)
            child = spawn(
                [nft, *words],
                stdin=commands,
                stdout=output,
                stderr=errors,
                in_child=in_child,
                die_with_parent=True,
            )
        except BaseException:
            os.close(errors)
            raise
        finally:
            os.close(commands)
        return child, errors

    async def _load(
        self, texts: Sequence[str], first: tuple[subprocess.Popen[bytes], int] | None = None
    ) -> None:
        """Load inputs of ``nft`` one after the other.

        :param first: an ``nft`` that was started before.
        :raises HostError: one failed.
        """
        if first is not None:
            await self._loaded(*first)
        for text in texts:
            await self._loaded(*self._start_nft(text, self._namespace.enter))

    async def _loaded(self, child: subprocess.Popen[bytes], errors: int) -> None:
        """Wait until ``nft`` has done its work.

        :raises HostError: it failed; the old rules are in force, or no packet passes if there are none.
        """
        try:
            status = await wait_exit(child)
            said = os.pread(errors, 2000, 0).decode(errors="replace").strip()
        finally:
            os.close(errors)
        if status != 0:
            raise HostError(
                f"the packet filter of the guest's network cannot be set up: {said or f'status {status}'}",
                hint="it needs a kernel with nftables (nf_tables, nft_ct, nft_nat, nft_reject, nfnetlink_log)",
            )


def check_network_programs(*, names: bool) -> None:
    """:raises HostError: a program is missing that a network needs; ``names``: with rules."""
    find_nft()
    find_slirp4netns()
    if names:
        find_name_server()


def find_nft() -> Path:
    """:raises HostError: it is not installed."""
    return find_program("nft", hint=_HINT)


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
