"""Runs this host as a node of a cluster: Ray's processes, the agent of the host, and on the head the directory.

It runs in the foreground, as a service does, and ends what it started. Sandboxes keep running.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ballonet.base.errors import BallonetError, ConfigError, HostError
from ballonet.base.paths import exclusive_if_free, private_dir
from ballonet.base.process import spawn
from ballonet.cluster import ray_actors
from ballonet.cluster.addresses import connects_from, parse_address
from ballonet.cluster.answers import value_of
from ballonet.cluster.host_report import HostConfig
from ballonet.cluster.node_notes import Node, cluster_dir, forget_node, write_node
from ballonet.host.identity import ProcessId
from ballonet.version import __version__

#: How long Ray's processes may take to start, and to end (seconds).
START_S = 180.0
END_S = 15.0
#: How often Ray is started if it is too slow for itself.
SLOW_STARTS = 3
#: How long leaving may take: sandboxes are started elsewhere. How long to wait before joining again (seconds).
LEAVE_S = 120.0
AGAIN_S = 3.0
#: How long Ray may take to notice that a host was away (seconds).
NOTICE_S = 30.0
#: Ray's store of shared objects, the least that it takes. Nothing large is passed through it.
OBJECT_STORE_BYTES = 80 * 1024 * 1024


class NodePlan(NamedTuple):
    """How this host takes part."""

    config: HostConfig
    #: ``HOST:PORT`` of the head.
    address: str
    #: The address on which this host's processes listen.
    listen: str
    token: Path
    head: bool


def run_node(plan: NodePlan, ready: Callable[[], None], again: Callable[[str], None]) -> None:
    """Take part until SIGTERM or SIGINT. When Ray ends, because the head did or was out of reach, join again.

    This process is connected to Ray only for moments: Ray ends a connected program when the head is gone.

    :param ready: called when the host takes sandboxes, also after it has joined again.
    :param again: called with the reason when the host has to join again.
    :raises BallonetError: this host takes part already, its name is in use, or Ray does not start.
    """
    with exclusive_if_free(cluster_dir() / "node.lock") as mine:
        if not mine:
            raise ConfigError(
                "this host is part of a cluster already", hint="'ballonet cluster leave' ends that"
            )
        with _signals_kept():
            _end_by_signals()
            joined, slow = False, 0
            while True:
                try:
                    if joined and not plan.head:
                        connects_from(plan.address)
                    with _ray_running(plan) as process:
                        _take_part(plan, process, ready)
                        joined = True
                        _wait(plan, process)
                    again(f"Ray has ended; its log: {_log_path()}")
                except BallonetError as error:
                    slow += isinstance(error, _SlowStartError)
                    if not joined and not (isinstance(error, _SlowStartError) and slow < SLOW_STARTS):
                        raise
                    again(error.message)
                finally:
                    forget_node()
                time.sleep(AGAIN_S)


def _take_part(plan: NodePlan, process: subprocess.Popen[bytes], ready: Callable[[], None]) -> None:
    try:
        _join(plan, process)
    finally:
        ray_actors.disconnect()
        _end_by_signals()  # again: Ray has replaced the handlers
    write_node(Node(ProcessId.current(), plan.address, plan.config.name, plan.token))
    ready()


def _leave(plan: NodePlan) -> None:
    """Tell the directory, which takes this host's sandboxes off its list. A head takes the directory with it."""
    with contextlib.suppress(BallonetError):
        ray_actors.connect(plan.address, plan.token)
        try:
            if not plan.head:
                directory = ray_actors.start_directory()
                ray_actors.ask(directory, "call", "leave", plan.config.name, timeout=LEAVE_S)
                agent = ray_actors.find_host(plan.config.name)
                ray_actors.ask(agent, "leave", timeout=END_S)
            ray_actors.end_host(plan.config.name)
        except ValueError:
            pass  # it has no agent
        finally:
            ray_actors.disconnect()


class _SlowStartError(HostError):
    """Ray gave up because its own processes did not start within its 30 s, as on a busy host."""


class _Ended(Exception):  # noqa: N818 - not an error
    """A signal asked to end."""


