"""Resumes a paused sandbox: opens what was saved, and checks that it can be restored here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import BindError, ResumeError
from ballonet.control.backend import EarlierTotals
from ballonet.machine.guest_setup import naming_steps
from ballonet.machine.paused_file import PAUSED_FILE, begin_resume, discard_paused
from ballonet.machine.ports import check_ports_free
from ballonet.machine.saved_sandbox import SavedSandbox, disk_facts
from ballonet.vmm.attach import Port
from ballonet.vmm.config import VmConfig
from ballonet.vmm.engine import Vm
from ballonet.vmm.saved_state import SavedState, SavedStateError


@dataclass
class PausedSandbox:
    """A sandbox that is about to be resumed. Created by :func:`open_paused`."""

    #: With the host ports that it had.
    config: VmConfig
    notes: SavedSandbox
    state: SavedState
    state_dir: Path

    @property
    def data_bytes(self) -> int:
        """Guest memory that it takes at first."""
        return self.state.data_bytes

    @property
    def steps(self) -> list[list[str]]:
        """The steps that name the guest anew, if it has another name now."""
        return (
            []
            if self.notes.name == self.config.name
            else naming_steps(self.config.guest_name, self.config.net)
        )

    @property
    def earlier(self) -> EarlierTotals | None:
        """The totals of the runs before the one that was saved, if they are known."""
        return None if self.notes.earlier is None else EarlierTotals(**self.notes.earlier)

    def prepare(self, vm: Vm) -> None:
        """Check that ``vm`` can take over the state, and note that its guest will run.

        :raises ResumeError: it cannot.
        :raises HostError: that cannot be noted.
        """
        key = vm.engine.state_key(vm.spec)
        try:
            if key is None:
                raise SavedStateError("it has volumes now")
            SavedState.open(self.state.path, key, vm.engine.title).close()
        except (SavedStateError, FileNotFoundError) as error:
            raise _refused(self.config.name, str(error)) from error
        if self.notes.target_mib is not None and vm.spec.balloon is not None:
            vm.first_target = (self.notes.target_mib, self.notes.limit_mib)
        if self.notes.disk is not None:
            begin_resume(self.state_dir)

    def running(self) -> None:
        """The guest has answered: what was saved is not needed any more."""
        self.state.close()  # the file's space is free then
        discard_paused(self.state_dir)


@contextlib.contextmanager
def open_paused(config: VmConfig, state_dir: Path) -> Iterator[PausedSandbox]:
    """What was saved of a paused sandbox.

    :param config: its configuration.
    :raises ResumeError: there is nothing, it is damaged, or the disk has changed since.
    :raises BindError: a port that it publishes is not free.
    """
    path = state_dir / PAUSED_FILE
    try:
        state = SavedState.open(path, None)
    except FileNotFoundError:
        raise _refused(config.name, f"there is no {path}") from None
    except SavedStateError as error:
        raise _refused(config.name, str(error)) from error
    with state:
        try:
            notes = SavedSandbox.decode(state)
        except SavedStateError as error:
            raise _refused(config.name, str(error)) from error
        if notes.disk != disk_facts(state_dir):
            raise _refused(config.name, "its disk has changed since it was saved")
        ports = _free_ports(config.ports, tuple(map(Port.parse, notes.ports)))
        yield PausedSandbox(replace(config, ports=ports), notes, state, state_dir)


def _free_ports(wanted: tuple[Port, ...], had: tuple[Port, ...]) -> tuple[Port, ...]:
    """The ports that were published, with the host ports that the kernel had chosen if these are still free.

    :raises BindError: one that was chosen by the user is not free.
    """
    if len(wanted) != len(had):
        had = wanted
    found = []
    for port, last in zip(wanted, had, strict=True):
        if port.host == 0:
            try:
                check_ports_free([last])
                port = last
            except BindError:
                pass  # the kernel chooses another one
        else:
            check_ports_free([port])
        found.append(port)
    return tuple(found)


def _refused(name: str, why: str) -> ResumeError:
    return ResumeError(
        f"sandbox {name!r} cannot be resumed: {why}",
        hint=f"boot it instead, which discards its processes: ballonet start --cold {name}",
    )
