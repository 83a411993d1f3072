"""Start templates: guests that were saved when their agents were ready, before they had anything of a sandbox.

They are kept in the cache directory, one file for each shape (:meth:`ballonet.vmm.engine.Engine.state_key`). Anyone may
delete them at any time. The least recently used ones are removed when they are too many or too large.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from ballonet.base.errors import EngineError, HostError
from ballonet.base.paths import cache_dir, private_dir
from ballonet.host.proc import read_cpu_s
from ballonet.vmm.engine import Vm
from ballonet.vmm.saved_state import PENDING_SUFFIX, PendingState, SavedState

log = logging.getLogger(__name__)

#: How many are kept, and how much of the disk they may use.
MOST_TEMPLATES = 12
MOST_BYTES = 2 << 30
SUFFIX = ".state"


class Template:
    """The template of one shape, which may not exist yet. Call :meth:`close` at the end.

    :param key: of :meth:`~ballonet.vmm.engine.Engine.state_key`.
    """

    def __init__(self, key: str, directory: Path) -> None:
        self._key = key
        self._path = directory / f"{key[:32]}{SUFFIX}"
        self._pending: PendingState | None = None

    def open(self) -> SavedState | None:
        """The saved guest; ``None`` if there is none.

        :raises SavedStateError: it cannot be used.
        """
        try:
            state = SavedState.open(self._path, self._key)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(self._path)  # the least recently used ones are removed
        return state

    def discard(self) -> None:
        """Remove it: no guest can be restored from it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def reserve(self) -> bool:
        """Prepare to make it; false if another process does, or has done so.

        :raises HostError: the file cannot be written.
        """
        self._pending = PendingState.claim(self._path)
        if self._pending is not None and self._path.exists():
            self.close()
        return self._pending is not None

    async def make(self, vm: Vm) -> None:
        """If it is reserved, save the guest of ``vm``, whose agent is ready. The guest continues. A failure is logged,
        and the next start tries again."""
        if self._pending is None:
            return
        import asyncio

        try:
            used_s = read_cpu_s(vm.pid) or 0.0
            # The agent has been sent nothing yet.
            stopped_s = await vm.save(self._pending.file, self._key, cpu_s=used_s, quiet=True)
        except (EngineError, OSError) as error:
            log.warning("no start template was made: %s", error)
            self.close()
            return
        log.info("start template: saved; the guest was stopped for %.0f ms", stopped_s * 1000)
        pending, self._pending = self._pending, None
        # In a thread, because it waits for the disk; the sandbox starts meanwhile.
        asyncio.get_running_loop().run_in_executor(None, _commit, pending, self._path.parent)

    def close(self) -> None:
        """Let other processes make it, if it is still reserved."""
        if self._pending is not None:
            self._pending.close()
            self._pending = None


def _commit(pending: PendingState, directory: Path) -> None:
    try:
        pending.commit()
        prune_templates(directory)
    except (HostError, OSError) as error:
        log.warning("no start template was made: %s", error)


def templates_dir() -> Path:
    """:raises HostError: it cannot be created."""
    return private_dir(cache_dir() / "templates")


def prune_templates(directory: Path, most: int = MOST_TEMPLATES, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Remove the least recently used templates until there are at most ``most``, in at most ``most_bytes``, and what
    killed processes have left incomplete; returns what was removed."""
    removed = [path for path in directory.glob(f"*{SUFFIX}{PENDING_SUFFIX}") if _remove_unlocked(path)]
    found = []
    for path in directory.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            found.append((facts.st_mtime_ns, facts.st_blocks * 512, path))
    kept, kept_bytes = 0, 0
    for _, size, path in sorted(found, reverse=True):
        kept, kept_bytes = kept + 1, kept_bytes + size
        if kept > most or kept_bytes > most_bytes:
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _remove_unlocked(part: Path) -> bool:
    """Remove a file that nobody is writing."""
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
    except OSError:
        return False
    return True
