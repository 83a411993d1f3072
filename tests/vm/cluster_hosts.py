"""Hosts of a cluster on this machine: network namespaces of their own, joined by a bridge in another namespace.

Each host has its own state and run directories and its own Ray node, so that all that they share is the network. It
needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.vm.loopback_hosts import PROGRAM, WAIT_S, Host

PORT = 6379


class Namespace:
    """A network namespace, kept by a process, and not by a name that others could remove."""

    def __init__(self) -> None:
        self.keeper = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self.keeper.stdout is not None
        self.keeper.stdout.readline()
        self.pid = self.keeper.pid
        self.inode = Path(f"/proc/{self.pid}/ns/net").stat().st_ino

    def words(self, *words: str) -> list[str]:
        """The command line that runs ``words`` there."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *words]

    def ip(self, *words: str) -> None:
        subprocess.run(self.words("ip", *words), check=True, capture_output=True, text=True)

    def pids(self) -> list[int]:
        """All processes there, except the keeper."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                with contextlib.suppress(OSError):
                    if (entry / "ns/net").stat().st_ino == self.inode:
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.wait()
        assert self.keeper.stdout is not None
        self.keeper.stdout.close()


class Network:
    """The bridge that joins the hosts."""

    def __init__(self) -> None:
        self.space = Namespace()
        self.space.ip("link", "add", "br0", "type", "bridge")
        self.space.ip("link", "set", "br0", "up")
        self._hosts: list[NetHost] = []

    def host(self, name: str, directory: Path) -> NetHost:
        made = NetHost(self, name, len(self._hosts) + 1, directory)
        self._hosts.append(made)
        return made

    def close(self) -> None:
        for host in reversed(self._hosts):
            host.end()
        for host in self._hosts:
            host.space.close()
        self.space.close()


class NetHost(Host):
    """One host."""

    def __init__(self, network: Network, name: str, number: int, directory: Path) -> None:
        super().__init__(name, directory)
        self.space = Namespace()
        self.address = f"10.77.0.{number}"
        self._network = network
        self._port = f"p{number}"
        peer = ("type", "veth", "peer", "eth0", "netns", str(self.space.pid))
        network.space.ip("link", "add", self._port, *peer)
        network.space.ip("link", "set", self._port, "master", "br0", "up")
        self.space.ip("addr", "add", f"{self.address}/24", "dev", "eth0")
        self.space.ip("link", "set", "eth0", "up")

    def python(self, *words: str) -> list[str]:
        return self.space.words(*super().python(*words))

    def program(self, code: str) -> Any:
        """Run a program that uses the cluster; its last line is JSON."""
        done = subprocess.run(
            self.python("-c", PROGRAM + code),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_S * 2,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def start_program(self, code: str, *, errors: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.python("-c", PROGRAM + code),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else None,
            text=True,
        )

    def up(self, *words: str) -> str:
        return self.take_part("up", "--listen", self.address, "--port", str(PORT), *words)

    def join(self, head: NetHost, *words: str) -> str:
        return self.take_part("join", f"{head.address}:{PORT}", "--token", str(head.token), *words)

    def running(self) -> set[str]:
        """The sandboxes that the host itself says are running."""
        lines = json.loads(self.run("ls", "--json").stdout)
        return {line["name"] for line in lines if line["state"] == "running"}

    def engines(self) -> set[str]:
        """The names of the sandboxes whose engines exist in this host's namespace, whatever any registry says."""
        found = set()
        for pid in self.space.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if "ballonet" in words and "sandbox" in words and state not in "ZX":
                    found |= {words[at + 1] for at, word in enumerate(words) if word == "--name"}
        return found

    def cut(self) -> None:
        """Take the cable out at the switch."""
        self._network.space.ip("link", "set", self._port, "down")

    def mend(self) -> None:
        self._network.space.ip("link", "set", self._port, "up")

    def signal_all(self, number: int) -> None:
        for pid in self.space.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def lose_power(self) -> None:
        """Kill all processes of the host, which keeps its disks."""
        while pids := self.space.pids():
            self.signal_all(signal.SIGKILL)
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.05)
            if self.process is not None:
                self.process.poll()

    def end_process(self) -> None:
        """End ``up`` or ``join``, as Ctrl-C does."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)

    def end(self) -> None:
        self.signal_all(signal.SIGCONT)
        self.end_process()
        self.lose_power()
        for stream in () if self.process is None else (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def eventually(check: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Wait until ``check`` returns something true."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.5)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()
