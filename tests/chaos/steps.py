"""All steps that a worker can do with a sandbox, by the names of :mod:`tests.chaos.plan`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.chaos import balloon_steps, damage_steps, exec_steps, file_steps, kill_steps, life_steps
from tests.chaos.context import Context

#: Does a step, checks the result, and returns a text for the log.
Action = Callable[[Context], Awaitable[str | None]]

STEPS: dict[str, Action] = {
    "create": life_steps.create,
    "run": life_steps.run,
    "one-shot": life_steps.one_shot,
    "start": life_steps.start,
    "stop": life_steps.stop,
    "restart": life_steps.restart,
    "remove": life_steps.remove,
    "remove-force": life_steps.remove_force,
    "exec-echo": exec_steps.exec_echo,
    "exec-large": exec_steps.exec_large,
    "exec-stdin": exec_steps.exec_stdin,
    "exec-status": exec_steps.exec_status,
    "exec-signal": exec_steps.exec_signal,
    "exec-crowd": exec_steps.exec_crowd,
    "exec-dead": exec_steps.exec_dead,
    "copy-file": file_steps.copy_file,
    "copy-tree": file_steps.copy_tree,
    "balloon-set": balloon_steps.balloon_set,
    "balloon-plain": balloon_steps.balloon_plain,
    "balloon-client": balloon_steps.balloon_client,
    "balloon-limit": balloon_steps.balloon_limit,
    "balloon-trim": balloon_steps.balloon_trim,
    "balloon-watch": balloon_steps.balloon_watch,
    "modify": balloon_steps.modify,
    "modify-target": balloon_steps.modify_target,
    "volume": file_steps.volume,
    "fill-disk": file_steps.fill_disk,
    "kill-engine": kill_steps.kill_engine,
    "kill-engine-in-exec": kill_steps.kill_engine_in_exec,
    "kill-supervisor": kill_steps.kill_supervisor,
    "kill-supervisor-in-exec": kill_steps.kill_supervisor_in_exec,
    "kill-volume-server": kill_steps.kill_volume_server,
    "kill-client": kill_steps.kill_client,
    "kill-starter": kill_steps.kill_starter,
    "kill-owner": kill_steps.kill_owner,
    "kill-stopper": kill_steps.kill_stopper,
    "kill-remover": kill_steps.kill_remover,
    "freeze": kill_steps.freeze,
    "freeze-and-remove": kill_steps.freeze_and_remove,
    "damage-machine-note": damage_steps.damage_machine_note,
    "damage-end-note": damage_steps.damage_end_note,
    "lose-run-entry": damage_steps.lose_run_entry,
    "other-run-dir": damage_steps.other_run_dir,
}
