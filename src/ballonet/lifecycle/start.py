"""Starts a registered sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, NotRunningError, ResumeError, StillRunningError
from ballonet.base.paths import private_dir, replace_file, sandbox_dir_path, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.record import Command, Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.row_codec import to_json
from ballonet.lifecycle.sandboxes import MACHINE_LOG, ROW_FILE, config_of, ensure_volumes, find, sweep
from ballonet.machine.notes import COMMAND_FILE
from ballonet.machine.paused_file import PAUSED_FILE, discard_paused, paused_bytes
from ballonet.machine.run_options import RunOptions
from ballonet.settings.flags import parse_config, with_rules_and_limits

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess

#: Checks that the host has memory for a sandbox while its state becomes starting: see
#: :func:`ballonet.pilot.admission_control`.
Gate = Callable[[Registry, Record], AbstractContextManager[None]]


async def start_sandbox(
    registry: Registry,
    name: str,
    *,
    detached: bool,
    gate: Gate | None = None,
    cold: bool = False,
    only_resume: bool = False,
) -> OwnedProcess:
    """Start a registered sandbox, or resume a paused one, and return when its guest answers.

    :param detached: it keeps running when this program ends.
    :param gate: checks that the host has memory for it.
    :param cold: boot it, even if there is a template to restore, or if it is paused: that discards its processes.
    :param only_resume: only if it is paused.
    :raises AdmissionError: the host does not; nothing was started.
    :raises NotRunningError: with ``only_resume``, it is not paused.
    :raises StillRunningError: it is already running.
    :raises ResumeError: it is paused, and cannot be resumed here; it stays paused.
    :raises BallonetError: it did not start; the registry has the reason.
    """
    from ballonet.machine.launch import launch

    record = find(registry, name)
    resume = record.state is State.PAUSED and not cold
    if only_resume and not resume and not record.state.lives:
        raise NotRunningError(
            f"sandbox {name!r} is {record.state}, not paused", hint=f"start it: ballonet start {name}"
        )
    flags = paused_flags(record) if resume else record.flags
    run_id = os.urandom(8).hex()
    with contextlib.nullcontext() if gate is None or record.state.lives else gate(registry, record):
        begun = registry.begin_run(
            name, run_id, ProcessId.current(), run_dir=sandbox_dir_path(name), resume=resume
        )
    if not begun:
        raise StillRunningError(f"sandbox {name!r} is already running", hint=f"ballonet exec {name} …")
    directory = state_dir_of(name)
    try:
        private_dir(directory.parent)
        private_dir(directory)
        if not resume:
            discard_paused(directory)
        ensure_volumes(config_of(record))
        _write_command(directory, record.command)
        replace_file(directory / ROW_FILE, to_json(registry.get(name)))
        options = RunOptions(
            run_id=run_id,
            state_dir=directory,
            detached=detached,
            command=record.command is not None,
            cold=cold,
            resume=resume,
        )

        def started(identity: ProcessId) -> None:
            registry.update(name, if_run=run_id, process=identity)

        process = await launch(name, flags, options, directory / MACHINE_LOG, started=started)
    except BaseException as error:
        detail = error.message if isinstance(error, BallonetError) else "its start was interrupted"
        registry.update(
            name,
            if_run=run_id,
            state=State.FAILED if paused_bytes(directory) is None else State.PAUSED,
            ended_at=time.time(),
            end_reason="failed",
            end_detail=detail,
        )
        # If it was killed while booting, its sockets are left.
        sweep(replace(record, run_id=run_id, run_dir=str(sandbox_dir_path(name))))
        raise
    running = {"state": State.RUNNING, "started_at": process.facts["started_at"]}
    registry.update(name, if_run=run_id, if_state=State.STARTING, **running)  # it may have ended already
    return process


def paused_flags(record: Record) -> tuple[str, ...]:
    """The flags with which a paused sandbox ran: changes of its settings wait until it boots again.

    :raises ResumeError: they cannot be read.
    """
    from ballonet.machine.saved_sandbox import read_saved
    from ballonet.vmm.saved_state import SavedStateError

    try:
        saved = read_saved(state_dir_of(record.name) / PAUSED_FILE)
    except (SavedStateError, FileNotFoundError) as error:
        raise ResumeError(
            f"sandbox {record.name!r} cannot be resumed: {error}",
            hint=f"boot it instead, which discards its processes: ballonet start --cold {record.name}",
        ) from error
    if saved.name != record.name or not saved.flags:
        return record.flags
    # Its limits and its network's rules may have changed meanwhile.
    return with_rules_and_limits(saved.flags, parse_config(record.flags))


def _write_command(directory: Path, command: Command | None) -> None:
    if command is None:
        return
    stop_signal = signal.SIGTERM if command.stop_signal is None else command.stop_signal
    settings = {
        "argv": command.argv,
        "env": command.env,
        "cwd": command.cwd,
        "user": command.user,
        "stop_signal": int(stop_signal),
    }
    replace_file(directory / COMMAND_FILE, json.dumps(settings).encode())
