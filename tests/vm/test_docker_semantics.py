"""What Docker's users expect of `run`, `exec`, `stop`, `wait` and of an image's configuration, in real guests.

What differs on purpose is listed in docs/docker.md and docs/images.md."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ballonet.guest.bundle import find_busybox
from tests.unit import oci
from tests.vm.processes import descriptors, wait_until

Call = Callable[..., subprocess.CompletedProcess[str]]

_APPLETS = "sh cat echo env id ls pwd sleep stat"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Images that differ in their configuration only."""
    made = oci.Layout(tmp_path_factory.mktemp("layout") / "docker")
    base = oci.layer(
        *(oci.entry(name) for name in ("bin", "etc", "root", "srv")),
        oci.entry("bin/busybox", find_busybox(os.environ).read_bytes(), mode=0o755),
        *(oci.link(f"bin/{name}", "busybox") for name in _APPLETS.split()),
        oci.entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n"),
        oci.entry("etc/group", b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n"),
        oci.entry("srv/run.sh", b"#!/bin/sh\necho $0 $@ in $PWD\n", mode=0o755),
    )
    made.add(base, name="none")
    made.add(
        base,
        name="full",
        config={
            "User": "app:extra",
            "Env": ["PATH=/bin", "B=$PATH", "NONE"],
            "Entrypoint": ["./run.sh"],
            "Cmd": ["of-the-image"],
            "Volumes": {"/data/sub": {}},
            "WorkingDir": "/srv",
            "Labels": {"org.example.a": "b"},
            "ExposedPorts": {"80/tcp": {}},
            "ArgsEscaped": True,
            "Healthcheck": {"Test": ["CMD", "false"]},
            "OnBuild": ["RUN false"],
            "Shell": ["/no/such/shell"],
        },
    )
    return made.reference


@pytest.fixture
def keeping(guest: object, ballonet: Call) -> Iterator[list[str]]:
    """Names of sandboxes that are to be removed when the test has ended."""
    names: list[str] = []
    yield names
    for name in names:
        ballonet("rm", "-f", name)


def words(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done
    return done.stdout.strip()


def test_an_images_configuration_is_what_its_command_runs_with(
    ballonet: Call, layout: Callable[[str], str]
) -> None:
    image = layout("full")
    assert words(ballonet("run", "--image", image)) == "./run.sh of-the-image in /srv"
    assert words(ballonet("run", "--image", image, "--", "a", "b")) == "./run.sh a b in /srv"
    script = "id -u; id -g; pwd; stat -c '%a %u' /data/sub; env"
    done = ballonet("run", "--image", image, "--name", "as-docker", "--entrypoint", "sh", "--", "-c", script)
    user, group, directory, data, *env = words(done).splitlines()
    assert (user, group, directory, data) == ("1000", "2000", "/srv", "755 0")
    assert set(env) >= {"PATH=/bin", "B=$PATH", "HOME=/srv", "HOSTNAME=as-docker"}
    assert not [line for line in env if line.startswith(("NONE", "TERM"))]


def test_an_image_without_a_command_is_told_before_anything_boots(
    ballonet: Call, layout: Callable[[str], str]
) -> None:
    done = ballonet("run", "--image", layout("none"))
    assert (done.returncode, "has none" in done.stderr) == (2, True), done
    done = ballonet("run", "--image", layout("full"), "--entrypoint", "")
    assert (done.returncode, "--entrypoint ''" in done.stderr) == (2, True), done


def test_stop_wait_logs_and_exec_of_one_that_was_never_started(ballonet: Call, keeping: list[str]) -> None:
    keeping.append("new")
    words(ballonet("create", "--name", "new", "--", "echo", "x"))
    assert words(ballonet("wait", "new")) == "-  created: the sandbox was never started"
    assert words(ballonet("logs", "new")) == ""
    assert words(ballonet("stop", "new")) == "new"
    assert ballonet("exec", "new", "true").returncode == 2
    done = ballonet("stop", "no-such", "new")
    assert (done.returncode, done.stdout) == (2, "new\n"), "the others are stopped all the same"


def test_a_stop_without_a_limit_waits_for_the_command(keeping: list[str], ballonet: Call) -> None:
    keeping.append("slow")
    script = "trap 'sleep 1; echo bye; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    words(kept("run", "-d", "--name", "slow", "--", "sh", "-c", script))
    assert words(kept("start", "slow")) == "slow", "it runs already: that is what was asked for"
    wait_until(lambda: "ready" in kept("logs", "slow").stdout, "the command is ready")
    assert words(kept("stop", "-t", "-1", "slow")) == "slow"
    assert words(kept("logs", "slow")) == "ready\nbye"
    assert words(kept("wait", "slow")).startswith("9  ")
    assert words(kept("wait", "slow", "slow")).count("9  ") == 2, "it has ended: at once, each time"
    assert kept("exec", "slow", "true").returncode == 2


def test_wait_knows_the_status_of_one_that_goes_away_with_its_end(keeping: list[str]) -> None:
    keeping.append("brief")
    words(
        kept(
            "run",
            "-d",
            "--rm",
            "--name",
            "brief",
            "--",
            "sh",
            "-c",
            "until [ -e /go ]; do sleep 0.1; done; exit 3",
        )
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "ballonet", "wait", "brief"], stdout=subprocess.PIPE, text=True
    ) as waiting:
        wait_until(lambda: has_pidfd(waiting.pid), "it waits for the sandbox's process")
        words(kept("exec", "brief", "touch", "/go"))
        out, _ = waiting.communicate(timeout=200)
    assert (out, waiting.returncode) == ("3  completed: its command ended with status 3\n", 0)
    assert "brief" not in words(kept("ls", "-q")).split()


def has_pidfd(process: int) -> bool:
    return any("pidfd" in to for to in descriptors(process).values())


def kept(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, which may leave a sandbox running for the next call."""
    command = [sys.executable, "-P", "-m", "ballonet", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL
    )
