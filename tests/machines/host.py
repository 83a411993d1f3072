"""This host with the engine of another Debian release, as a machine for tests."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from ballonet.base.process import spawn
from tests.machines.catalogue import ROOT, Machine
from tests.machines.engine import obtain_engine
from tests.machines.inner import InnerRun, NotHereError, Place, Result

_LOG_TAIL = 20_000
_END_S = 30.0


class HostMachine:
    """As :class:`~tests.machines.outer.OuterMachine`, without a guest around it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._engine = ""
        self._run: InnerRun | None = None

    def start(self) -> None:
        """Fetch the engine.

        :raises NotHereError: it cannot be fetched.
        """
        try:
            self._engine = str(obtain_engine(self.machine.suite))
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or "").strip() or str(error)
            raise NotHereError(f"its QEMU cannot be fetched here: {said.splitlines()[-1]}") from error

    def close(self) -> None:
        if self._run is not None:
            self._run.stop()

    def begin(self, tests: Sequence[str]) -> None:
        """Run these tests; :meth:`result` waits for each."""
        place = Place(
            str(ROOT), sys.executable, {"BALLONET_QEMU": self._engine, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        )
        self._run = InnerRun(HostProcess, self.machine, tests, place)

    def result(self, test: str, timeout_s: float) -> Result:
        """How ``test`` ended, all its parameters together."""
        assert self._run is not None
        return self._run.result(test, timeout_s)

    def log(self) -> str:
        """The end of what pytest wrote."""
        return "" if self._run is None else self._run.log()[-_LOG_TAIL:]

    def facts(self) -> Mapping[str, str]:
        """The versions of what the tests run with."""
        said = subprocess.run([self._engine, "--version"], check=True, capture_output=True, text=True).stdout
        return {
            "system": platform.freedesktop_os_release()["PRETTY_NAME"],
            "kernel": platform.release(),
            "python": platform.python_version(),
            "qemu": said.removeprefix("QEMU emulator version ").partition(" ")[0],
        }


class HostProcess:
    """A command on this host, in a process group of its own."""

    def __init__(self, argv: Sequence[str], end_s: float = _END_S) -> None:
        self._end_s = end_s
        self._child = spawn(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, new_session=True, die_with_parent=True
        )
        self._pieces: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Pieces of both streams until both have ended."""
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        for name, stream in (("stdout", self._child.stdout), ("stderr", self._child.stderr)):
            threading.Thread(target=self._read, args=(name, stream), daemon=True).start()
        still_open = 2
        while still_open:
            name, piece = self._pieces.get()
            if piece:
                yield name, piece
            else:
                still_open -= 1
        self._child.wait()

    def kill(self) -> None:
        """End it as Ctrl-C does, so that tests clean up; then whatever is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(self._end_s)
            os.killpg(self._child.pid, signal.SIGKILL)

    def _read(self, name: str, stream: BinaryIO) -> None:
        with stream:
            while piece := os.read(stream.fileno(), 1 << 16):
                self._pieces.put((name, piece))
        self._pieces.put((name, b""))
