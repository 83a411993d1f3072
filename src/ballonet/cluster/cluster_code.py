"""A code session of a sandbox on another host, as a program uses it: what :class:`ballonet.sync.CodeSession` has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from ballonet.base.code_errors import CodeError
from ballonet.cluster.cluster_process import ClusterProcess, Streams
from ballonet.sdk.code_result import KEPT_CHARACTERS, CodeEvent, CodeResult, Collector


class ClusterCodeSession:
    """An interpreter that keeps its state between two runs, made by :meth:`ClusterSandbox.code`. Leaving its ``with``
    block closes it."""

    def __init__(self, box: Streams, name: str, language: str) -> None:
        self._box = box
        self.name = name
        self.language = language

    def __repr__(self) -> str:
        return f"<ClusterCodeSession {self.name!r} ({self.language})>"

    def run(self, code: str, *, timeout: float | None = None, limit: int = KEPT_CHARACTERS) -> CodeResult:
        """Run code, wait for its end, and return what it did, as :meth:`ballonet.CodeSession.run`."""
        collector = Collector(limit)
        try:
            for event in self.stream(code, timeout=timeout):
                collector.add(event)
        except CodeError as error:
            error.stdout, error.stderr = collector.text("stdout"), collector.text("stderr")
            raise
        return collector.result()

    def stream(self, code: str, *, timeout: float | None = None) -> Iterator[CodeEvent]:
        """Run code, and give what it does as it happens. Leaving the iteration interrupts the code."""
        number = self._box.stream("open_code", self._box.session, self._box.name, self.name, code, timeout)
        with ClusterProcess(self._box, number) as events:
            while some := events.read():
                yield from some  # type: ignore[misc]  # this stream gives events

    def interrupt(self) -> None:
        """Interrupt the code that runs, from another thread. The session keeps its state."""
        self._do("interrupt")

    def restart(self) -> None:
        """End the session's process, and start another one. Its state is lost."""
        self._do("restart")

    def close(self) -> None:
        """End the session."""
        self._do("close")

    def _do(self, what: str) -> None:
        self._box.stream("code_do", self._box.session, self._box.name, self.name, what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
