"""Streams of the HTTP server with a real sandbox: output, terminals, files and events, with clients that are slow, that
leave and that come back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.serve_client import ServerProcess, new_token

pytestmark = pytest.mark.extended


@pytest_asyncio.fixture(loop_scope="session")
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with server.local() as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def at(server: ServerProcess) -> AsyncIterator[str]:
    """The path of a sandbox."""
    async with server.local() as client:
        made = await client.post(
            "/v1/sandboxes", json={"name": "streamed", "memory": 256, "balloon": {"min": 128}}
        )
        assert made.status_code == 201, made.text
        yield "/v1/sandboxes/streamed"
        assert (await client.delete("/v1/sandboxes/streamed?force=true")).status_code == 204


async def start(http: httpx.AsyncClient, at: str, script: str, **body: Any) -> str:
    """Start a shell script; returns the path of the command."""
    made = await http.post(f"{at}/execs", json={"argv": ["sh", "-c", script], **body})
    assert made.status_code == 201, made.text
    return str(made.headers["location"])


class Events:
    """The server-sent events of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        #: The id of the last event.
        self.last = ""

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> tuple[str, Any]:
        kind, data = "", ""
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                self.last = value
            elif name == "data":
                data = value
            elif not line and data:
                return kind, json.loads(data)
        raise StopAsyncIteration

    async def until(self, kind: str, **wanted: Any) -> dict[str, Any]:
        """The next event of this kind with these values."""
        async for found, data in self:
            if found == kind and all(data.get(name) == value for name, value in wanted.items()):
                assert isinstance(data, dict)
                return data
        raise AssertionError(f"no event {kind} with {wanted}")


def content(data: dict[str, str]) -> bytes:
    return base64.b64decode(data["base64"]) if "base64" in data else data["text"].encode()


async def collected(http: httpx.AsyncClient, path: str) -> tuple[bytes, bytes, dict[str, Any]]:
    """Both outputs of a command, and its last event."""
    out = {"stdout": b"", "stderr": b""}
    async with http.stream("GET", f"{path}/output") as response:
        assert response.headers["content-type"] == "text/event-stream"
        async for kind, data in Events(response):
            if kind not in out:
                return out["stdout"], out["stderr"], data
            out[kind] += content(data)
    raise AssertionError("the stream ended without its last event")


# Commands


async def test_output_and_input_are_streamed(http: httpx.AsyncClient, at: str) -> None:
    path = await start(http, at, "read line; echo got $line; echo err >&2; cat; exit 4", stdin=True)
    assert (await http.post(f"{path}/stdin", content=b"one\n")).status_code == 204
    assert (await http.post(f"{path}/stdin?end=true", content=b"\377two")).status_code == 204
    out, err, end = await collected(http, path)
    assert (out, err, end) == (b"got one\n\377two", b"err\n", {"returncode": 4, "timed_out": False})
    shown = (await http.get(path)).json()
    assert shown["returncode"] == 4 and shown["ended_at"]
    assert (await http.delete(path)).status_code == 204
    assert (await http.get(path)).json()["code"] == "unknown-exec"


async def test_a_stopped_reader_loses_nothing(http: httpx.AsyncClient, at: str) -> None:
    """The command waits for its reader; a second one continues after the last event that the first one has read."""
    path = await start(http, at, "seq 1 200000")
    out = b""
    async with http.stream("GET", f"{path}/output") as response:
        events = Events(response)
        for _ in range(3):
            out += content((await anext(events))[1])
        last = events.last
    assert (await http.get(path)).json()["ended_at"] is None, "it waits"
    async with http.stream("GET", f"{path}/output", headers={"Last-Event-ID": last}) as response:
        async for kind, data in Events(response):
            if kind != "stdout":
                assert data["returncode"] == 0
                break
            out += content(data)
    assert out == b"".join(b"%d\n" % number for number in range(1, 200001))
    late = await http.get(f"{path}/output?after=0")
    assert (late.status_code, late.json()["code"]) == (410, "output-lost")


async def test_a_command_that_nobody_reads_is_ended(http: httpx.AsyncClient, at: str) -> None:
    path = await start(http, at, "sleep 1000", unattended_s=1)
    while (await http.get(path)).status_code != 404:
        await asyncio.sleep(0.2)


