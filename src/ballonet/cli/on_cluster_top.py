"""``ballonet --cluster ADDRESS top``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ballonet.cli import top
from ballonet.cli.top_source import Balloon, Collected
from ballonet.metrics.model import SandboxSample

add_options = top.add_arguments

#: How much longer than a sandbox a host may take to answer (seconds).
_HOST_S = 4.0


def run(cluster: Any, options: argparse.Namespace) -> int:
    return top.show(options, AllHosts(cluster))


class AllHosts:
    """The sandboxes of all hosts of a cluster, as :class:`ballonet.cli.top_source.Source`."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def collect(self, deadline_s: float) -> Collected:
        return Collected(*self._cluster.samples(deadline_s + _HOST_S))

    def earlier(self, sample: SandboxSample, since: float) -> Sequence[SandboxSample]:
        return []

    @contextmanager
    def balloon(self, name: str, deadline_s: float) -> Iterator[Balloon]:
        yield _Balloon(self._cluster.at(name).balloon)


class _Balloon:
    def __init__(self, balloon: Any) -> None:
        self._balloon = balloon

    def get(self) -> Any:
        return self._balloon.get()

    def set(self, target_mib: int) -> Any:
        return self._balloon.set(target_mib)

    def trim(self, request: object) -> Any:
        return self._balloon.trim()
