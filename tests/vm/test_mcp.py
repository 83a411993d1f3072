"""The MCP server with real sandboxes, and the SDK's own clients: over standard streams, and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ImageContent, TextContent

from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import list_sandboxes
from ballonet.sdk.sandbox import Sandbox
from tests.serve_client import ServerProcess, new_token
from tests.vm.processes import alive, children, wait_until

pytestmark = pytest.mark.extended

#: A client in a process of its own, which makes a sandbox and waits to be killed.
PROGRAM = """
import asyncio, os, sys
from mcp import Client, StdioServerParameters, stdio_client

async def main():
    words = ["-P", "-m", "ballonet", "mcp", "--memory", "256M"]
    server = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))
    async with Client(stdio_client(server)) as client:
        made = await client.call_tool("create_sandbox", {"name": sys.argv[1]})
        print(made.content[0].text, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def stdio(*words: str, mode: str = "auto") -> Client:
    server = StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "ballonet", "mcp", *words], env=dict(os.environ)
    )
    return Client(stdio_client(server), mode=mode)


async def result(client: Client, tool: str, /, **arguments: Any) -> CallToolResult:
    found = await client.call_tool(tool, arguments, read_timeout_seconds=250)
    assert isinstance(found, CallToolResult)
    return found


def texts(found: CallToolResult) -> list[str]:
    return [each.text for each in found.content if isinstance(each, TextContent)]


async def call(client: Client, tool: str, /, **arguments: Any) -> tuple[Any, str]:
    """The facts of a tool's result, and its other texts."""
    found = await result(client, tool, **arguments)
    facts, *others = texts(found)
    assert not found.is_error, facts
    return json.loads(facts), "".join(others)


async def failure(client: Client, tool: str, /, **arguments: Any) -> str:
    found = await result(client, tool, **arguments)
    assert found.is_error, found
    return "\n".join(texts(found))


def registered() -> set[str]:
    with Registry.open() as registry:
        return {record.name for record in list_sandboxes(registry)}


