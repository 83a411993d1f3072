"""The HTTP server's proxy to published ports, with a real program in a real guest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import unix_connect

from tests.serve_client import ServerProcess, new_token

pytestmark = pytest.mark.extended

#: Answers with what it was sent; as a WebSocket, sends back each (short) message.
PROGRAM = r"""
import base64, hashlib, http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            return self.echo()
        if self.path.startswith("/big"):
            self.send_response(200)
            self.send_header("Content-Length", str(8 << 20))
            self.end_headers()
            for _ in range(128):
                self.wfile.write(b"z" * 65536)
            return
        if self.path == "/broken":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
            self.close_connection = True
            return
        if self.path == "/garbage":
            self.wfile.write(b"\0\1\2 no HTTP\r\n\r\n")
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        said = json.dumps({"method": self.command, "path": self.path, "size": len(body),
                           "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(203)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.send_header("Set-Cookie", "session=guest; Path=/")
        self.send_header("X-Guest", "yes")
        self.end_headers()
        self.wfile.write(said)

    do_POST = do_PUT = do_DELETE = do_GET

    def echo(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            mask, data = self.rfile.read(4), bytearray(self.rfile.read(head[1] & 127))
            for at in range(len(data)):
                data[at] ^= mask[at % 4]
            self.wfile.write(bytes([head[0], len(data)]) + data)
            if head[0] & 15 == 8:
                return

server = http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def server(
    guest: object, debian_image: str, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with server.local() as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def at(server: ServerProcess, debian_image: str) -> AsyncIterator[str]:
    """The path of the port of a sandbox in which the program runs."""
    async with server.local() as http:
        body = {"name": "ported", "memory": 384, "image": debian_image, "ports": ["0:8080", "0:8081"]}
        made = await http.post("/v1/sandboxes", json=body)
        assert made.status_code == 201, made.text
        argv = ["python3", "-c", PROGRAM]
        started = await http.post("/v1/sandboxes/ported/execs", json={"argv": argv, "unattended_s": 3600})
        path = started.headers["location"]
        async with http.stream("GET", f"{path}/output") as response:
            async for line in response.aiter_lines():
                if "ready" in line:
                    break
        yield "/v1/sandboxes/ported/ports/8080"
        assert (await http.delete("/v1/sandboxes/ported?force=true")).status_code == 204


async def test_requests_are_passed_on_without_secrets(server: ServerProcess, at: str) -> None:
    token = new_token("--scope", "use")
    async with server.remote(token) as http:
        headers = {"Cookie": "a=b", "X-Own": "1", "Proxy-Authorization": "Basic eA=="}
        answer = await http.post(f"{at}/a%2Fb/c?x=%20y", content=b"12345", headers=headers)
    assert answer.status_code == 203, answer.text
    assert answer.headers["x-guest"] == "yes"
    seen = answer.json()
    assert (seen["method"], seen["size"]) == ("POST", 5)
    assert seen["path"] == "/a%2Fb/c?x=%20y"
    assert seen["headers"]["x-own"] == "1" and seen["headers"]["host"] == "localhost:8080"
    assert not {"authorization", "cookie", "proxy-authorization"} & set(seen["headers"])
    assert token not in json.dumps(seen)
    # A page of the guest is none of the server's.
    assert "set-cookie" not in answer.headers
    assert answer.headers["content-security-policy"].startswith("sandbox ")
    assert "allow-same-origin" not in answer.headers["content-security-policy"]


async def test_bodies_are_streamed(http: httpx.AsyncClient, at: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    assert (await http.put(f"{at}/up", content=pieces())).json()["size"] == 64 * 65536
    assert len((await http.get(f"{at}/big")).content) == 8 << 20
    assert (await http.get(at)).json()["path"] == "/"


async def test_a_program_that_misbehaves_is_told(http: httpx.AsyncClient, at: str) -> None:
    garbage = await http.get(f"{at}/garbage")
    assert (garbage.status_code, garbage.json()["code"]) == (502, "bad-gateway")
    with pytest.raises(httpx.RemoteProtocolError):
        await http.get(f"{at}/broken")
    nobody = await http.get("/v1/sandboxes/ported/ports/8081/")
    assert (nobody.status_code, nobody.json()["code"]) == (502, "bad-gateway")
    for port in ("9", "0", "x", "080"):
        unknown = await http.get(f"/v1/sandboxes/ported/ports/{port}/")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown-port")


async def test_only_who_may_use_a_sandbox_reaches_its_ports(server: ServerProcess, at: str) -> None:
    async with server.remote(new_token("--scope", "read")) as reader, server.remote() as nobody:
        assert (await reader.get(f"{at}/")).status_code == 403
        assert (await nobody.get(f"{at}/")).status_code == 401


async def test_web_sockets_are_passed_on(server: ServerProcess, at: str) -> None:
    async with unix_connect(str(server.socket), uri=f"ws://ballonet{at}/socket") as socket:
        await socket.send("text")
        assert await socket.recv() == "text"
        await socket.send(b"\0bytes")
        assert await socket.recv() == b"\0bytes"
