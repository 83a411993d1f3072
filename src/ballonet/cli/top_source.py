"""What ``ballonet top`` reads and changes: here, the sandboxes of this host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ballonet.base.errors import BallonetError
from ballonet.lifecycle.samples import collect, history_path
from ballonet.metrics.model import SandboxSample, Snapshot

if TYPE_CHECKING:
    from ballonet.control.backend import BalloonSnapshot, TrimRequest, TrimResult
    from ballonet.control.protocol import SetReply


class Collected(NamedTuple):
    """The memory of all sandboxes."""

    snapshot: Snapshot
    #: What could not be read; empty: nothing.
    problem: str = ""


class Balloon(Protocol):
    """A sandbox's balloon, as the keys use it."""

    def get(self) -> BalloonSnapshot: ...

    def set(self, target_mib: int) -> SetReply: ...

    def trim(self, request: TrimRequest) -> TrimResult: ...


class Source(Protocol):
    """Some sandboxes. Its methods are called in threads."""

    def collect(self, deadline_s: float) -> Collected:
        """:param deadline_s: how long one sandbox may take to answer.

        :raises BallonetError: nothing can be read."""

    def earlier(self, sample: SandboxSample, since: float) -> Sequence[SandboxSample]:
        """The samples of a sandbox since then, as far as there is a history."""

    def balloon(self, name: str, deadline_s: float) -> AbstractContextManager[Balloon | None]:
        """The balloon of a running sandbox; ``None`` if it has none.

        :raises BallonetError: it is not running."""


class ThisHost:
    """The sandboxes of this user on this host."""

    def collect(self, deadline_s: float) -> Collected:
        return Collected(collect(deadline_s=deadline_s))

    def earlier(self, sample: SandboxSample, since: float) -> Sequence[SandboxSample]:
        from ballonet.metrics.history import read_recent

        try:
            samples = read_recent(history_path(sample.name), since)
        except BallonetError:
            return []  # the chart starts empty
        return [one for one in samples if one.run_id == sample.run_id]

    @contextmanager
    def balloon(self, name: str, deadline_s: float) -> Iterator[Balloon | None]:
        from ballonet.control.sync_client import SyncClient
        from ballonet.lifecycle import sandboxes as lifecycle
        from ballonet.lifecycle.registry import Registry

        with Registry.open() as registry:
            _, note = lifecycle.find_running(registry, name)
        if note.control_socket is None:
            yield None
            return
        with SyncClient(note.control_socket, deadline_s=deadline_s) as client:
            yield client