async def test_an_agent_works_in_a_sandbox(guest: object, run_directory: Path) -> None:
    async with stdio("--memory", "256M", "--max-sandboxes", "2") as client:
        made, _ = await call(client, "create_sandbox", name="agent-1", ports=[8000])
        assert (made["created"], made["network"], made["memory_limit_mib"]) == (True, "isolated", 256)
        again, _ = await call(client, "create_sandbox", name="agent-1")
        assert (again["created"], again["servers"]) == (False, made["servers"])
        assert "agent-1" in registered()

        facts, said = await call(client, "run_command", command="echo out; echo err >&2; exit 3")
        assert facts == {"exit_status": 3, "timed_out": False}
        assert said == "stdout:\nout\nstderr:\nerr\n"
        facts, said = await call(client, "run_command", command="echo begun; sleep 1000", timeout_s=2)
        assert facts == {"exit_status": None, "timed_out": True}
        assert said == "stdout:\nbegun\n"

        # More than the server keeps: the command waits, and nothing is lost.
        facts, said = await call(client, "run_command", command="seq 1 90000")
        whole = said.removeprefix("stdout:\n")
        while facts.get("more"):
            facts, said = await call(client, "read_output", command_id=facts["command_id"])
            assert len(said) <= 33 << 10
            whole += said.removeprefix("stdout:\n")
        assert facts["exit_status"] == 0
        assert whole == "".join(f"{number}\n" for number in range(1, 90001))

        facts, _ = await call(client, "run_command", command="echo waits; sleep 1000", wait_s=0)
        assert facts["running"]
        stopped, _ = await call(client, "stop_command", command_id=facts["command_id"])
        assert stopped == {"stopped": True}
        assert "no command" in await failure(client, "read_output", command_id=facts["command_id"])

        await call(client, "run_code", code="x=5", language="sh")
        facts, said = await call(client, "run_code", code="echo $x", language="sh")
        assert (facts, said) == ({"ok": True, "exit_status": 0}, "stdout:\n5\n")
        assert "has no python3" in await failure(client, "run_code", code="1")
        said = await failure(client, "run_code", code="echo last words; exit 4", language="sh")
        assert said.startswith("error (code-session-ended)")
        facts, said = await call(client, "run_code", code="echo [$x]", language="sh")
        assert said == "stdout:\n[]\n"

        await call(client, "write_file", path="/root/new/a.txt", content="héllo\n")
        packed = base64.b64encode(b"\xff\x00").decode()
        await call(client, "write_file", path="/root/b", content=packed, encoding="base64", executable=True)
        facts, said = await call(client, "read_file", path="/root/new/a.txt", limit=2)
        assert (said, facts["size"], facts["next_offset"]) == ("h", 7, 1)
        facts, said = await call(client, "read_file", path="/root/new/a.txt", offset=1)
        assert (said, facts.get("next_offset")) == ("éllo\n", None)
        facts, said = await call(client, "read_file", path="/root/b")
        assert (said, facts["encoding"]) == (packed, "base64")
        facts, _ = await call(client, "list_files", path="/root")
        assert [(each["name"], each["kind"], each["mode"]) for each in facts["entries"]] == [
            ("b", "file", "0755"),
            ("new", "directory", "0755"),
        ]
        assert "does not exist" in await failure(client, "read_file", path="/nowhere")

        assert "is not published" in await failure(client, "start_server", command="true", port=9)
        said = await failure(client, "start_server", command="echo no; exit 7", port=8000)
        assert "ended with exit status 7" in said
        assert "stdout:\nno" in said
        started, _ = await call(
            client, "start_server", command="exec httpd -f -p 8000 -h /root/new", port=8000
        )
        async with httpx.AsyncClient() as http:
            assert (await http.get(started["url"] + "a.txt")).text == "héllo\n"

        status, _ = await call(client, "sandbox_status")
        (shown,) = status["sandboxes"]
        memory = shown["memory"]
        assert shown["state"] == "running"
        assert 0 < memory["guest_used_mib"] < 256
        assert memory["guest_visible_mib"] <= memory["limit_mib"] == 256
        assert memory["host_held_mib"] > memory["host_held_guest_ram_mib"] > 0

        copied, _ = await call(client, "fork_sandbox", name="agent-2")
        assert copied["servers"]["8000"] != made["servers"]["8000"]
        await call(client, "write_file", sandbox="agent-2", path="/root/new/a.txt", content="changed")
        _, said = await call(client, "read_file", sandbox="agent-1", path="/root/new/a.txt")
        assert said == "héllo\n"
        assert "the most that it may have" in await failure(client, "create_sandbox")
        assert "give 'sandbox'" in await failure(client, "run_command", command="true")
        await call(client, "remove_sandbox", sandbox="agent-2")
        assert registered() & {"agent-1", "agent-2"} == {"agent-1"}
    assert "agent-1" not in registered()


async def test_a_call_that_is_cancelled_ends_what_it_waits_for(guest: object, run_directory: Path) -> None:
    async with stdio("--memory", "256M") as client:
        await call(client, "create_sandbox", name="agent-cancel")
        running = "ps -o args | grep -c '^[s]leep 98765$'"
        waiting = asyncio.create_task(call(client, "run_command", command="sleep 98765; true", wait_s=250))
        while (await call(client, "run_command", command=running))[1] != "stdout:\n1\n":
            await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        while (await call(client, "run_command", command=running))[1] != "stdout:\n0\n":
            await asyncio.sleep(0.1)
        # The guest ends: the session forgets the sandbox.
        await result(client, "run_command", command="kill -9 1; reboot -f; poweroff -f", wait_s=20)
        wait_until(lambda: "agent-cancel" not in registered(), "the sandbox's end")
        assert "has no sandbox" in await failure(client, "run_command", command="true")


