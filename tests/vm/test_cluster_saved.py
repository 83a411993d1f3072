"""Two hosts on this machine: logs, code and terminals through the cluster, and a restart from the last saved state."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.paths import cache_dir
from ballonet.guest.bundle import GuestBundle
from tests.vm.loopback_hosts import Host, free_port, program
from tests.vm.processes import with_variable

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("ray")

Hosts = tuple[Host, Host]


def own_data(host: Host) -> None:
    """Give a host snapshots of its own; images are those of all tests."""
    shared, own = cache_dir() / "test-data/ballonet", host.directory / "data/ballonet"
    own.mkdir(parents=True, mode=0o700)
    for path in shared.iterdir() if shared.is_dir() else ():
        if path.name != "snapshots":
            (own / path.name).symlink_to(path)
    host.environment["XDG_DATA_HOME"] = str(own.parent)


@pytest.fixture(scope="module")
def hosts(
    guest: GuestBundle, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosts]:
    head, other = (Host(name, tmp_path_factory.mktemp(name)) for name in ("keep", "lose"))
    for host in (head, other):
        own_data(host)
    port = free_port()
    # One host's clock is an hour ahead: nothing but what is told of it may depend on that.
    ahead = other.directory / "python"
    ahead.mkdir()
    (ahead / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() + 3600\n"
    )
    other.environment["PYTHONPATH"] = f"{ahead}:{other.environment['PYTHONPATH']}"
    try:
        head.take_part("up", "--port", str(port), "--budget", "1G", "--label", "disk=ssd")
        other.take_part("join", f"127.0.0.1:{port}", "--token", str(head.token), "--budget", "1G")
        yield head, other
    finally:
        lose_power(other)
        head.end()


def pids_of(host: Host) -> list[int]:
    """All processes that have this host's directories."""
    return with_variable(f"XDG_STATE_HOME={host.environment['XDG_STATE_HOME']}")


def lose_power(host: Host) -> None:
    """Kill all processes of a host; nobody says goodbye."""
    while pids := [pid for pid in pids_of(host) if pid != os.getpid()]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if host.process is not None:
            host.process.poll()
        time.sleep(0.05)


def test_a_host_whose_clock_is_off_is_told_and_takes_sandboxes(hosts: Hosts) -> None:
    head, _ = hosts
    found = head.status()
    assert "ahead of the head's" in found["lose"]["clock"]
    assert found["keep"]["clock"] is None
    assert found["lose"]["offer"]["age_s"] < 15, "its offer is not taken for one from the future"
    assert "ahead of the head's" in head.run("cluster", "status").stdout
    assert found["lose"]["offer"]["labels"]["kvm"] in ("yes", "no")
    refused = head.run("--cluster", "auto", "run", "--require", "nvme", "-m", "128M", "--", "true")
    assert refused.returncode == 2
    assert "lose: nvme=yes is required, and it does not have that label" in refused.stderr


def test_logs_code_and_a_terminal_through_the_cluster(hosts: Hosts) -> None:
    head, other = hosts
    made = head.run(
        *("--cluster", "auto", "run", "-d", "--name", "works", "-m", "192M", "--host-label", "disk=ssd"),
        *("--", "sh", "-c", "echo out; echo err >&2; echo last; sleep 600"),
    )
    assert made.returncode == 0, made.stderr

    def logged() -> bool:
        return "last" in other.run("--cluster", "auto", "logs", "works").stdout

    wait_for(logged)
    said = other.run("--cluster", "auto", "logs", "works", "--since", "1h")
    assert (said.stdout, said.stderr) == ("out\nlast\n", "err\n"), (
        "an hour is counted by the host's own clock"
    )
    last = other.run("--cluster", "auto", "logs", "-n", "1", "works")
    assert len((last.stdout + last.stderr).splitlines()) == 1
    code = "x=1; echo $x; false"
    ran = other.run("--cluster", "auto", "code", "--lang", "sh", "works", "-", stdin=code)
    assert (ran.returncode, ran.stdout) == (1, "1\n"), ran.stderr
    missing = other.run("--cluster", "auto", "exec", "works", "--", "/no/such")
    assert missing.returncode == 127, missing.stderr
    status, output = in_terminal(
        other,
        "--cluster",
        "auto",
        "exec",
        "-i",
        "-t",
        "works",
        "--",
        "sh",
        "-c",
        "stty size; read x; echo $x; exit 4",
    )
    assert status == 4
    assert "33 77" in output
    assert "typed" in output
    found = program(
        other,
        "import threading\n"
        "from ballonet.errors import CodeTimeoutError\n"
        "with Cluster() as cluster:\n"
        "    box = cluster.get('works')\n"
        "    with box.code('sh') as session:\n"
        "        session.run('y=5')\n"
        "        out = [session.run('echo $y').stdout]\n"
        "        try: session.run('echo before; sleep 60', timeout=2)\n"
        "        except CodeTimeoutError as error: out += [error.stdout, error.timeout]\n"
        "        out.append(session.run('echo $y').stdout)\n"
        "    out.append(sum(1 for _ in box.logs(tail=2)))\n"
        "    entries = box.logs(follow=True)\n"
        "    threading.Timer(1, box.stop).start()\n"
        "    out.append(sorted(entry.content.decode() for entry in entries))\n"
        "print(json.dumps(out))",
    )
    assert found == ["5\n", "before\n", 2, "5\n", 2, ["err", "last", "out"]]
    assert head.run("--cluster", "auto", "rm", "works").returncode == 0