async def test_signals_and_timeouts(http: httpx.AsyncClient, at: str) -> None:
    path = await start(http, at, "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    async with http.stream("GET", f"{path}/output") as response:
        events = Events(response)
        assert await anext(events) == ("stdout", {"text": "ready\n"})
        assert (await http.post(f"{path}/signal", json={"signal": "TERM"})).status_code == 204
        assert await events.until("stdout", text="caught\n")
        assert await events.until("exit", returncode=5)
    odd = await http.post(f"{path}/signal", json={"signal": "NOSUCH"})
    assert (odd.status_code, odd.json()["code"]) == (400, "invalid-request")
    path = await start(http, at, "echo begun; sleep 1000", timeout_s=1)
    out, _, end = await collected(http, path)
    assert (out, end) == (b"begun\n", {"returncode": None, "timed_out": True})


async def test_a_sandbox_has_a_limited_number_of_commands(
    guest: object, run_directory: Path, tmp_path: Path, at: str
) -> None:
    with ServerProcess(tmp_path, "--max-execs", "2") as limited:
        async with limited.local() as http:
            paths = [await start(http, at, "sleep 1000") for _ in range(2)]
            full = await http.post(f"{at}/exec", json={"argv": ["true"]})
            assert (full.status_code, full.json()["code"]) == (429, "too-many-execs")
            assert (await http.delete(paths[0])).status_code == 204
            assert (await http.post(f"{at}/exec", json={"argv": ["true"]})).json()["returncode"] == 0


# Terminals


def socket_of(server: ServerProcess, path: str) -> connect:
    return unix_connect(str(server.socket), uri=f"ws://ballonet{path}/attach")


async def read_until(socket: ClientConnection, wanted: bytes) -> bytes:
    out = b""
    while wanted not in out:
        message = await socket.recv()
        assert isinstance(message, bytes), message
        assert message[0] == 1
        out += message[1:]
    return out


async def test_a_terminal(http: httpx.AsyncClient, server: ServerProcess, at: str) -> None:
    made = await http.post(f"{at}/execs", json={"argv": ["sh"], "tty": True, "rows": 30, "cols": 90})
    path = made.headers["location"]
    async with socket_of(server, path) as socket:
        await socket.send(b"\0stty size; echo do''ne\n")
        assert b"30 90" in await read_until(socket, b"done\r\n")
        await socket.send(json.dumps({"resize": {"rows": 40, "cols": 100}}))
        await socket.send(b"\0stty size; echo do''ne2\n")
        assert b"40 100" in await read_until(socket, b"done2\r\n")
        await socket.send(b"\0echo sle''ep; sleep 1000\n")
        await read_until(socket, b"sleep\r\n")
        await socket.send(b"\0\x03")  # Ctrl-C
        await socket.send(b"\0x=kept; echo do''ne3\n")
        await read_until(socket, b"done3\r\n")
    # The terminal goes on without its client.
    async with socket_of(server, path) as socket:
        await socket.send(b"\0echo [$x]; exit 6\n")
        await read_until(socket, b"[kept]")
        with pytest.raises(ConnectionClosed):
            while True:
                last = await socket.recv()
    assert json.loads(last) == {"exit": {"returncode": 6, "timed_out": False}}


async def test_an_invalid_message_is_told(http: httpx.AsyncClient, server: ServerProcess, at: str) -> None:
    path = await start(http, at, "cat", stdin=True)
    for message in (b"\7what", '{"odd": 1}', "[", b""):
        async with socket_of(server, path) as socket:
            await socket.send(message)
            assert json.loads(await socket.recv())["error"]["code"] == "invalid-request"
    assert (await http.delete(path)).status_code == 204


async def test_a_page_of_another_site_gets_no_terminal(
    http: httpx.AsyncClient, server: ServerProcess, at: str
) -> None:
    path = await start(http, at, "cat", stdin=True)
    token, weak = new_token("--scope", "use"), new_token("--scope", "read")
    uri = server.address.replace("http", "ws") + path + "/attach"

    async def status(origin: str | None = None, protocols: list[str] | None = None) -> int:
        try:
            async with connect(uri, origin=origin, subprotocols=protocols):  # type: ignore[arg-type]
                return 101
        except InvalidStatus as error:
            return error.response.status_code

    good = ["ballonet.v1", f"ballonet.token.{token}"]
    assert await status() == 401
    assert await status(protocols=good) == 101
    assert await status(origin=server.address, protocols=good) == 101
    assert await status(origin="http://evil.example", protocols=good) == 403
    assert await status(protocols=["ballonet.v1", f"ballonet.token.{weak}"]) == 403
    assert await status(protocols=["ballonet.v1", "ballonet.token.wrong"]) == 401
    assert (await http.delete(path)).status_code == 204


async def test_the_log_of_the_sandboxs_own_command(http: httpx.AsyncClient, at: str) -> None:
    argv = ["sh", "-c", "seq 1 5; echo err >&2; sleep 1; printf end"]
    made = await http.post("/v1/sandboxes", json={"name": "logged", "memory": 128, "command": argv})
    assert made.status_code == 201, made.text
    try:
        followed: dict[str, list[str]] = {"stdout": [], "stderr": [], "end": []}
        async with http.stream("GET", "/v1/sandboxes/logged/logs?follow=true") as response:
            async for kind, data in Events(response):
                followed[kind].append(data.get("text", ""))
        assert followed == {"stdout": [*"12345", "end"], "stderr": ["err"], "end": [""]}
        last = [event async for event in Events(await http.get("/v1/sandboxes/logged/logs?tail=1"))]
        assert [data["text"] for kind, data in last if kind != "end"] == ["end"]
        without = await http.get(f"{at}/logs")
        assert (without.status_code, without.json()["code"]) == (400, "config")
    finally:
        assert (await http.delete("/v1/sandboxes/logged?force=true")).status_code == 204


# Files


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def test_files_are_streamed_in_both_directions(
    http: httpx.AsyncClient, server: ServerProcess, at: str
) -> None:
    """More than the server may take in memory, there and back."""
    piece = bytes(range(256)) * 4096
    count = 48
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(count):
            part = bytes([number]) + piece[1:]
            sent.update(part)
            yield part

    before = resident_kib(server.pid)
    size = count * len(piece)
    put = await http.put(f"{at}/files", params={"path": "/tmp/big"}, content=pieces())
    assert put.status_code == 204, put.text
    async with http.stream("GET", f"{at}/files", params={"path": "/tmp/big"}) as response:
        assert int(response.headers["content-length"]) == size
        async for part in response.aiter_bytes():
            received.update(part)
    assert received.digest() == sent.digest()
    assert resident_kib(server.pid) - before < size // 1024 // 2, "it is not kept in memory"
    middle = await http.get(f"{at}/files", params={"path": "/tmp/big"}, headers={"Range": "bytes=256-511"})
    assert (middle.status_code, middle.content) == (206, bytes(range(256)))
    assert middle.headers["content-range"] == f"bytes 256-511/{size}"
    last = await http.get(f"{at}/files", params={"path": "/tmp/big"}, headers={"Range": "bytes=-3"})
    assert (last.status_code, last.content) == (206, b"\xfd\xfe\xff")
    # No validator of an older version can match: the whole file is sent.
    since = {"Range": "bytes=0-1", "If-Range": '"old"'}
    async with http.stream("GET", f"{at}/files", params={"path": "/tmp/big"}, headers=since) as response:
        assert (response.status_code, int(response.headers["content-length"])) == (200, size)
    beyond = await http.get(f"{at}/files", params={"path": "/tmp/big"}, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range")
    assert (await http.delete(f"{at}/files?path=/tmp/big")).status_code == 204


async def test_an_upload_that_breaks_off_changes_nothing(http: httpx.AsyncClient, at: str) -> None:
    await http.put(f"{at}/files", params={"path": "/tmp/kept"}, content=b"old")

    async def broken() -> AsyncIterator[bytes]:
        yield b"new" * 100000
        raise RuntimeError("the client fails")

    with pytest.raises(RuntimeError):
        await http.put(f"{at}/files", params={"path": "/tmp/kept"}, content=broken())
    assert (await http.get(f"{at}/files?path=/tmp/kept")).content == b"old"


async def test_directories_and_odd_paths(http: httpx.AsyncClient, at: str) -> None:
    assert (
        await http.post(f"{at}/files/mkdir", json={"path": "/tmp/d/e", "parents": True})
    ).status_code == 204
    await http.put(f"{at}/files", params={"path": "/tmp/d/f", "mode": "600"}, content=b"x")
    listed = (await http.get(f"{at}/files/list?path=/tmp/d")).json()
    assert [(each["name"], each["kind"]) for each in listed] == [("e", "directory"), ("f", "file")]
    described = (await http.get(f"{at}/files/stat?path=/tmp/d/f")).json()
    assert (described["size"], described["mode"]) == (1, 0o600)
    archive = await http.get(f"{at}/archive?path=/tmp/d")
    assert archive.status_code == 200 and b"d/f" in archive.content
    assert (await http.put(f"{at}/archive?path=/tmp/d/e", content=archive.content)).status_code == 204
    assert (await http.get(f"{at}/files?path=/tmp/d/e/d/f")).content == b"x"
    for path, code in (("/tmp/none", "not-found"), ("/tmp/d", "guest-file"), ("/a\0b", "config")):
        assert (await http.get(f"{at}/files", params={"path": path})).json()["code"] == code
    # A path never leaves the guest.
    up = await http.get(f"{at}/files", params={"path": "/../../../../../../proc/sys/kernel/hostname"})
    assert up.content.strip() == b"streamed"
    assert (await http.delete(f"{at}/files?path=/tmp/d&recursive=true")).status_code == 204


# Events


async def test_events_of_all_sandboxes(http: httpx.AsyncClient, at: str) -> None:
    async with http.stream("GET", "/v1/events") as response:
        events = Events(response)
        await http.post("/v1/sandboxes", json={"name": "brief", "memory": 128, "start": False})
        await events.until("created", name="brief")
        last = events.last
        await http.put(f"{at}/balloon", json={"target": 200})
        moved = await events.until("balloon", name="streamed", target_mib=200)
        assert moved["state"] in ("converging", "applied")
        await http.delete("/v1/sandboxes/brief")
        await events.until("removed", name="brief")
    # Whoever comes back continues where it was.
    async with http.stream("GET", "/v1/events", headers={"Last-Event-ID": last}) as response:
        events = Events(response)
        await events.until("balloon", name="streamed", target_mib=200)
        await events.until("removed", name="brief")
    async with http.stream("GET", "/v1/events?after=00000000-7") as response:
        assert (await anext(Events(response)))[0] == "reset"


async def test_events_outlive_the_server(http: httpx.AsyncClient, at: str, tmp_path: Path) -> None:
    """A client continues at another server, which was started later, with all that happened in between."""
    with ServerProcess(tmp_path) as first:
        async with first.local() as client, client.stream("GET", "/v1/events") as response:
            position = response.headers["last-event-id"]
            made = await http.post("/v1/sandboxes", json={"name": "outlived", "memory": 128, "start": False})
            assert made.status_code == 201, made.text
            events = Events(response)
            await events.until("created", name="outlived")
            assert int(events.last) > int(position)
            first.kill()
    await http.post("/v1/sandboxes/outlived/start")
    await http.delete("/v1/sandboxes/outlived?force=true")
    wanted = ["created", "started", "state", "removed"]
    with ServerProcess(tmp_path) as second:
        async with second.local() as client:
            # From before the first event, which the other server sent: nothing depends on what this one has seen.
            async with client.stream("GET", "/v1/events", headers={"Last-Event-ID": position}) as response:
                found = []
                async for kind, data in Events(response):
                    if data.get("name") == "outlived" and kind != "balloon":
                        found.append((kind, data))
                    if kind == "removed" and data["name"] == "outlived":
                        break
            recorded = await client.get("/v1/events", params={"after": events.last, "follow": "false"})
    kinds = [kind for kind, _ in found]
    assert kinds[0] == "created" and kinds[-1] == "removed" and set(wanted) <= set(kinds), kinds
    assert next(data["state"] for kind, data in found if kind == "state") == "running"
    again = [each async for each in Events(recorded) if each[1].get("name") == "outlived"]
    assert again == found[1:]


async def test_readers_that_do_not_read_delay_nobody(
    http: httpx.AsyncClient, server: ServerProcess, at: str
) -> None:
    """200 clients open the stream of events and never read it."""
    idle = []
    for _ in range(200):
        reader, writer = await asyncio.open_unix_connection(str(server.socket))
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.append((reader, writer))
    async with http.stream("GET", "/v1/events") as response:
        events = Events(response)
        for target in (180, 190, 200):
            await http.put(f"{at}/balloon", json={"target": target, "wait": True})
            await events.until("balloon", target_mib=target)
    assert (await http.post(f"{at}/exec", json={"argv": ["echo", "x"]})).json()["stdout"] == "x\n"
    for _, writer in idle:
        writer.close()


async def test_a_balloon_is_watched(http: httpx.AsyncClient, at: str) -> None:
    async with http.stream("GET", f"{at}/balloon/watch") as response:
        events = Events(response)
        assert (await anext(events))[1]["ceiling_mib"] == 256
        await http.put(f"{at}/balloon", json={"target": 170})
        await events.until("balloon", target_mib=170)


async def test_streams_end_when_the_server_stops(
    guest: object, run_directory: Path, tmp_path: Path, at: str
) -> None:
    with ServerProcess(tmp_path) as server:
        async with server.local() as http, http.stream("GET", "/v1/events") as response:
            lines = response.aiter_lines()
            await anext(lines)
            assert await asyncio.to_thread(server.stop) == 0
            with pytest.raises((httpx.RemoteProtocolError, StopAsyncIteration)):
                while True:
                    await anext(lines)
