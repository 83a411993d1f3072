"""The file of a paused sandbox: when it is usable, and when it is given up.

A paused sandbox is exactly one that has a usable file (:data:`PAUSED_FILE`) in its state directory and no process. The
file is usable while the disk is as it was when the guest was saved: a guest that has run since may have written to it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ballonet.base.errors import HostError
from ballonet.base.paths import replace_file, sync_directory
from ballonet.host.identity import boot_id

# Other modules are imported where they are used: 'ballonet ls' needs only paused_bytes().

#: In the state directory: the saved state of a paused sandbox.
PAUSED_FILE = "paused.state"
#: Of the name of a file that is not complete.
PENDING_SUFFIX = ".part"
#: In the state directory: a guest is being resumed, and its disk may change. Has the host's boot.
RESUMING_NOTE = "resuming"


def paused_bytes(directory: Path) -> int | None:
    """The size of the saved state of a paused sandbox, which is about what it takes when it is resumed.

    ``None``: there is none, or the disk has changed since.

    :param directory: its state directory. No process of the sandbox must be running.
    """
    path = directory / PAUSED_FILE
    try:
        size = path.stat().st_size
    except OSError:
        return None
    if (directory / RESUMING_NOTE).exists() and not _survived(directory, path):
        return None
    return size


def is_saved(directory: Path) -> bool:
    """Whether there is a saved state, usable or not."""
    return (directory / PAUSED_FILE).exists()


def _survived(directory: Path, path: Path) -> bool:
    """Whether the state is usable although a resume has begun, and did not end."""
    from ballonet.machine.saved_sandbox import disk_facts, read_saved
    from ballonet.vmm.saved_state import SavedStateError

    try:
        same_boot = (directory / RESUMING_NOTE).read_text() == boot_id()
        # After a crash of the host, the time may be older than the content.
        return same_boot and read_saved(path).disk == disk_facts(directory)
    except (OSError, SavedStateError):
        return False


def remove_partial(directory: Path) -> None:
    """Remove what a process that was killed while it paused its sandbox has left."""
    with contextlib.suppress(OSError):
        (directory / (PAUSED_FILE + PENDING_SUFFIX)).unlink()


def begin_resume(directory: Path) -> None:
    """Note, on the disk, that the guest of a paused sandbox is about to run.

    :raises HostError: that cannot be written.
    """
    replace_file(directory / RESUMING_NOTE, boot_id().encode())
    with contextlib.suppress(OSError):
        sync_directory(directory)


def discard_paused(directory: Path) -> None:
    """Remove the saved state: the guest runs, or is given up.

    :raises HostError: it cannot be removed.
    """
    try:
        (directory / PAUSED_FILE).unlink()
        sync_directory(directory)  # before the note disappears
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"{directory / PAUSED_FILE} cannot be removed: {error.strerror}") from error
    with contextlib.suppress(OSError):
        (directory / RESUMING_NOTE).unlink()
