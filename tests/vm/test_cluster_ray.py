"""Two hosts on this machine, each a real Ray node with its own state and run directories, and real sandboxes."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.loopback_hosts import Host, hosts, program
from tests.vm.terminal import terminal

pytestmark = [pytest.mark.extended, pytest.mark.slow]
pytest.importorskip("ray")

__all__ = ["hosts"]  # a fixture


def test_a_sandbox_is_created_used_and_found_from_any_host(hosts: tuple[Host, Host]) -> None:
    head, other = hosts
    found = head.status()
    assert {name: one["offer"]["budget_mib"] for name, one in found.items()} == {"head": 2048, "other": 1024}
    where, output = program(
        head,
        "box = Cluster().create('one', memory='256M', labels={'disk': 'ssd'})\n"
        "print(json.dumps([box.host, box.exec(['echo', 'hello']).stdout.decode()]))",
    )
    assert (where, output) == ("head", "hello\n")
    assert "one" in head.run("ls").stdout, "the host's own registry has it"
    assert program(
        other,
        "box = Cluster().get('one')\n"
        "print(json.dumps([box.host, box.exec(['sh', '-c', 'exit 7']).returncode]))",
    ) == ["head", 7]
    assert other.status()["head"]["sandboxes"] == {"one": "running"}


def test_streams_that_wait_do_not_keep_others_from_a_host(hosts: tuple[Host, Host]) -> None:
    code = (
        "import ray\n"
        "from ballonet.cluster import ray_actors\n"
        "cluster = Cluster()\n"
        "box = cluster.create('held', memory='256M')\n"
        "with box.exec_stream(['cat'], stdin=True) as process:\n"
        "    actor = ray_actors.find_host(box.host)\n"
        "    waiting = [actor.stream.remote('wait', process._number) for _ in range(1100)]\n"
        "    time.sleep(3)\n"  # they arrive in order; more than a host carries out of other calls
        "    found = cluster.call(box.host, 'collect', timeout=30)\n"
        "    assert not ray.wait(waiting, timeout=0)[0], ray.get(waiting[0])\n"
        "box.remove(force=True)\n"
        "print(json.dumps([one.name for one in found.sandboxes]))"
    )
    assert "held" in program(hosts[0], code)


def test_top_shows_and_changes_the_sandboxes_of_all_hosts(hosts: tuple[Host, Host]) -> None:
    head, other = hosts
    done = head.run(
        "--cluster", "auto", "run", "-d", "--name", "seen", "-m", "256M", "--host-label", "disk=ssd"
    )
    assert done.returncode == 0, done.stderr
    done = other.run("--cluster", "auto", "top", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in json.loads(done.stdout)["sandboxes"] if row["name"] == "head/seen"]
    assert (row["state"], row["ceiling"]) == ("running", 256 << 20)
    argv = [sys.executable, "-m", "ballonet", "--cluster", "auto", "top"]
    with terminal(110, 24, argv=argv, env=other.environment) as top:
        top.wait(lambda: "head/seen" in top.text, "the sandbox of the other host")
        top.press("-")
        top.wait(lambda: ": target 224 MiB" in top.text, "the new target of the selected one")
        top.press("q")
        assert top.wait_end() == 0
    head.run("--cluster", "auto", "rm", "-f", "seen")


def test_a_cluster_on_loopback_listens_nowhere_else(hosts: tuple[Host, Host]) -> None:
    assert all(host.process is not None and host.process.poll() is None for host in hosts)
    assert _listening() == {"127.0.0.1"}


def test_other_users_reach_neither_files_nor_sockets_of_ray(hosts: tuple[Host, Host]) -> None:
    places = _files_of_ray()
    assert any(place.name == "raylet" for place in places), "its sockets are among them"
    open_to_others = {
        place for place in places if all(parent.stat().st_mode & 0o011 for parent in place.parents)
    }
    assert not open_to_others


def test_a_drained_host_takes_no_more_and_a_full_one_says_why(hosts: tuple[Host, Host]) -> None:
    head, _ = hosts
    assert head.run("cluster", "drain", "head").returncode == 0
    where = program(head, "print(json.dumps(Cluster().create('two', memory='256M').host))")
    assert where == "other"
    message = program(
        head,
        "try: Cluster().create('three', memory='1G', reserve='900M')\n"
        "except Exception as error: print(json.dumps([type(error).__name__, str(error)]))",
    )
    assert message[0] == "AdmissionError"
    assert "head: it is being drained" in message[1]
    assert "other: " in message[1]
    assert "MiB" in message[1].split("other: ")[1]
    assert head.run("cluster", "drain", "head", "--undo").returncode == 0
    missing = head.run("cluster", "drain", "haed")
    assert missing.returncode != 0
    assert "the cluster has no host 'haed'" in missing.stderr


def test_an_agent_that_is_killed_comes_back_and_its_sandboxes_kept_running(hosts: tuple[Host, Host]) -> None:
    head, _ = hosts
    pid = program(
        head,
        "import os, signal, ray\ncluster = Cluster()\nbox = cluster.get('one')\n"
        "ray.kill(ray.get_actor('host:head', namespace='ballonet'), no_restart=False)\n"
        "deadline = time.monotonic() + 60\n"
        "while True:\n"
        "    try:\n"
        "        done = cluster.get('one').exec(['echo', 'alive'])\n"
        "        break\n"
        "    except Exception as error:\n"
        "        if time.monotonic() > deadline: raise\n"
        "        time.sleep(0.5)\n"
        "print(json.dumps(done.stdout.decode()))",
    )
    assert pid == "alive\n"


def test_a_host_that_leaves_keeps_its_sandboxes(hosts: tuple[Host, Host]) -> None:
    head, other = hosts
    before = other.run("ls").stdout
    assert "two" in before
    left = other.run("cluster", "leave")
    assert left.returncode == 0, left.stderr
    assert other.process is not None
    assert other.process.wait(30) == 0
    assert other.run("exec", "two", "echo", "still").stdout == "still\n"
    assert set(head.status()) == {"head"}


def test_a_host_whose_process_is_killed_leaves_no_ray_process(hosts: tuple[Host, Host]) -> None:
    head, _ = hosts
    assert head.process is not None
    [ray] = _children(head.process.pid)
    assert len(_group(ray)) > 3, "Ray's processes are in the group of 'ray start'"
    head.process.send_signal(signal.SIGKILL)
    head.process.wait(10)
    deadline = time.monotonic() + 60
    while (left := _group(ray)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    assert head.run("exec", "one", "echo", "still").stdout == "still\n"


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _group(group: int) -> list[str]:
    """The processes of a process group, without those that have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(of) == group and state not in "ZX":
                    found.append((entry / "cmdline").read_bytes().decode(errors="replace")[:100])
    return found


