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
from ballonet.base.errors import BallonetError, StillRunningError
from ballonet.base.paths import private_dir, replace_file, sandbox_dir_path, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.record import Command, Record, State
from ballonet.lifecycle.registry import Registry, to_json
from ballonet.lifecycle.sandboxes import MACHINE_LOG, ROW_FILE, config_of, ensure_volumes, find, sweep
from ballonet.machine.notes import COMMAND_FILE
from ballonet.machine.run_options import RunOptions

if TYPE_CHECKING:
    from ballonet.machine.launch import OwnedProcess

#: Checks that the host has memory for a sandbox while its state becomes starting: see
#: :func:`ballonet.pilot.admission_control`.
Gate = Callable[[Registry, Record], AbstractContextManager[None]]


async def start_sandbox(
    registry: Registry, name: str, *, detached: bool, gate: Gate | None = None, cold: bool = False
) -> OwnedProcess:
    """Start a registered sandbox, and return when its guest answers.

    :param detached: it keeps running when this program ends.
    :param gate: checks that the host has memory for it.
    :param cold: boot it, even if there is a template to restore.
    :raises AdmissionError: the host does not; nothing was started.
    :raises StillRunningError: it is already running.
    :raises BallonetError: it did not start; the registry has the reason.
    """
    from ballonet.machine.launch import launch

    record = find(registry, name)
    run_id = os.urandom(8).hex()
    with contextlib.nullcontext() if gate is None or record.state.lives else gate(registry, record):
        begun = registry.begin_run(name, run_id, ProcessId.current(), run_dir=sandbox_dir_path(name))
    if not begun:
        raise StillRunningError(f"sandbox {name!r} is already running", hint=f"ballonet exec {name} …")
    directory = state_dir_of(name)
    try:
        private_dir(directory.parent)
        private_dir(directory)
        ensure_volumes(config_of(record))
        _write_command(directory, record.command)
        replace_file(directory / ROW_FILE, to_json(registry.get(name)))
        options = RunOptions(
            run_id=run_id,
            state_dir=directory,
            detached=detached,
            command=record.command is not None,
            cold=cold,
        )

        def started(identity: ProcessId) -> None:
            registry.update(name, if_run=run_id, process=identity)

        process = await launch(name, record.flags, options, directory / MACHINE_LOG, started=started)
    except BaseException as error:
        detail = error.message if isinstance(error, BallonetError) else "its start was interrupted"
        registry.update(
            name,
            if_run=run_id,
            state=State.FAILED,
            ended_at=time.time(),
            end_reason="failed",
            end_detail=detail,
        )
        # If it was killed while booting, its sockets are left.
        sweep(replace(record, run_id=run_id, run_dir=str(sandbox_dir_path(name))))
        raise
    registry.update(name, if_run=run_id, state=State.RUNNING, started_at=process.facts["started_at"])
    return process


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
