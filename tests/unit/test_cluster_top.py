"""The memory of all hosts, as ``ballonet --cluster ADDRESS top`` shows it."""

from __future__ import annotations

import argparse
import json
import pickle
from typing import Any

import pytest

from ballonet.base.errors import HostError
from ballonet.base.memory import MIB
from ballonet.cli import on_cluster_top
from ballonet.cli.top_source import Balloon
from ballonet.cluster.merged_samples import merged, place_of
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot


def snapshot(at: float, name: str, *, available: int | None, held: int) -> Snapshot:
    sample = SandboxSample(
        name=name,
        state="running",
        run_id="r",
        at=at - 1,
        guest_at=at - 3,
        ceiling=512 * MIB,
        target=256 * MIB,
        resident=held * MIB,
    )
    return Snapshot(HostSample(at=at, total=1000 * MIB, available=available), [sample])


def test_sandboxes_have_their_hosts_name_and_sums_are_those_of_all_hosts() -> None:
    found = {
        "b": snapshot(5000.0, "box", available=300 * MIB, held=100),
        "a": snapshot(90.0, "box", available=200 * MIB, held=50),
    }
    whole = pickle.loads(pickle.dumps(merged(found, 1000.0)))
    assert [(sample.name, sample.at, sample.guest_at) for sample in whole.sandboxes] == [
        ("a/box", 999.0, 997.0),
        ("b/box", 999.0, 997.0),
    ], "whatever the clocks of the hosts"
    host = whole.host
    assert (host.at, host.total, host.available) == (1000.0, 2000 * MIB, 500 * MIB)
    assert (host.committed, host.promised, host.held) == (1024 * MIB, 512 * MIB, 150 * MIB)
    assert place_of("a/box") == ("a", "box")


def test_what_one_host_does_not_know_is_unknown_for_all() -> None:
    found = {
        "a": snapshot(1.0, "x", available=None, held=1),
        "b": snapshot(1.0, "y", available=5, held=1),
    }
    assert merged(found, 1.0).host.available is None
    assert merged({}, 1.0).host.total is None


class FakeCluster:
    """Two hosts, one of which does not answer."""

    def samples(self, timeout_s: float) -> tuple[Snapshot, str]:
        found = {"a": snapshot(1.0, "box", available=5 * MIB, held=1)}
        return merged(found, 1.0), str(HostError("b is missing: no answer within 5 s"))


def test_it_is_printed_with_a_warning_for_each_host_that_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    on_cluster_top.add_options(parser)
    assert on_cluster_top.run(FakeCluster(), parser.parse_args(["--json"])) == 0
    printed = capsys.readouterr()
    assert [row["name"] for row in json.loads(printed.out)["sandboxes"]] == ["a/box"]
    assert printed.err == "ballonet: warning: b is missing: no answer within 5 s\n"
    assert on_cluster_top.run(FakeCluster(), parser.parse_args(["--once"])) == 0
    assert "a/box" in capsys.readouterr().out


def test_keys_change_the_sandbox_on_its_host() -> None:
    asked: list[Any] = []

    class Remote:
        def get(self) -> str:
            return "now"

        def set(self, target: int) -> str:
            asked.append(target)
            return "set"

        def trim(self) -> str:
            return "trimmed"

    class Found:
        balloon = Remote()

        def at(self, place: str) -> Any:
            asked.append(place)
            return self

    with on_cluster_top.AllHosts(Found()).balloon("a/box", 1.0) as balloon:
        remote: Balloon = balloon
        results: list[Any] = [remote.get(), remote.set(300), remote.trim(None)]  # type: ignore[arg-type]
    assert results == ["now", "set", "trimmed"]
    assert asked == ["a/box", 300]