def _end_by_signals() -> None:
    def end(number: int, frame: object) -> None:
        raise _Ended

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handlers of signals. A signal during the start ends it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except _Ended:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _ray_running(plan: NodePlan) -> Iterator[subprocess.Popen[bytes]]:
    """Ray's processes on this host. They end with this one, however it ends."""
    with _log_path().open("wb") as log:
        process = spawn(
            command_line(plan),
            env=environment(),
            stdout=log.fileno(),
            stderr=log.fileno(),
            # Ray's reaper ends the processes of its group: that must be Ray's own.
            new_session=True,
            die_with_parent=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _has_ended(process: subprocess.Popen[bytes]) -> int | None:
    """Its status if it has ended. It is not reaped, so that its group keeps its number."""
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if found is None else found.si_status


def _wait(plan: NodePlan, process: subprocess.Popen[bytes]) -> None:
    """Wait until Ray ends. A signal makes this host leave before Ray is ended."""
    pidfd = os.pidfd_open(process.pid)
    try:
        select.select([pidfd], [], [])
    except _Ended:
        _leave(plan)
        raise
    finally:
        os.close(pidfd)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Ray's processes: first with time to say goodbye, then all that are left of its process group."""
    pidfd = os.pidfd_open(process.pid)
    try:
        os.kill(process.pid, signal.SIGTERM)
        select.select([pidfd], [], [], END_S)
    finally:
        os.close(pidfd)
    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet: the number still means this group
    process.wait()


def command_line(plan: NodePlan) -> list[str]:
    """``ray start``. All services listen on ``plan.listen`` only, as far as Ray lets one say so."""
    resources = {
        ray_actors.host_resource(plan.config.name): 1,
        ray_actors.MEMORY_RESOURCE: plan.config.budget_mib or 0,
    }
    words = [
        sys.executable,
        "-m",
        "ballonet.cluster.ray_start",
        "start",
        "--block",
        f"--node-ip-address={plan.listen}",
    ]
    if plan.head:
        resources[ray_actors.HEAD_RESOURCE] = 1
        words += [
            "--head",
            f"--port={parse_address(plan.address)[1]}",
            "--include-dashboard=false",
            "--no-monitor",  # it would only serve figures of an autoscaler, on all interfaces
        ]
    else:
        words.append(f"--address={plan.address}")
    return [
        *words,
        f"--temp-dir={ray_files()}",
        f"--resources={json.dumps(resources)}",
        "--num-cpus=0",
        # The kernel chooses ports: Ray's own ranges collide with each other, and with a second host on this machine.
        "--min-worker-port=0",
        "--max-worker-port=0",
        # Given to Ray, because it ends if a busy host takes more than 15 s to start the processes that it would ask.
        *(f"--{what}-port={port}" for what, port in zip(_PORTS, free_ports(plan.listen), strict=True)),
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
        "--include-log-monitor=false",
    ]


def ray_files() -> Path:
    """Where Ray's processes on this host have their sockets and logs: a short path, because those of sockets are
    limited to 107 bytes. Ray lets every user write there, so it is in a directory that only this user can enter.

    :raises HostError: that directory belongs to another user, or cannot be created.
    """
    return private_dir(Path(f"/tmp/ballonet-ray-{os.getuid()}")) / "ray"  # noqa: S108 - private


#: Processes of Ray that get a port.
_PORTS = ("metrics-export", "dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent")


def free_ports(address: str) -> list[int]:
    """A free port for each of :data:`_PORTS`."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in _PORTS]
        for one in sockets:
            one.bind((address, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def environment() -> dict[str, str]:
    """Variables for Ray's processes: a worker's end must not end the sandboxes that it started."""
    return {
        "RAY_kill_child_processes_on_worker_exit": "false",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": os.environ["RAY_AUTH_TOKEN_PATH"],
    }


def _log_path() -> Path:
    return cluster_dir() / "ray.log"


def _join(plan: NodePlan, process: subprocess.Popen[bytes]) -> None:
    """Wait for Ray, then start the agent of this host."""
    deadline = time.monotonic() + START_S
    while True:
        ended = _has_ended(process)
        if ended is not None:
            said = _last_lines()
            kind = _SlowStartError if "timed out during startup" in said else HostError
            raise kind(f"Ray did not start (status {ended}): {said}", hint=f"its log: {_log_path()}")
        try:
            ray_actors.connect(plan.address, plan.token)
            if ray_actors.nodes_of(plan.config.name):
                break
        except BallonetError as error:
            if time.monotonic() > deadline:
                raise error
        if time.monotonic() > deadline:
            raise HostError(f"Ray did not start within {START_S:g} s", hint=f"its log: {_log_path()}")
        time.sleep(0.2)
    # A host that comes back may be listed twice until Ray has noticed that it was away.
    deadline = time.monotonic() + NOTICE_S
    while ray_actors.nodes_of(plan.config.name) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    if ray_actors.nodes_of(plan.config.name) > 1:
        raise ConfigError(
            f"the cluster has a host {plan.config.name!r} already", hint="give this one another name (--name)"
        )
    version = value_of(ray_actors.ask(ray_actors.start_directory(), "call", "version", timeout=START_S))
    if version != __version__:
        raise ConfigError(
            f"this host has ballonet {__version__}, and the cluster at {plan.address} has {version}",
            hint=f"install the same version on all hosts: pip install ballonet=={version}",
        )
    value_of(ray_actors.ask(ray_actors.start_host(plan.config), "start", timeout=START_S), plan.config.name)
    directory = ray_actors.start_directory()
    value_of(ray_actors.ask(directory, "call", "check_host", plan.config.name, timeout=START_S))


def _last_lines() -> str:
    """The end of Ray's log."""
    with contextlib.suppress(OSError):
        lines = [
            line.strip() for line in _log_path().read_text(errors="replace").splitlines() if line.strip()
        ]
        return " / ".join(lines[-3:])[-500:]
    return "it wrote nothing"
