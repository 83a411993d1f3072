"""Why a QEMU process ended. Pure."""

from __future__ import annotations

import re
import signal

from ballonet.vmm.engine import ExitReason, VmExit

_PANIC = re.compile(r"Kernel panic - not syncing: (.{0,200})")


def start_hint(messages: str) -> str | None:
    """What to do if QEMU ended with these messages instead of starting."""
    if "could not load PC BIOS" in messages:  # hw/i386/x86-common.c
        return (
            "reinstall QEMU's firmware (Debian: qemu-system-data and seabios), or try the other machine type "
            "(--machine microvm or q35)"
        )
    return None


def explain_exit(status: int, reason: str | None, stopping: bool, console: str, messages: str) -> VmExit:
    """Why QEMU ended, from its exit status and the reason in its last SHUTDOWN event (QMP ShutdownCause).

    :param stopping: whether ballonet ended it.
    :param console: the end of the guest's console output, where a panic shows.
    :param messages: the end of QEMU's standard error.
    """
    if panic := _PANIC.search(console):
        # "Out of memory and no killable processes...", "System is deadlocked on memory" (mm/oom_kill.c)
        out_of_memory = re.search(r"(?i)out of memory|deadlocked on memory", panic[1])
        exit_reason = ExitReason.GUEST_OOM if out_of_memory else ExitReason.GUEST_PANIC
        return VmExit(exit_reason, status, f"the guest's kernel panicked: {panic[1].strip()}")
    if reason == "guest-shutdown":
        return VmExit(ExitReason.GUEST_POWEROFF, status, "the guest powered off")
    if reason == "guest-reset":
        return VmExit(ExitReason.GUEST_REBOOT, status, "the guest rebooted, which ends a sandbox")
    if stopping:
        return VmExit(ExitReason.STOPPED, status, messages)
    if status < 0:
        name = signal.Signals(-status).name
        return VmExit(ExitReason.ENGINE_KILLED, status, f"QEMU was killed by {name}")
    last = f": {messages}" if messages else ""
    return VmExit(ExitReason.ENGINE_FAILED, status, f"QEMU exited with status {status}{last}")