@pytest.mark.timeout(900)
async def test_python_keeps_variables_and_figures_are_pictures(guest: object, code_image: str) -> None:
    async with stdio("--memory", "1G", "--image", code_image) as client:
        await call(client, "create_sandbox", name="agent-py", image=code_image)
        await call(client, "run_code", code="x = 20", timeout_s=200)
        facts, said = await call(client, "run_code", code="x + 1")
        assert (facts, said) == ({"ok": True}, "value:\n21")
        facts, said = await call(client, "run_code", code="1 / 0")
        assert facts["error"]["name"] == "ZeroDivisionError"
        drawn = await result(
            client,
            "run_code",
            code="import matplotlib.pyplot as plt; plt.plot([1, 3, 2]); plt.savefig('/tmp/a.png')",
            timeout_s=200,
        )
        (figure,) = [each for each in drawn.content if isinstance(each, ImageContent)]
        assert figure.mime_type == "image/png"
        assert base64.b64decode(figure.data).startswith(b"\x89PNG")
        read = await result(client, "read_file", path="/tmp/a.png")
        assert [each.type for each in read.content] == ["text", "image"]
        said = await failure(client, "run_code", code="print('slow')\nwhile True: pass", timeout_s=2)
        assert said.startswith("error (code-timeout)")
        assert "slow" in said
        _, said = await call(client, "run_code", code="x")
        assert said == "value:\n20"


async def test_an_existing_sandbox_is_used_and_stays(guest: object, run_directory: Path) -> None:
    async with await Sandbox.create("mine", memory="256M") as box:
        async with stdio("--use", "mine", mode="legacy") as client:
            _, said = await call(client, "run_command", command="echo kept > /tmp/kept; hostname")
            assert said == "stdout:\nmine\n"
            facts, _ = await call(client, "run_command", command="sleep 1000", wait_s=0)
            assert facts["running"]
            assert "was not made in this session" in await failure(client, "remove_sandbox", sandbox="mine")
        assert await box.fs.read("/tmp/kept") == b"kept\n"