def test_a_snapshot_is_kept_on_both_hosts_and_restored_from_either(hosts: Hosts) -> None:
    head, other = hosts
    found = program(
        head,
        "with Cluster() as cluster:\n"
        "    cluster.drain('lose')\n"
        "    box = cluster.create('box', memory='128M')\n"
        "    cluster.drain('lose', undo=True)\n"
        "    box.fs.write('/tmp/kept', 'words')\n"
        "    made = box.snapshot('state')\n"
        "    box.remove(force=True)\n"
        "    cluster.drain('keep')\n"
        "    again = cluster.restore('state', 'again', detached=False)\n"
        "    out = [sorted(made.hosts), made.problem, again.host, again.fs.read('/tmp/kept').decode()]\n"
        "    cluster.drain('keep', undo=True)\n"
        "    out.append([(one.name, one.current) for one in cluster.snapshots()])\n"
        "    again.remove(force=True)\n"
        "print(json.dumps(out))",
    )
    assert found == [["keep", "lose"], None, "lose", "words", [["state", False]]]
    for host in hosts:
        assert [one["name"] for one in json.loads(host.run("snapshot", "ls", "--json").stdout)] == ["state"]
    assert head.run("--cluster", "auto", "snapshot", "rm", "state").returncode == 0
    for host in (head, other):
        assert json.loads(host.run("snapshot", "ls", "--json").stdout) == []


def test_a_sandbox_of_a_dead_host_continues_from_its_last_saved_state(hosts: Hosts) -> None:
    head, other = hosts
    program(
        head,
        "with Cluster() as cluster:\n"
        "    cluster.drain('keep')\n"
        "    box = cluster.create('saved', memory='128M', restart='elsewhere', save_every=10)\n"
        "    box.fs.write('/tmp/kept', 'words')\n"
        "    fresh = cluster.create('fresh', memory='128M', restart='elsewhere')\n"
        "    fresh.fs.write('/tmp/kept', 'words')\n"
        "    cluster.drain('keep', undo=True)\n"
        "    assert (box.host, fresh.host) == ('lose', 'lose')\n"
        "    first = None\n"
        "    while True:\n"  # the first one may have begun before the file was written
        "        found = [one for one in cluster.snapshots() if len(one.hosts) == 2]\n"
        "        first = first or [one.name for one in found]\n"
        "        if found and [one.name for one in found] != first: break\n"
        "        time.sleep(0.5)\n"
        "print(1)",
    )
    lose_power(other)
    found = program(
        head,
        "with Cluster() as cluster:\n"
        "    deadline = time.monotonic() + 100\n"
        "    while True:\n"
        "        status = cluster.status()\n"
        "        if len(status['keep']['started']) == 2: break\n"
        "        assert time.monotonic() < deadline, status\n"
        "        time.sleep(1)\n"
        "    out = dict(status['keep']['started'])\n"
        "    out['files'] = [cluster.get(name).fs.exists('/tmp/kept') for name in ('saved', 'fresh')]\n"
        "print(json.dumps(out))",
    )
    assert found["files"] == [True, False]
    assert "started again on keep from saved state auto-saved-" in found["saved"]
    assert "started again on keep with an empty disk: nothing of it was saved" in found["fresh"]
    listed = head.run("--cluster", "auto", "ls").stdout
    assert "from saved state" in listed
    assert "with an empty disk" in listed
    for name in ("saved", "fresh"):
        assert head.run("--cluster", "auto", "rm", "-f", name).returncode == 0
    wait_for(lambda: json.loads(head.run("snapshot", "ls", "--json").stdout) == [])


def wait_for(check: Any) -> None:
    deadline = time.monotonic() + 100
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def in_terminal(host: Host, *words: str) -> tuple[int, str]:
    """Run a command in a terminal of 33 by 77, and type a line when it asks."""
    import fcntl
    import struct
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    before = termios.tcgetattr(side)
    process = subprocess.Popen(
        [sys.executable, "-m", "ballonet", *words], env=host.environment, stdin=side, stdout=side, stderr=side
    )
    output = b""
    while b"33 77" not in output:
        output += os.read(main, 4096)
    os.write(main, b"typed\r")
    status = process.wait(100)
    while select_ready(main):
        output += os.read(main, 4096)
    assert termios.tcgetattr(side) == before, "the terminal is as it was"
    os.close(main)
    os.close(side)
    return status, output.decode()


def select_ready(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])
