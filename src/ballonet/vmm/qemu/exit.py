"""Why a QEMU process ended. Pure."""

from __future__ import annotations

import re
import signal

from ballonet.vmm.engine import ExitReason, VmExit

_PANIC = re.compile(r"Kernel panic - not syncing: (.{0,200})")


def explain_exit(status: int, reason: str | None, stopping: bool, console: str, words: str) -> VmExit:
    """Why the engine ended, from its exit status and the reason in its last SHUTDOWN event (QMP ShutdownCause).

    :param stopping: whether we told it to.
    :param console: what the guest last wrote to its console: a panic shows there.
    :param words: what the engine last wrote to standard error.
    """
    if panic := _PANIC.search(console):
        # "Out of memory and no killable processes...", "System is deadlocked on memory" (mm/oom_kill.c)
        starved = re.search(r"(?i)out of memory|deadlocked on memory", panic[1])
        reason_word = ExitReason.GUEST_OOM if starved else ExitReason.GUEST_PANIC
        return VmExit(reason_word, status, f"the guest's kernel panicked: {panic[1].strip()}")
    if reason == "guest-shutdown":
        return VmExit(ExitReason.GUEST_POWEROFF, status, "the guest powered itself off")
    if reason == "guest-reset":
        return VmExit(ExitReason.GUEST_REBOOT, status, "the guest rebooted itself, which ends a sandbox")
    if stopping:
        return VmExit(ExitReason.STOPPED, status, words)
    if status < 0:
        name = signal.Signals(-status).name
        return VmExit(ExitReason.ENGINE_KILLED, status, f"QEMU was killed by {name}")
    last = f": {words}" if words else ""
    return VmExit(ExitReason.ENGINE_FAILED, status, f"QEMU ended by itself with status {status}{last}")
