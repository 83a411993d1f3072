"""A stream on another host, and a running command there, as a program uses them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Protocol, Self

from ballonet.base.arguments import to_bytes
from ballonet.base.errors import BallonetError, GuestError
from ballonet.sdk.sandbox_commands import ExecResult

#: The most that :meth:`ClusterProcess.collect` collects, as :meth:`ballonet.Sandbox.exec` does.
MAX_OUTPUT_BYTES = 256 << 20
#: The most that one message carries.
PIECE_BYTES = 256 << 10


class Streams(Protocol):
    """A sandbox: :class:`ballonet.cluster.cluster_sandbox.ClusterSandbox`."""

    @property
    def name(self) -> str: ...

    @property
    def session(self) -> str: ...

    def stream(self, method: str, *what: Any) -> Any: ...

    def use(self, method: str, *what: Any, **how: Any) -> Any: ...


class ClusterProcess:
    """A running command of a sandbox on another host. ``with`` ends it, if it still runs."""

    def __init__(self, box: Streams, number: int) -> None:
        self._box = box
        self._number = number

    def _do(self, method: str, *what: Any) -> Any:
        return self._box.stream(method, self._number, *what)

    def read(self, output: str = "stdout") -> bytes:
        """The next bytes of ``stdout`` or ``stderr``; empty at its end. Read both, or the command may stop."""
        found: bytes = self._do("read", output)
        return found

    def __iter__(self) -> Iterator[bytes]:
        """Standard output, piece by piece."""
        while piece := self.read():
            yield piece

    def write_stdin(self, data: bytes | str) -> None:
        content = to_bytes("data", data)
        for at in range(0, len(content), PIECE_BYTES):
            self._do("write", content[at : at + PIECE_BYTES])

    def close_stdin(self) -> None:
        self._do("end_input")

    def send_signal(self, number: int) -> None:
        self._do("signal", number)

    def resize(self, rows: int, cols: int) -> None:
        self._do("resize", rows, cols)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        status: int = self._do("wait")
        return status

    def collect(self, stdout: bytes = b"", stderr: bytes = b"") -> ExecResult:
        """Read both outputs to the end, after what was read of them."""
        outputs = {"stdout": bytearray(stdout), "stderr": bytearray(stderr)}
        problems: list[BallonetError] = []

        def read(output: str) -> None:
            try:
                while piece := self.read(output):
                    if len(outputs[output]) + len(piece) > MAX_OUTPUT_BYTES:
                        raise GuestError(
                            f"the command wrote more than {MAX_OUTPUT_BYTES} bytes",
                            hint="read its output piece by piece instead",
                        )
                    outputs[output] += piece
            except BallonetError as error:
                problems.append(error)
                self.close()

        other = threading.Thread(target=read, args=("stderr",))
        other.start()
        read("stdout")
        other.join()
        if problems:
            raise problems[0]
        return ExecResult(self.wait(), bytes(outputs["stdout"]), bytes(outputs["stderr"]))

    def close(self) -> None:
        self._do("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(BallonetError):
            self.close()
