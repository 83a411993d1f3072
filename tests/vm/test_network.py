"""The user network: what a guest reaches, and what reaches it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.errors import BindError
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from ballonet.vmm.attach import Port

Call = Callable[..., subprocess.CompletedProcess[str]]
ANSWER = b"HTTP/1.0 200 OK\r\n\r\nfrom the host's loopback\n"


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A service of the host on 127.0.0.1 that answers every connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        # What was sent and not read would reset the connection, perhaps before the answer is read.
                        connection.settimeout(10)
                        while (piece := connection.recv(65536)) and b"\r\n\r\n" not in piece:
                            pass
                        connection.sendall(ANSWER)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def connected(guest: object, run_directory: Path) -> AsyncIterator[Sandbox]:
    async with await Sandbox.create("connected", ports=["0:80"]) as running:
        yield running


async def run(sandbox: Sandbox, script: str, status: int = 0) -> str:
    result = await sandbox.shell(script)
    assert result.returncode == status, result
    return result.stdout.decode()


async def fetch(port: Port) -> bytes:
    reader, writer = await asyncio.open_connection(port.address, port.host)
    writer.write(b"GET /page HTTP/1.0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


async def test_a_published_port_leads_into_the_guest_from_loopback_only(connected: Sandbox) -> None:
    await run(connected, "mkdir -p /www && echo from the guest > /www/page && httpd -h /www")
    (tcp,) = connected.ports
    assert (tcp.address, tcp.guest, tcp.protocol) == ("127.0.0.1", 80, "tcp")
    assert (await fetch(tcp)).endswith(b"from the guest\n")
    listeners = Path("/proc/net/tcp").read_text()
    assert f"0100007F:{tcp.host:04X} 00000000:0000 0A" in listeners
    assert f"00000000:{tcp.host:04X} 00000000:0000 0A" not in listeners


async def test_the_hosts_loopback_is_closed(connected: Sandbox) -> None:
    with listening() as port:
        result = await connected.shell(f"nc -w 5 10.0.2.2 {port} </dev/null")
        assert b"Connection refused" in result.stderr


async def test_the_guest_knows_its_name_and_address(connected: Sandbox) -> None:
    assert await run(connected, "hostname; cat /etc/resolv.conf; grep connected /etc/hosts") == (
        "connected\nnameserver 10.0.2.3\n10.0.2.15\tconnected\n"
    )


async def test_an_isolated_guest_is_reached_and_reaches_nothing(guest: object, run_directory: Path) -> None:
    async with await Sandbox.create("isolated", net="isolated", ports=["0:80"]) as box:
        await run(box, "mkdir -p /www && echo still served > /www/page && httpd -h /www")
        assert (await fetch(box.ports[0])).endswith(b"still served\n")
        with listening() as port:
            # The gateway answers for nobody: neither for the host's loopback, nor as a name server.
            await run(box, f"nc -w 5 10.0.2.2 {port} </dev/null", 1)
            await run(box, "nslookup -timeout=2 -retry=1 example.test 10.0.2.3 >/dev/null 2>&1", 1)


async def test_a_port_in_use_is_refused_before_anything_boots(guest: object, run_directory: Path) -> None:
    with (
        listening() as port,
        pytest.raises(BindError, match=f"127.0.0.1:{port}/tcp cannot be published: Address already in use"),
    ):
        await Sandbox.create("taken", ports=[f"{port}:80"])
    with Registry.open() as registry:
        assert registry.find("taken") is None


_NAME_SERVER = """
import socket, struct
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, client = server.recvfrom(512)
    end = query.index(b"\\0", 12) + 5
    is_a = query[end - 4 : end - 2] == b"\\0\\1"
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes([192, 0, 2, 7])
    counts = struct.pack(">HHHH", 1, is_a, 0, 0)
    server.sendto(query[:2] + b"\\x81\\x80" + counts + query[12:end] + answer * is_a, client)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have another /etc/resolv.conf for a while")
def test_names_are_resolved_by_the_hosts_name_server(
    guest: object, run_directory: Path, tmp_path: Path
) -> None:
    """In a mount namespace and a network of its own, whose one name server is ours."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "server.py").write_text(_NAME_SERVER)
    script = f"""
ip link set lo up
mount --bind {tmp_path}/resolv.conf /etc/resolv.conf
{sys.executable} {tmp_path}/server.py > {tmp_path}/log & server=$!
trap 'kill $server' EXIT
until grep -q ready {tmp_path}/log; do sleep 0.05; done
{sys.executable} -P -m ballonet run --net user -- nslookup example.test
"""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done
    assert "192.0.2.7" in done.stdout
