"""Snapshots and forks of a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from ballonet.base.arguments import check_flag, check_text
from ballonet.base.errors import BallonetError, ConfigError, SettingError
from ballonet.base.memory import Size, to_mib
from ballonet.lifecycle.registry import Registry
from ballonet.machine.launch import OwnedProcess
from ballonet.sdk.sandbox_state import SandboxState
from ballonet.settings.definitions import SETTINGS
from ballonet.settings.labels import check_labels
from ballonet.settings.names import PARAMETERS
from ballonet.settings.values import read_items
from ballonet.vmm.attach import Port

if TYPE_CHECKING:
    from ballonet.lifecycle.record import Record
    from ballonet.lifecycle.snapshots import Snapshot


class SandboxSaving(SandboxState):
    """The part of :class:`~ballonet.sdk.sandbox.Sandbox` that saves it, and makes others of what was saved."""

    async def snapshot(self, name: str | None = None, *, trim: bool = True) -> Snapshot:
        """Save the sandbox, with its memory, processes and disk. It is stopped for a moment, and runs on.

        :param name: of the snapshot; by default the sandbox's name and the time.
        :param trim: have the guest give up caches and free memory first, if it is idle: the snapshot is smaller.
        :raises NameInUseError: there is a snapshot with that name.
        :raises ConfigError: the sandbox has volumes.
        :raises BallonetError: it could not be saved; nothing is left.
        """
        from ballonet.lifecycle.snapshot_save import create_snapshot

        check_text("name", name)
        check_flag("trim", trim)
        self._check_usable()
        with Registry.open() as registry:
            return await create_snapshot(registry, self.name, name, trim=trim)

    async def fork(
        self,
        *names: str,
        ports: Sequence[str | Port] = (),
        labels: Mapping[str, str] | None = None,
        detached: bool = False,
        admission: bool = True,
        trim: bool = False,
    ) -> Sequence[Self]:
        """Make copies of the running sandbox, which is saved once for all of them and runs on.

        Each continues the sandbox's processes with memory, disk, random numbers and a name of its own. Network
        connections do not survive, and commands of :meth:`exec` are ended in the copies.

        :param names: a copy for each.
        :param ports: publish these ports of each copy; the host port must be 0 for several copies.
        :param labels: of the copies, beside those of this sandbox.
        :param detached: keep the copies running when this program ends.
        :param admission: if an autopilot manages the host's sandboxes, start only if it finds room.
        :param trim: have the guest give up caches and free memory first, if it is idle: the copies take less memory.
        :raises NameInUseError: a name is in use.
        :raises BallonetError: a copy could not be made; none is left then.
        """
        from ballonet.lifecycle.restore import Changes, fork_sandbox
        from ballonet.lifecycle.stop import discard_sandbox
        from ballonet.pilot.admission_control import admission_control

        check_flag("detached", detached)
        check_flag("trim", trim)
        check_flag("admission", admission)
        if not names:
            raise ConfigError("no name was given", hint="for example: await box.fork('one', 'two')")
        published = _ports(ports)
        if len(names) > 1 and (fixed := [port for port in published if port.host != 0]):
            raise ConfigError(
                f"port {fixed[0]} cannot be published by {len(names)} copies", hint="use host port 0"
            )
        self._check_usable()
        own = check_labels({} if labels is None else labels)
        changes = [
            Changes(name=name, ports=published, labels=own, auto_remove=not detached) for name in names
        ]
        with Registry.open() as registry:
            gate = admission_control(admission)
            results = await fork_sandbox(
                registry, self.name, changes, detached=detached, gate=gate, trim=trim
            )
            if failed := [result for result in results if isinstance(result, BallonetError)]:
                for name, result in zip(names, results, strict=True):
                    if isinstance(result, OwnedProcess):
                        await result.kill()
                        await discard_sandbox(registry, name)
                raise failed[0]
            return [
                self._started(registry.get(name), result, detached)
                for name, result in zip(names, results, strict=True)
                if isinstance(result, OwnedProcess)
            ]

    @classmethod
    async def restore(
        cls,
        snapshot: str,
        name: str,
        *,
        ports: Sequence[str | Port] = (),
        labels: Mapping[str, str] | None = None,
        weight: int | None = None,
        reserve: Size | None = None,
        target: Size | None = None,
        detached: bool = False,
        admission: bool = True,
    ) -> Self:
        """Make a sandbox that continues from a snapshot, and return when its guest runs.

        :param snapshot: the name of the snapshot.
        :param name: the name of the sandbox.
        :param ports: publish these ports; those of the saved sandbox are not published.
        :param labels: those of the saved sandbox are not used.
        :param weight: as in :meth:`create`; by default that of the saved sandbox.
        :param reserve: as in :meth:`create`; by default that of the saved sandbox.
        :param target: the target of its balloon; by default that of the saved sandbox.
        :param detached: keep the sandbox running when this program ends.
        :param admission: if an autopilot manages the host's sandboxes, start only if it finds room.
        :raises UnknownSnapshotError: there is no such snapshot.
        :raises SnapshotError: the snapshot is damaged, or was made with another engine.
        :raises NameInUseError: the name is in use.
        """
        from ballonet.lifecycle.modify import check_weight
        from ballonet.lifecycle.restore import Changes, check_new_names, opened_snapshot, restore_sandbox
        from ballonet.pilot.admission_control import admission_control

        check_text("snapshot", snapshot)
        check_flag("detached", detached)
        check_flag("admission", admission)
        changes = Changes(
            name=name,
            ports=_ports(ports),
            labels=check_labels({} if labels is None else labels),
            weight=None if weight is None else check_weight(weight),
            reserve_mib=None if reserve is None else to_mib(reserve, "reserve"),
            auto_remove=not detached,
        )
        target_mib = None if target is None else to_mib(target, "target")
        with Registry.open() as registry, opened_snapshot(snapshot) as saved:
            check_new_names(registry, [name])
            gate = admission_control(admission)
            process = await restore_sandbox(
                registry, saved, changes, detached=detached, gate=gate, target_mib=target_mib
            )
            return cls._started(registry.get(name), process, detached)

    @classmethod
    def _started(cls, record: Record, process: OwnedProcess, detached: bool) -> Self:
        sandbox = cls(record, process)
        if detached:
            process.let_go()
            sandbox._process = None
            sandbox._owned = False
        return sandbox


def _ports(ports: Sequence[str | Port]) -> tuple[Port, ...]:
    try:
        return read_items(SETTINGS["ports"], ports)
    except SettingError as error:
        raise error.named(PARAMETERS) from None
