"""The edges of the HTTP server: TLS, limits, clients that send half of a request, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.certificates import make_certificate
from tests.serve_client import ServerProcess, new_token

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def registered(guest: object, run_directory: Path) -> Iterator[str]:
    with Registry.open() as registry:
        lifecycle.create(registry, SandboxConfig(name="idle", memory_mib=128))
    yield "idle"
    asyncio.run(Sandbox.remove("idle", force=True))


async def test_tls(registered: str, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    token = new_token()
    with ServerProcess(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        assert server.address.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        headers = {"Authorization": f"Bearer {token}", "Origin": server.address}
        async with httpx.AsyncClient(base_url=server.address, verify=context, headers=headers) as http:
            assert registered in [each["name"] for each in (await http.get("/v1/sandboxes")).json()]
        async with httpx.AsyncClient(base_url=server.address.replace("https", "http")) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get("/v1/health")


async def test_bodies_and_requests_are_limited(registered: str, tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--max-requests", "3", "--max-upload", "1M") as server:
        async with server.local() as http:
            large = b'{"argv": ["' + b"x" * (4 << 20) + b'"]}'
            kind = {"Content-Type": "application/json"}
            refused = await http.post("/v1/sandboxes/idle/exec", content=large, headers=kind)
            assert (refused.status_code, refused.json()["code"]) == (413, "too-large")

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(80):
                    yield b" " * 65536

            refused = await http.post("/v1/sandboxes/idle/exec", content=pieces(), headers=kind)
            assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
            streams = []
            for _ in range(3):
                request = http.build_request("GET", "/v1/events")
                streams.append(await http.send(request, stream=True))
            full = await http.get("/v1/health")
            assert (full.status_code, full.json()["code"]) == (503, "too-many-requests")
            assert full.headers["retry-after"] == "1"
            for stream in streams:
                await stream.aclose()
            while (await http.get("/v1/health")).status_code != 200:
                await asyncio.sleep(0.05)


async def test_pages_of_a_permitted_origin_can_use_the_server(registered: str, tmp_path: Path) -> None:
    page, other = {"Origin": "https://page.example"}, {"Origin": "https://other.example"}
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    token = new_token("--scope", "read")
    with ServerProcess(tmp_path, "--allow-origin", "https://page.example") as server:
        async with server.remote() as http:
            preflight = await http.options("/v1/sandboxes", headers=page | asked)
            assert preflight.status_code == 204
            assert "Authorization" in preflight.headers["access-control-allow-headers"]
            given = {"Authorization": f"Bearer {token}"}
            answer = await http.get("/v1/sandboxes", headers=page | given)
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            assert registered in [each["name"] for each in answer.json()]
            assert (await http.get("/v1/sandboxes", headers=page)).status_code == 401
            for headers in (other | asked, other | given):
                refused = await http.options("/v1/sandboxes", headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (403, "origin-refused")
                assert "access-control-allow-origin" not in refused.headers


async def test_half_a_request_delays_nobody(registered: str, tmp_path: Path) -> None:
    """Clients that send half of a head or of a body, close one direction, or send no HTTP at all."""
    halves = [
        b"",
        b"GET /v1/sandboxes HT",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        b"PUT /v1/sandboxes/idle/files?path=/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nx",
        b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\1\2\3" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000,
    ]
    with ServerProcess(tmp_path) as server:
        open_ends = []
        for half in halves:
            for close in (False, True):
                reader, writer = await asyncio.open_unix_connection(str(server.socket))
                writer.write(half)
                if close:
                    writer.write_eof()
                open_ends.append((reader, writer))
        async with server.local() as http:
            assert (await http.get("/v1/sandboxes/idle")).json()["state"] == "created"
            for _, writer in open_ends:
                writer.transport.abort()
            assert (await http.get("/v1/sandboxes/idle")).status_code == 200


async def test_a_second_server_on_the_socket_is_refused(registered: str, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        words = ["ballonet", "serve", "--socket", str(server.socket)]
        second = subprocess.run(
            [sys.executable, "-P", "-m", *words], capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert "another server" in second.stderr
    with ServerProcess(tmp_path) as server:
        server.kill()
        assert server.socket.exists()
    with ServerProcess(tmp_path) as server:  # what the killed one has left is replaced
        assert server.stop() == 0
        assert not server.socket.exists()


async def test_a_request_in_progress_is_answered_when_the_server_stops(
    registered: str, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path) as server:
        async with server.local() as http:
            assert (await http.post("/v1/sandboxes/idle/start")).status_code == 200
            request = {"argv": ["sleep", "1000"]}
            running = asyncio.create_task(http.post("/v1/sandboxes/idle/exec", json=request))
            while True:  # until it runs in the guest
                script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f 2>/dev/null; echo; done'
                shown = await http.post("/v1/sandboxes/idle/exec", json={"argv": ["sh", "-c", script]})
                if "sleep 1000 " in shown.json()["stdout"].splitlines():
                    break
            os.kill(server.pid, signal.SIGTERM)
            answer = await running
            assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
            assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert (await Sandbox.get("idle")).pid