def _listening() -> set[str]:
    """The addresses on which processes of Ray listen."""
    listeners = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                listeners[words[9]] = _address(words[1].partition(":")[0])
    return {listeners[inode] for inode in _sockets_of_ray() if inode in listeners}


def _files_of_ray() -> set[Path]:
    """The files that processes of Ray have open, and those of their Unix sockets."""
    bound = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and words[7].startswith("/"):
            bound[words[6]] = Path(words[7])
    opened = {Path(link) for link in _links_of_ray() if link.startswith("/")}
    system = (Path("/dev"), Path("/proc"), Path("/sys"))
    files = {path for path in opened if not any(path.is_relative_to(place) for place in system)}
    return {path for path in files if path.is_file()} | {
        bound[inode] for inode in _sockets_of_ray() if inode in bound
    }


def _sockets_of_ray() -> set[str]:
    """The inode numbers of its sockets."""
    return {link[8:-1] for link in _links_of_ray() if link.startswith("socket:[")}


def _links_of_ray() -> Iterator[str]:
    """What the descriptors of Ray's processes refer to."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if any(word in name for word in ("ray::", "raylet", "gcs_server", "cluster.ray_start")):
                yield from (os.readlink(fd) for fd in (entry / "fd").iterdir())  # noqa: PTH115


def _address(digits: str) -> str:
    """An address as /proc/net/tcp writes it: words of four bytes, each in the host's order."""
    address = b"".join(bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8))
    mapped = address.removeprefix(b"\0" * 10 + b"\xff\xff") if len(address) == 16 else address
    return str(ipaddress.ip_address(mapped))
