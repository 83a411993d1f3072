"""Limits of a guest's network: bandwidth and connections."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.paths import state_dir_of
from tests.vm.network_world import OTHER_PUBLIC, PUBLIC, World, network_world
from tests.vm.processes import descriptors

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the networks around the host"),
]


@pytest.fixture(scope="module")
def world(guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with network_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def limited(world: World) -> Iterator[str]:
    words = ("--net", "user", "--net-rate", "512K", "--net-connections", "3", "--idle")
    world.ballonet("run", "-d", "--name", "limited", *words)
    yield "limited"
    world.ballonet("rm", "--force", "limited")


def queues(world: World, name: str) -> dict[str, dict[str, Any]]:
    """The queues of the network's two interfaces that limit something, as ``tc`` shows them."""
    supervisor = int(json.loads((state_dir_of(name) / "machine.json").read_text())["process"][0])
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    # slirp4netns is in the host's namespace, and refers to that of the sandbox.
    for pid in children:
        if Path(f"/proc/{pid}/comm").read_text().strip() == "slirp4netns":
            for fd, to in descriptors(int(pid)).items():
                if to.startswith("net:"):
                    words = ("nsenter", f"--net=/proc/{pid}/fd/{fd}", "tc", "-s", "-j", "qdisc", "show")
                    shown = json.loads(world.run(*words, at=supervisor).stdout)
                    return {of["dev"]: of for of in shown if of["kind"] == "tbf"}
    raise AssertionError(f"no process of {name!r} is in its network")


def test_the_kernel_limits_both_directions_and_the_limit_changes_at_run_time(
    world: World, limited: str
) -> None:
    script = f"yes | head -c 200000 | nc {PUBLIC} 80 | wc -c"
    assert int(world.guest(limited, script)) > 0
    found = queues(world, limited)
    assert {device: of["options"]["rate"] for device, of in found.items()} == {
        "guest": 512 * 1024,
        "up": 512 * 1024,
    }
    assert found["up"]["overlimits"] > 0, "packets had to wait"
    shown = json.loads(world.ballonet("modify", limited, "--net-rate", "2M", "--json").stdout)
    assert [(change["setting"], change["when"], change["state"]) for change in shown] == [
        ("net_rate", "live", "done")
    ]
    assert [of["options"]["rate"] for of in queues(world, limited).values()] == [2 << 20] * 2
    assert world.inspect(limited)["running"]["net_rate_kib"] == 2048  # type: ignore[index]
    world.ballonet("modify", limited, "--net-rate", "0")
    assert queues(world, limited) == {}
    assert PUBLIC in world.guest(limited, f"echo hello | nc -w 5 {PUBLIC} 80")


def test_more_connections_than_allowed_are_refused_also_after_a_change_of_rules(
    world: World, limited: str
) -> None:
    def held(number: int) -> str:
        """Open that many connections and keep them; returns when the far side has answered on each."""
        one = f"(echo hello; exec sleep 1000) | nc {PUBLIC} 80 > /held"
        return "; ".join(
            f"({one}$$-{each}) >/dev/null </dev/null & until grep -q {PUBLIC} /held$$-{each}; do sleep 0.1; done"
            for each in range(number)
        )

    def another() -> str:
        return world.guest(limited, f"echo hello | nc -w 5 {OTHER_PUBLIC} 80", check=False)

    world.guest(limited, held(3))
    assert "Connection refused" in another()
    world.ballonet("modify", limited, "--net-deny", "9.9.9.9")
    assert "Connection refused" in another()
    stats = json.loads(world.ballonet("net", "stats", "--json", limited).stdout)
    assert stats["refused"]["more than 3 connections at once"] == stats["reasons"]["many"] >= 2
    world.ballonet("modify", limited, "--net-connections", "5")
    assert another() == f"{OTHER_PUBLIC}\n"
    world.guest(limited, "killall sleep nc; until ! pidof nc; do sleep 0.1; done")


def test_a_limit_without_the_network_and_impossible_ones_are_errors(world: World) -> None:
    for words, why in (
        (("--net-rate", "10M"), "has no effect with the network none"),
        (("--net", "user", "--net-rate", "fast"), "is not a rate"),
        (("--net", "user", "--net-rate", "1K"), "is outside 16 to"),
        (("--net", "user", "--net-connections", "0"), "is outside 1 to 800"),
    ):
        done = world.ballonet("run", "--rm", *words, "--", "true", check=False)
        assert done.returncode == 2
        assert why in done.stderr
