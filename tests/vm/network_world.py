"""A host with networks around it, for tests: two network namespaces, in one of which ballonet runs.

``Host`` is the namespace of the host: a loopback, and the addresses 203.0.113.1 and 203.0.113.2, with a service on
port 8080 of each, over TCP and UDP. ``far`` is everything else, on the other end of a link: "the internet"
(:data:`PUBLIC`), private networks (:data:`PRIVATE`) and the metadata of a cloud (:data:`METADATA`), with a service on
ports 80 and 443 of each. The services answer with the address that they were reached at, and write it down.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Not of a documentation network: the name server takes those for private.
PUBLIC, OTHER_PUBLIC = "5.5.5.7", "5.5.5.8"
PRIVATE = ("10.1.2.3", "172.16.5.6", "192.168.7.8", "100.64.9.9", "198.18.1.1")
METADATA = "169.254.169.254"
FAR = (PUBLIC, OTHER_PUBLIC, METADATA, *PRIVATE)
HOST = ("203.0.113.1", "203.0.113.2")
#: What the host's name server answers.
NAMES = {
    "allowed.test": PUBLIC,
    "sub.allowed.test": OTHER_PUBLIC,
    "deep.below.test": OTHER_PUBLIC,
    "below.test": PUBLIC,
    "rebound.test": PRIVATE[0],
    "local.test": "127.0.0.1",
    "metadata.test": METADATA,
    "hosts-own.test": HOST[0],
    "forbidden.test": PUBLIC,
    **dict.fromkeys(("deb.test", "index.test", "files.test", "npm.test", "git.test"), PUBLIC),
}

_SERVICE = """
import asyncio, socket, sys
log = open(sys.argv[1], "a", buffering=1)
async def serve(reader, writer):
    address, port = writer.get_extra_info("sockname")[:2]
    print(f"tcp {address} {port}", file=log)
    try:
        while line := await reader.readline():
            writer.write(f"{address}\\n".encode() if line.strip() != b"GET / HTTP/1.1" else
                b"HTTP/1.0 200 OK\\r\\n\\r\\n%s\\n" % address.encode())
            await writer.drain()
            if line.startswith(b"GET "):
                break
    except OSError:
        print(f"reset {address} {port}", file=log)
    print(f"closed {address} {port}", file=log)
    writer.close()
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, source):
        print(f"udp {self.transport.get_extra_info('sockname')[1]} {data.decode(errors='replace').strip()}", file=log)
        self.transport.sendto(b"answer\\n", source)
async def main():
    loop = asyncio.get_running_loop()
    for port in map(int, sys.argv[3:]):
        await asyncio.start_server(serve, "0.0.0.0", port)
        for address in sys.argv[2].split(","):
            await loop.create_datagram_endpoint(Datagrams, local_addr=(address, port))
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

_FILES = """
import functools, http.server, sys
class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *arguments):
        print(format % arguments, file=open(sys.argv[1], "a"))
handler = functools.partial(Files, directory=sys.argv[2])
server = http.server.ThreadingHTTPServer((sys.argv[3], int(sys.argv[4])), handler)
print("ready", flush=True)
server.serve_forever()
"""

_NAME_SERVER = """
import json, socket, struct, sys
names = json.loads(sys.argv[2])
log = open(sys.argv[1], "a", buffering=1)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(4096)
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode()); at += 1 + query[at]
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    name = ".".join(labels).lower()
    print(name, kind, query[at + 5 :].hex(), file=log)
    address = names.get(name)
    found = address is not None and kind == 1
    head = query[:2] + (b"\\x81\\x80" if address else b"\\x81\\x83") + struct.pack(">HHHH", 1, found, 0, 0)
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton(address) if found else b""
    server.sendto(head + query[12 : at + 5] + answer, client)
"""


class World:
    """Made by :func:`network_world`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[str]] = []
        resolv = directory / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.1\n")
        self.host = self._start(
            "unshare", "--mount", "--net", "sh", "-c",
            f"mount --bind {resolv} /etc/resolv.conf && ip link set lo up && echo ready && exec sleep infinity",
        ).pid  # fmt: skip
        self.far = self._start("unshare", "--net", "sh", "-c", "echo ready && exec sleep infinity").pid
        self.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", str(self.far))
        for address in HOST:
            self.run("ip", "addr", "add", f"{address}/24", "dev", "out")
        self.run("ip", "link", "set", "out", "up")
        self.run("ip", "route", "add", "default", "via", "203.0.113.254")
        for words in (
            "link set lo up", "link set in up", "addr add 203.0.113.254/24 dev in",
            *(f"addr add {address}/32 dev lo" for address in FAR),
        ):  # fmt: skip
            self.run("ip", *words.split(), at=self.far)
        self._serve(self.far, "far", _SERVICE, ",".join(FAR), "80", "443")
        self._serve(self.host, "host", _SERVICE, ",".join(("127.0.0.1", *HOST)), "8080")
        self._serve(self.host, "names", _NAME_SERVER, json.dumps(NAMES))

    def run(
        self, *words: str, at: int | None = None, check: bool = True, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host's namespace, or in another process's."""
        done = subprocess.run(
            [*self.entering(at), *words],
            capture_output=True,
            text=True,
            timeout=480,
            check=False,
            input=stdin,
        )
        assert not check or done.returncode == 0, done
        return done

    def ballonet(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-P", "-m", "ballonet", *words, check=check)

    def guest(self, name: str, script: str, *, check: bool = True) -> str:
        """The output of a shell script in a sandbox, standard error included."""
        done = self.ballonet("exec", name, "--", "sh", "-c", f"exec 2>&1; {script}", check=check)
        return done.stdout

    def inspect(self, name: str) -> Mapping[str, object]:
        (found,) = json.loads(self.ballonet("inspect", name).stdout)
        assert isinstance(found, dict)
        return found

    def serve_files(self, directory: Path, address: str, port: int) -> None:
        """Serve a directory over HTTP, at an address that is not the host's."""
        self._serve(self.far, "files", _FILES, str(directory), address, str(port))

    def log(self, of: str) -> list[str]:
        """What a service has written down: ``far``, ``host`` or ``names``."""
        path = self.directory / f"{of}.log"
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def entering(self, at: int | None = None) -> list[str]:
        """The beginning of a command that runs in the host's namespace, or in another process's."""
        return [
            "nsenter",
            "--target",
            str(at or self.host),
            "--net",
            *(["--mount"] if at is None else []),
            "--",
        ]

    def _serve(self, at: int, name: str, script: str, *words: str) -> None:
        log = str(self.directory / f"{name}.log")
        self._start(*self.entering(at), sys.executable, "-c", script, log, *words)

    def _start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", words
        return process


@contextlib.contextmanager
def network_world(directory: Path) -> Iterator[World]:
    assert os.geteuid() == 0
    world = World(directory)
    try:
        yield world
    finally:
        world.close()