@pytest.mark.parametrize("killed", ["client", "server"])
def test_a_kill_leaves_no_sandbox(guest: object, run_directory: Path, killed: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, f"agent-{killed}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["created"]
        (server,) = children(program.pid)
        engines = children(server)
        assert engines
        os.kill(server if killed == "server" else program.pid, signal.SIGKILL)
        wait_until(lambda: f"agent-{killed}" not in registered(), "the sandbox's removal")
        wait_until(lambda: not any(map(alive, [server, *engines])), "the end of the processes")
        program.kill()


@pytest.fixture(scope="module")
def server(
    guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    words = ("--mcp", "--mcp-memory", "256M", "--mcp-max-sessions", "2")
    with ServerProcess(tmp_path_factory.mktemp("serve"), *words) as running:
        yield running


@contextlib.asynccontextmanager
async def remote(server: ServerProcess, token: str, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=250) as http,
        Client(streamable_http_client(f"{server.address}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def test_a_session_over_http_has_its_own_sandboxes(server: ServerProcess) -> None:
    token = new_token()
    async with remote(server, token) as one, remote(server, token, "legacy") as two:
        await call(one, "create_sandbox", name="over-http", ports=[8000])
        _, said = await call(one, "run_command", command="echo there > /tmp/index.html; hostname")
        assert said == "stdout:\nover-http\n"
        started, _ = await call(one, "start_server", command="exec httpd -f -p 8000 -h /tmp", port=8000)
        async with server.remote(token) as http:
            proxied = await http.get(started["path_on_this_server"] + "index.html")
            assert proxied.text == "there\n"
        assert "no sandbox" in await failure(two, "run_command", command="true")
        assert "error (name-in-use)" in await failure(two, "create_sandbox", name="over-http")
        with pytest.raises(BaseExceptionGroup) as caught:  # two sessions are open
            async with remote(server, token):
                pass
        assert caught.group_contains((MCPError, httpx2.HTTPError))
    wait_until(lambda: "over-http" not in registered(), "the sandbox's removal")


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def test_requests_over_http_are_checked_as_all_others(server: ServerProcess) -> None:
    async with server.remote() as nobody:
        refused = await nobody.post("/mcp", json=INITIALIZE, headers=ACCEPT)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    async with server.remote(new_token("--scope", "read")) as reader:
        refused = await reader.post("/mcp", json=INITIALIZE, headers=ACCEPT)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    async with server.remote(new_token()) as user:
        for header, value, code in (
            ("Origin", "https://evil.example", "origin-refused"),
            ("Host", "evil.example", "host-refused"),
        ):
            refused = await user.post("/mcp", json=INITIALIZE, headers={**ACCEPT, header: value})
            assert refused.json()["code"] == code
        modern = {**ACCEPT, "Mcp-Protocol-Version": "2026-07-28"}
        refused = await user.post("/mcp", json=INITIALIZE, headers=modern)
        assert refused.status_code == 400
        assert refused.json()["error"]["data"]["requested"] == "2026-07-28"
        opened = await user.post("/mcp", json=INITIALIZE, headers=ACCEPT)
        assert opened.status_code == 200
        session = {**ACCEPT, "Mcp-Session-Id": opened.headers["mcp-session-id"]}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        async with server.remote(new_token()) as other:
            # Another token does not learn that the session exists.
            refused = await other.post("/mcp", json=ping, headers=session)
            unknown = await other.post("/mcp", json=ping, headers={**ACCEPT, "Mcp-Session-Id": "0"})
            assert (refused.status_code, refused.json()) == (404, unknown.json())
        assert (await user.post("/mcp", json=ping, headers=session)).status_code == 200
        assert (await user.delete("/mcp", headers=session)).status_code == 200
        assert (await user.post("/mcp", json=ping, headers=session)).status_code == 404
        assert (await user.post("/mcp", json=ping, headers=ACCEPT)).status_code == 400
        broken = await user.post("/mcp", content="{", headers={**ACCEPT, "Content-Type": "application/json"})
        assert broken.status_code == 400
        large = await user.post("/mcp", content=b"x" * (5 << 20), headers=ACCEPT)
        assert large.status_code == 413


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_sandboxes_of_agents_end_with_the_server(
    guest: object, run_directory: Path, tmp_path: Path, how: str
) -> None:
    name = f"of-agent-{how}"
    token = new_token()
    with ServerProcess(tmp_path, "--mcp", "--mcp-memory", "256M") as server:
        async with server.remote(token) as http:
            opened = await http.post("/mcp", json=INITIALIZE, headers=ACCEPT)
            session = {**ACCEPT, "Mcp-Session-Id": opened.headers["mcp-session-id"]}
            initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            assert (await http.post("/mcp", json=initialized, headers=session)).status_code == 202
            create = {"name": "create_sandbox", "arguments": {"name": name}}
            request = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": create}
            made = await http.post("/mcp", json=request, headers=session)
            assert '"isError":false' in made.text.replace(" ", ""), made.text
            assert name in registered()
            async with http.stream("GET", "/mcp", headers=session) as events:
                assert events.status_code == 200
                if how == "stop":
                    assert await asyncio.to_thread(server.stop) == 0
                    assert name not in registered()
                else:
                    server.kill()
                    wait_until(lambda: name not in registered(), "the sandbox's removal")


async def test_a_session_whose_client_is_gone_ends_and_leaves_its_place(
    guest: object, run_directory: Path, tmp_path: Path
) -> None:
    words = ("--mcp", "--mcp-idle-timeout", "1s", "--mcp-max-sessions", "1")
    with ServerProcess(tmp_path, *words) as server:
        token = new_token()
        async with server.remote(token) as http:
            opened = await http.post("/mcp", json=INITIALIZE, headers=ACCEPT)
            first = {**ACCEPT, "Mcp-Session-Id": opened.headers["mcp-session-id"]}
            # An open stream of events keeps it.
            async with http.stream("GET", "/mcp", headers=first) as events:
                assert events.status_code == 200
                refused = await http.post("/mcp", json=INITIALIZE, headers=ACCEPT)
                assert (refused.status_code, refused.json()["code"]) == (503, "too-many-requests")
        async with server.remote(token) as http:
            while (await http.post("/mcp", json=INITIALIZE, headers=ACCEPT)).status_code == 503:
                await asyncio.sleep(0.1)
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
            assert (await http.post("/mcp", json=ping, headers=first)).status_code == 404
