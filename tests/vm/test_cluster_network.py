"""Three hosts in network namespaces, each a real Ray node, with real sandboxes: what is cut, stopped and killed there.

Slow, and not in the quick suite: ``make cluster``. It needs root.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.cluster.bounds import DEFAULT_BOUNDS
from ballonet.cluster.directory import Directory
from ballonet.cluster.offer import Held, HostOffer
from ballonet.cluster.request_of import request_of
from ballonet.guest.bundle import GuestBundle
from ballonet.version import __version__
from tests.vm.cluster_hosts import NetHost, eventually, network

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root"),
]
pytest.importorskip("ray")

Hosts = tuple[NetHost, NetHost, NetHost]
#: A small guest: memory and use are stated, so that nothing is guessed.
SMALL: dict[str, Any] = {"memory": "128M", "balloon": False}


@pytest.fixture(scope="module")
def hosts(
    guest: GuestBundle, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hosts]:
    with network() as net:
        a, b, c = (net.host(name, tmp_path_factory.mktemp(name)) for name in "abc")
        a.up("--budget", "700M")
        joining = [threading.Thread(target=host.join, args=(a, "--budget", "700M")) for host in (b, c)]
        for thread in joining:
            thread.start()
        for thread in joining:
            thread.join()
        # The first start on a host makes a start template, which takes memory of its own: not while others are placed.
        yield a, b, c


def check_places(hosts: Hosts, *, expect: set[str]) -> dict[str, str]:
    """Every sandbox runs exactly where the directory says, and nothing else runs; returns the places."""

    def settled() -> list[dict[str, str]]:
        listed = {
            name: host
            for host, found in hosts[0].status().items()
            for name, state in found["sandboxes"].items()
            if state == "running"
        }
        real = [(name, host.name) for host in hosts for name in host.engines()]
        return [listed] if sorted(listed.items()) == sorted(real) and set(listed) == expect else []

    [found] = eventually(settled, f"{sorted(expect)} where the directory says")
    places: dict[str, str] = found
    return places


def test_thirty_creates_at_once_keep_every_budget_and_go_where_the_simulator_says(hosts: Hosts) -> None:
    a = hosts[0]
    offers = [offer_of(found["offer"]) for found in a.status().values()]
    simulated = Directory(DEFAULT_BOUNDS, __version__)
    for offer in offers:
        simulated.update(offer)
    wanted: dict[str, int] = {}
    for at in range(30):
        request = request_of(f"box-{at}", SMALL, expected="128M")._replace(deviation_mib=0)
        fits = simulated.choose(request, 0.0).fits
        if fits:
            simulated.reserve(request, fits[0].host)
            wanted[fits[0].host] = wanted.get(fits[0].host, 0) + 1
    placed, refused = a.program(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from ballonet.base.errors import AdmissionError\n"
        "placed, refused = {}, []\n"
        "with Cluster() as cluster, ThreadPoolExecutor(30) as pool:\n"
        "    def create(at):\n"
        "        try: return cluster.create(f'box-{at}', memory='128M', balloon=False, expected='128M').host\n"
        "        except AdmissionError as error: return error.message\n"
        "    for at, found in enumerate(pool.map(create, range(30))):\n"
        "        if len(found) == 1: placed[f'box-{at}'] = found\n"
        "        else: refused.append(found)\n"
        "print(json.dumps([placed, refused]))"
    )
    counts = {host: list(placed.values()).count(host) for host in set(placed.values())}
    assert counts == wanted
    assert len(placed) + len(refused) == 30
    assert all("MiB" in message and "a: " in message and "c: " in message for message in refused)
    assert check_places(hosts, expect=set(placed)) == placed
    for host, found in a.status().items():
        offer = offer_of(found["offer"])
        assert offer.promised_mib <= offer.usable_mib, host
    a.program(
        "with Cluster() as cluster:\n"
        f"    for name in {sorted(placed)}: cluster.remove(name, force=True)\n"
        "print(1)"
    )
    check_places(hosts, expect=set())


def offer_of(document: dict[str, Any]) -> HostOffer:
    fields = {name: value for name, value in document.items() if name not in ("age_s", "held")}
    held = {image: Held(**one) for image, one in document["held"].items()}
    for name in ("images", "states"):
        fields[name] = frozenset(fields[name])
    return HostOffer(**fields, at_s=0.0, held=held)


def test_a_sandbox_is_used_from_another_host_as_from_its_own(hosts: Hosts) -> None:
    found = hosts[1].program(
        "import os, socket, tempfile, pathlib\n"
        "from ballonet.base.errors import BallonetError\n"
        "with Cluster() as cluster:\n"
        "    box = cluster.create('far', memory='192M', ports=['0:80'],\n"
        "                         detached=False)\n"
        "    out = {}\n"
        "    done = box.exec(['sh', '-c', 'cat; echo no >&2; exit 3'], stdin='words')\n"
        "    out['exec'] = [done.returncode, done.stdout.decode(), done.stderr.decode()]\n"
        "    long = box.exec(['sh', '-c', 'head -c 3000000 /dev/zero'])\n"
        "    out['long'] = [long.returncode, len(long.stdout)]\n"
        "    with box.exec_stream(['cat'], stdin=True) as process:\n"
        "        process.write_stdin('one')\n"
        "        first = process.read()\n"
        "        process.close_stdin()\n"
        "        out['stream'] = [first.decode(), process.read().decode(), process.wait()]\n"
        "    here = pathlib.Path(tempfile.mkdtemp())\n"
        "    (here / 'in').mkdir(); (here / 'in/file').write_bytes(b'x' * 700000)\n"
        "    box.fs.copy_in(here / 'in', '/tmp/there')\n"
        "    box.fs.copy_out('/tmp/there', here / 'out')\n"
        "    out['files'] = [(here / 'out/file').read_bytes() == b'x' * 700000, box.fs.exists('/tmp/nothing')]\n"
        "    box.fs.write('/tmp/text', 'text'); out['text'] = box.fs.read('/tmp/text').decode()\n"
        "    try: box.fs.read('/no/such')\n"
        "    except BallonetError as error: out['missing'] = error.code\n"
        "    out['balloon'] = [box.balloon.set('160M', wait=True).state, box.balloon.get().target_mib]\n"
        "    out['metrics'] = type(box.metrics()).__name__\n"
        "    [copy] = box.fork('copy', detached=False)\n"
        "    out['copy'] = [copy.host == box.host, copy.fs.read('/tmp/text').decode()]\n"
        "    serve = box.exec_stream(['sh', '-c', 'while :; do echo hello | nc -l -p 80; done'])\n"
        "    with box.forward(80) as address:\n"
        "        for _ in range(50):\n"
        "            with socket.create_connection(address) as one:\n"
        "                said = one.recv(100)\n"
        "            if said: break\n"
        "            time.sleep(0.2)\n"
        "    out['port'] = said.decode()\n"
        "print(json.dumps(out))"
    )
    assert found == {
        "exec": [3, "words", "no\n"],
        "long": [0, 3_000_000],
        "stream": ["one", "", 0],
        "files": [True, False],
        "text": "text",
        "missing": "guest-file",
        "balloon": ["applied", 160],
        "metrics": "Stats",
        "copy": [True, "text"],
        "port": "hello\n",
    }
    check_places(hosts, expect=set())


def test_what_a_killed_program_owns_ends_and_what_it_detached_stays(hosts: Hosts) -> None:
    a, _, c = hosts
    program = c.start_program(
        "cluster = Cluster()\n"
        "cluster.create('owned', memory='128M', detached=False)\n"
        "cluster.create('kept', memory='128M')\n"
        "print('made', flush=True)\n"
        "time.sleep(600)"
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "made\n"
    finally:
        program.kill()
        program.wait()
    check_places(hosts, expect={"kept"})
    said = a.run("--cluster", "auto", "exec", "-i", "kept", "--", "sh", "-c", "cat; exit 5", stdin="words")
    assert (said.returncode, said.stdout) == (5, "words"), said.stderr
    assert "kept" in a.run("--cluster", "auto", "ls").stdout
    ran = a.run("--cluster", "auto", "run", "-m", "128M", "--", "echo", "once")
    assert (ran.returncode, ran.stdout) == (0, "once\n"), ran.stderr
    assert a.run("--cluster", "auto", "rm", "--force", "kept").returncode == 0
    check_places(hosts, expect=set())


def test_a_host_that_is_cut_off_runs_nothing_twice_and_comes_back(hosts: Hosts) -> None:
    a, _, c = hosts
    make_two(a)
    places = check_places(hosts, expect={"moves", "stays"})
    assert places == {"moves": "c", "stays": "c"}
    c.cut()
    # It ends on the host that is cut off before it starts elsewhere: it is never seen twice.
    seen: list[list[str]] = []

    def moved() -> bool:
        seen.append([host.name for host in hosts if "moves" in host.engines()])
        return seen[-1] == ["a"] or seen[-1] == ["b"]

    eventually(moved, "the start elsewhere", 240)
    assert all(len(found) <= 1 for found in seen), seen
    assert "stays" in c.engines(), "it was not asked to end"
    status = a.status()
    assert status["c"]["lost"]
    assert status["c"]["sandboxes"]["stays"] == "lost"
    error = a.program(
        "try: Cluster().get('stays')\nexcept Exception as error: print(json.dumps([str(error), error.hint]))"
    )
    assert "'stays' is lost: its host c does not answer" in error[0]
    assert "ballonet cluster forget c" in error[1]
    c.mend()
    eventually(lambda: not a.status()["c"]["silent"], "the return of c", 400)
    places = check_places(hosts, expect={"moves", "stays"})
    assert places["stays"] == "c"
    assert places["moves"] != "c"
    remove_both(a)


def test_a_drained_host_is_emptied_and_an_agent_and_the_directory_are_killed(hosts: Hosts) -> None:
    a, _, c = hosts
    make_two(a)
    assert check_places(hosts, expect={"moves", "stays"}) == {"moves": "c", "stays": "c"}
    a.program(
        "with Cluster() as cluster:\n"
        "    for name in ('moves', 'stays'): cluster.get(name).fs.write('/tmp/kept', name)\n"
        "print(1)"
    )
    drained = a.run("cluster", "drain", "c", "--move")
    assert drained.returncode == 0, drained.stderr
    places = check_places(hosts, expect={"moves", "stays"})
    assert "c" not in places.values()
    assert f"stays: moved to {places['stays']}" in drained.stdout
    assert json.loads(c.run("snapshot", "ls", "--json").stdout) == []
    found = a.program(
        "import ray\n"
        "with Cluster() as cluster:\n"
        "    host = cluster.get('stays').host\n"
        "    for actor in ('directory', 'host:' + host):\n"
        "        ray.kill(ray.get_actor(actor, namespace='ballonet'), no_restart=False)\n"
        "    deadline = time.monotonic() + 100\n"
        "    while True:\n"
        "        try:\n"
        "            found = [cluster.get(name).fs.read('/tmp/kept').decode() for name in ('moves', 'stays')]\n"
        "            break\n"
        "        except Exception:\n"
        "            if time.monotonic() > deadline: raise\n"
        "            time.sleep(1)\n"
        "    cluster.drain('c', undo=True)\n"
        "print(json.dumps(found))"
    )
    assert found == ["moves", "stays"], "memory came along"
    assert check_places(hosts, expect={"moves", "stays"}) == places
    remove_both(a)


def test_a_host_that_is_stopped_and_one_that_loses_power(hosts: Hosts) -> None:
    a, b, c = hosts
    make_two(a)
    c.signal_all(signal.SIGSTOP)
    eventually(
        lambda: len({host.name for host in (a, b) if "moves" in host.engines()}) == 1,
        "the start elsewhere",
        240,
    )
    c.signal_all(signal.SIGCONT)
    eventually(lambda: "moves" not in c.engines(), "the end of the copy on c")
    eventually(lambda: not a.status()["c"]["silent"], "the return of c", 400)
    assert check_places(hosts, expect={"moves", "stays"})["stays"] == "c"
    c.lose_power()
    eventually(lambda: a.status()["c"]["lost"], "the loss of c", 240)
    c.join(a, "--budget", "700M")
    eventually(lambda: not a.status()["c"]["silent"], "the return of c", 240)
    assert check_places(hosts, expect={"moves"})["moves"] != "c"
    assert "stays" in a.status()["c"]["sandboxes"], "it is known, and not running"
    remove_both(a)
    check_places(hosts, expect=set())


def test_a_host_leaves_another_version_is_refused_and_the_head_is_restarted(hosts: Hosts) -> None:
    a, _, c = hosts
    make_two(a)
    left = c.run("cluster", "leave")
    assert left.returncode == 0, left.stderr
    assert c.process is not None
    assert c.process.wait(60) == 0
    eventually(lambda: "moves" not in c.engines(), "the end of what runs elsewhere now")
    assert c.running() == {"stays"}, "it is the host's own now"
    other = c.start_program(
        "import ballonet.version\nballonet.version.__version__ = '0.0.1'\n"
        "from ballonet.cli.main import main\nimport sys\n"
        f"sys.exit(main(['cluster', 'join', '{a.address}:6379', '--token', '{a.token}', '--name', 'old']))",
        errors=True,
    )
    said, _ = other.communicate(timeout=240)
    assert other.returncode == 2
    assert "this host has ballonet 0.0.1, and the cluster at 10.77.0.1:6379 has" in said
    assert c.run("rm", "--force", "stays").returncode == 0
    c.join(a, "--budget", "700M")
    check_places(hosts, expect={"moves"})
    a.end_process()
    eventually(lambda: not any(host.engines() for host in hosts), "the end of its lease")
    a.up("--budget", "700M")
    eventually(
        lambda: len([one for one in a.status().values() if not one["silent"]]) == 3, "their return", 600
    )
    check_places(hosts, expect={"moves"})
    assert a.run("--cluster", "auto", "rm", "-f", "moves").returncode == 0
    check_places(hosts, expect=set())


def make_two(host: NetHost) -> None:
    """On host c: one sandbox that is started elsewhere if it is lost, and one that is not."""
    host.program(
        "with Cluster() as cluster:\n"
        "    for other in 'ab': cluster.drain(other)\n"
        "    cluster.create('moves', memory='128M', balloon=False, expected='128M', restart='elsewhere')\n"
        "    cluster.create('stays', memory='128M', balloon=False, expected='128M')\n"
        "    for other in 'ab': cluster.drain(other, undo=True)\n"
        "print(1)"
    )


def remove_both(host: NetHost) -> None:
    host.program(
        "with Cluster() as cluster:\n"
        "    for name in ('moves', 'stays'): cluster.remove(name, force=True)\n"
        "print(1)"
    )
