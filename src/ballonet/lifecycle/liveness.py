"""Finds out whether a sandbox is running. It counts as ended only when its processes have ended.

A run is identified by its process (pid, start time, boot of the host), which is stored in the registry's row and in the
note that the process writes beside the registry. Neither the reader's environment nor the run directory matters. If row
and note are lost or damaged, /proc is searched for the process with the id of the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ballonet.base.dataclass import dataclass, replace
from ballonet.base.errors import BallonetError
from ballonet.base.paths import sandbox_dir_path, state_dir_of
from ballonet.host.identity import ProcessId
from ballonet.host.proc import PROC, read_children, read_environment, read_words
from ballonet.lifecycle.record import Record, State, flags_problem
from ballonet.machine.notes import CONTROL_SOCKET, MachineNote
from ballonet.machine.run_options import RUN_VARIABLE, RunOptions, take_run_options
from ballonet.settings.flags import parse_config

#: The arguments of a sandbox's own process after the interpreter and its options.
_MODULE_WORDS = ["ballonet", "sandbox"]


@dataclass(frozen=True)
class Machine:
    """A sandbox's own process, from /proc."""

    process: ProcessId
    options: RunOptions
    flags: tuple[str, ...]
    #: The directory with its sockets, from its environment.
    run_dir: Path | None

    @property
    def name(self) -> str:
        return parse_config(self.flags).name


@dataclass(frozen=True)
class Helper:
    """An engine or a volume's server, from /proc: a process that a sandbox's own process started."""

    process: ProcessId
    program: str
    run_id: str
    state_dir: Path


def living(record: Record) -> MachineNote | None:
    """The note of the record's last run; ``None`` if no process of that run is running.

    If the note is lost or damaged, it is reconstructed from the registry, the process and its engine. The process
    restores its note itself.
    """
    if record.run_id is None:
        return None
    note = MachineNote.read(state_dir_of(record.name))
    if note is not None and not note.flags:
        note = replace(note, flags=record.flags)
    if note is None or note.run_id != record.run_id or not _readable(note.flags):
        note = _reconstruct(record)
    if note is None or note.process.alive():
        return note
    if note.engine is None:
        # The process was killed before it could record its engine, which may still write to the disk.
        wanted = (record.run_id, state_dir_of(record.name))
        left = next(
            (helper.process for helper in helpers() if (helper.run_id, helper.state_dir) == wanted), None
        )
        note = replace(note, engine=left)
    return note if note.alive() else None


def _reconstruct(record: Record) -> MachineNote | None:
    """A note of the record's run, without the file; ``None`` if no process of it is known."""
    run_id = record.run_id
    assert run_id is not None
    process = record.process
    if process is None:
        wanted = (run_id, state_dir_of(record.name))
        found = ((machine, (machine.options.run_id, machine.options.state_dir)) for machine in machines())
        machine = next((machine for machine, of in found if of == wanted), None)
        process = None if machine is None else machine.process
    else:
        machine = _machine(process)
    if process is None:
        return None
    # Not from this process's environment, which may have another run directory.
    run_dir = Path(record.run_dir) if record.run_dir else None
    if run_dir is None and machine is not None:
        run_dir = machine.run_dir
    run_dir = run_dir or sandbox_dir_path(record.name)
    engine = _engine_of(process)
    # Earlier versions had the note in the run directory.
    note = MachineNote.read(run_dir)
    flags = record.flags if machine is None else machine.flags
    if note is not None and note.run_id == run_id:
        return replace(note, engine=engine, run_dir=str(run_dir), flags=flags)
    return MachineNote(
        run_id=run_id,
        process=process,
        engine=engine,
        ready=record.state is State.RUNNING,
        flags=flags,
        run_dir=str(run_dir),
        # Even if the socket is missing now: it is bound again.
        control_socket=str(run_dir / CONTROL_SOCKET)
        if _readable(flags) and parse_config(flags).has_balloon
        else None,
        started_at=record.started_at,
    )


def _readable(flags: tuple[str, ...]) -> bool:
    return flags_problem(flags) is None


def _engine_of(process: ProcessId, proc: Path = PROC) -> ProcessId | None:
    """The engine of a sandbox's own process; ``None`` if it has none."""
    from ballonet.vmm.default_engine import DefaultEngine  # rarely needed

    for pid in read_children(process.pid, proc=proc) if process.alive(proc=proc) else ():
        if DefaultEngine.is_command(read_words(pid, proc=proc)):
            return ProcessId.of(pid, proc=proc)
    return None


def machines(proc: Path = PROC) -> Iterator[Machine]:
    """The processes of this user's sandboxes on this host, registered or not."""
    for process in _own_processes(proc):
        if (machine := _machine(process, proc)) is not None:
            yield machine


def helpers(proc: Path = PROC) -> Iterator[Helper]:
    """The engines and volume servers of this user's sandboxes on this host."""
    for process in _own_processes(proc):
        run_id, _, directory = read_environment(process.pid, proc=proc).get(RUN_VARIABLE, "").partition(" ")
        words = read_words(process.pid, proc=proc)
        if directory and words and not _is_python(words):
            yield Helper(process, os.path.basename(words[0]), run_id, Path(directory))  # noqa: PTH119  # not a Path


def _machine(process: ProcessId, proc: Path = PROC) -> Machine | None:
    """The process as a sandbox's own process; ``None`` if it is not one."""
    words = read_words(process.pid, proc=proc)
    at = next((i for i in range(len(words)) if words[i : i + 2] == _MODULE_WORDS), None)
    if at is None or "-m" not in words[:at]:
        return None
    try:
        options, flags = take_run_options(words[at + 2 :])
        name = parse_config(flags).name
        directory = sandbox_dir_path(name, read_environment(process.pid, proc=proc))
    except BallonetError:
        return None  # of another version: left alone
    return Machine(process, options, tuple(flags), directory)


def left_over(found: Sequence[Machine], proc: Path = PROC) -> list[Helper]:
    """The helpers whose sandbox's own process has ended, so that nothing else ends them.

    :param found: the processes of sandboxes.
    """
    runs = {machine.options.run_id for machine in found}
    return [helper for helper in helpers(proc) if helper.run_id not in runs]


def _own_processes(proc: Path) -> Iterator[ProcessId]:
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            try:
                own = entry.stat().st_uid == os.geteuid()
            except OSError:
                continue
            process = ProcessId.of(int(entry.name), proc=proc) if own else None
            if process is not None:
                yield process


def _is_python(words: Sequence[str]) -> bool:
    return "python" in os.path.basename(words[0])  # noqa: PTH119  # not a Path
