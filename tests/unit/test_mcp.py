"""The MCP server with the SDK's own client, without sandboxes: tools, limits, errors, and output in parts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ImageContent, TextContent

from ballonet.base.errors import BallonetError, ConfigError, NameInUseError, UnknownSandboxError
from ballonet.cli.commands import build_parser
from ballonet.cli.mcp_options import policy_of
from ballonet.mcp import code_tools
from ballonet.mcp.file_tools import _decoded
from ballonet.mcp.output import OutputReader, Part
from ballonet.mcp.policy import Policy
from ballonet.mcp.server import TOOLS, build_server
from ballonet.mcp.session import AgentSession
from ballonet.sdk.code_result import CodeException, CodeResult
from ballonet.sdk.sandbox import Sandbox
from ballonet.serve.problems import refused
from ballonet.serve.running_commands import Piece
from ballonet.vmm.attach import Net

pytestmark = pytest.mark.long


async def call(client: Client, name: str, /, **arguments: Any) -> tuple[bool, list[str]]:
    """Whether a tool failed, and its texts."""
    result = await client.call_tool(name, arguments)
    return result.is_error, [each.text for each in result.content if isinstance(each, TextContent)]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_tools_are_listed_with_a_description_of_every_argument(mode: str) -> None:
    async with Client(build_server(Policy()), mode=mode) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == {
        *("create_sandbox", "sandbox_status", "fork_sandbox", "remove_sandbox"),
        *("run_command", "read_output", "stop_command", "start_server", "run_code"),
        *("read_file", "write_file", "list_files"),
    }
    for tool in tools:
        assert tool.description, tool.name
        assert tool.input_schema["additionalProperties"] is False
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), (tool.name, name)
            assert "type" in schema or "enum" in schema, (tool.name, name)


async def test_invalid_arguments_are_a_tool_error_with_the_reason() -> None:
    async with Client(build_server(Policy())) as client:
        failed, (said,) = await call(client, "run_command", command="true", when="now")
        assert failed
        assert said == (
            "error (config): the arguments of run_command are invalid: Object contains unknown field `when`\n"
            "hint: see the tool's input schema"
        )
        failed, (said,) = await call(client, "run_command", command="true", wait_s=1e6)
        assert failed
        assert "`float` <= 300.0 - at `$.wait_s`" in said
        failed, (said,) = await call(client, "run_command", command="true")
        assert failed
        assert said.endswith("this session has no sandbox\nhint: call create_sandbox first")
        failed, (said,) = await call(client, "read_output", command_id="0")
        assert failed
        assert "no command with the ID '0'" in said
        with pytest.raises(MCPError, match="no tool named 'fly'"):
            await client.call_tool("fly", {})


async def test_an_unexpected_error_is_told_without_details(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setitem(TOOLS, "list_files", TOOLS["list_files"]._replace(handler=broken))  # type: ignore[arg-type]
    async with Client(build_server(Policy())) as client:
        failed, (said,) = await call(client, "list_files")
    assert failed
    assert "internal error" in said
    assert "secret" not in said


def test_a_sandbox_has_no_network_unless_it_is_asked_for_and_permitted() -> None:
    policy = Policy()
    plain = policy.settings(image=None, memory_mib=None, internet=False, ports=[])
    assert (plain["net"], plain["ports"], plain["memory"], plain["on_idle"]) == ("none", [], 512, "stop")
    assert "image" not in plain
    served = policy.settings(image=None, memory_mib=256, internet=False, ports=[80, 80, 8080])
    assert (served["net"], served["ports"]) == ("isolated", ["127.0.0.1:0:80", "127.0.0.1:0:8080"])
    with pytest.raises(ConfigError, match="no access to the internet"):
        policy.settings(image=None, memory_mib=None, internet=True, ports=[])
    with pytest.raises(ConfigError, match="cannot publish ports"):
        Policy(net=Net.NONE).settings(image=None, memory_mib=None, internet=False, ports=[80])
    open_policy = Policy(net=Net.USER, net_allow=("pypi.org",))
    opened = open_policy.settings(image=None, memory_mib=None, internet=True, ports=[])
    assert (opened["net"], opened["net_allow"]) == ("user", ["pypi.org"])
    assert "net_allow" not in open_policy.settings(image=None, memory_mib=None, internet=False, ports=[80]), (
        "published ports need no rules"
    )


def test_images_and_memory_are_those_that_the_operator_permits() -> None:
    policy = Policy(images=("code", "node"), memory_mib=1024)
    assert (policy.image(None), policy.image("node")) == ("code", "node")
    with pytest.raises(ConfigError, match="'docker-archive:/etc/x' is not permitted"):
        policy.image("docker-archive:/etc/x")
    with pytest.raises(ConfigError, match="more than the 1024 MiB"):
        policy.memory(1025)


class FakeBox:
    """Stands for a sandbox where only its end matters."""

    def __init__(self, name: str) -> None:
        self.name, self.closed, self.ended = name, False, False

    def record(self) -> None:
        if self.ended:
            raise UnknownSandboxError(f"there is no sandbox named {self.name!r}")

    async def close(self) -> None:
        self.closed = True


async def test_a_session_has_at_most_so_many_sandboxes_and_ends_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[FakeBox] = []
    released = asyncio.Event()

    async def create(name: str, **_: object) -> FakeBox:
        await released.wait()
        if name == "taken":
            raise NameInUseError("there is a sandbox named 'taken' already")
        made.append(FakeBox(name))
        return made[-1]

    monkeypatch.setattr(Sandbox, "create", create)
    async with AgentSession(Policy(max_sandboxes=2)) as session:
        # Those that are being made count, too.
        making = [asyncio.create_task(session.create(name)) for name in ("one", "taken", "three")]
        await asyncio.sleep(0)
        released.set()
        one, taken, three = await asyncio.gather(*making, return_exceptions=True)
        assert isinstance(one, FakeBox)
        assert isinstance(taken, NameInUseError)
        assert isinstance(three, BallonetError)
        assert "has 2 sandboxes" in three.message
        await session.create("four")
        with pytest.raises(ConfigError, match="there are 2 sandboxes"):
            await session.find(None)
        await session.remove("one")
        assert [box.closed for box in made] == [True, False]
        with pytest.raises(ConfigError, match="no sandbox named 'one'"):
            await session.find("one")
        made[1].ended = True  # its time is over: it leaves its place
        await session.create("five")
        await session.create("six")
        assert [box.closed for box in made] == [True, True, False, False]
    assert all(box.closed for box in made)


class FakeCommand:
    """A command whose output is given piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.ended = False
        self.oldest = 1
        self.changed = asyncio.Event()

    def write(self, stream: str, content: bytes) -> None:
        self.pieces.append(Piece(len(self.pieces) + 1, stream, content))
        self.changed.set()

    async def output(self, after: int | None = None) -> AsyncIterator[Piece]:
        position = self.oldest if after is None else after + 1
        if position < self.oldest:
            raise refused("output-lost", "no longer kept")
        while True:
            while position <= len(self.pieces):
                yield self.pieces[position - 1]
                position += 1
            if self.ended:
                return
            self.changed.clear()
            await self.changed.wait()


async def test_output_comes_in_parts_and_nothing_is_lost() -> None:
    command = FakeCommand()
    reader = OutputReader(command)
    content = "é".encode() * 700  # of two bytes each: parts end within one
    command.write("stdout", content[:333])
    command.write("stdout", content[333:])
    command.write("stderr", b"end\xff")
    assert await reader.read(0, 101) == ("é" * 50, "", True, False)
    parts: list[Part] = []
    command.ended = True
    while not parts or parts[-1].more:
        parts.append(await reader.read(0, 101))
        assert not parts[-1].lost
    assert "é" * 50 + "".join(part.stdout for part in parts) == content.decode()
    assert "".join(part.stderr for part in parts) == "end\N{REPLACEMENT CHARACTER}"


async def test_a_part_ends_with_the_time_and_the_next_one_continues() -> None:
    command = FakeCommand()
    reader = OutputReader(command)
    command.write("stdout", b"first")
    assert await reader.read(0) == ("first", "", True, False)
    reading = asyncio.create_task(reader.read(60))
    await asyncio.sleep(0)
    command.write("stdout", b"second")
    command.ended = True
    assert await reading == ("second", "", False, False)


async def test_dropped_output_is_told() -> None:
    command = FakeCommand()
    reader = OutputReader(command)
    command.write("stdout", b"old")
    command.write("stdout", b"new")
    command.oldest, command.ended = 2, True
    assert await reader.read(0) == ("new", "", False, True)


def test_results_of_code_are_bounded() -> None:
    png = b"\x89PNG" + bytes(1 << 20)
    long = "x" * (code_tools.MAX_CHARACTERS + 5)
    result = CodeResult(
        stdout="out",
        stderr="",
        value={"text/plain": long, "image/png": png},
        displays=[{"image/png": png}] * 5 + [{"text/html": "<b>"}] * 10,
        error=CodeException("ValueError", "bad", "Traceback: bad"),
        exit_status=None,
        truncated=False,
    )
    facts, out, traceback, *displays, value, _, _, _ = code_tools.contents(result)
    pictures = code_tools.contents(result)[-3:]
    assert isinstance(facts, TextContent)
    assert facts.text == (
        '{"ok": false, "error": {"name": "ValueError", "message": "bad"}, "pictures_dropped": 3, '
        '"displays_dropped": 2}'
    )
    assert [each.text for each in (out, traceback, *displays) if isinstance(each, TextContent)] == [
        "stdout:\nout",
        "traceback:\nTraceback: bad",
        *["display:\n<b>"] * code_tools.MAX_DISPLAYS,
    ]
    assert isinstance(value, TextContent)
    assert value.text.endswith("x\n(and 5 more characters)")
    assert [type(each) for each in pictures] == [ImageContent] * 3


def test_parts_of_files_end_with_whole_characters() -> None:
    assert _decoded("aé".encode()[:2], complete=False) == (b"a", "a")
    assert _decoded("aé".encode()[:2], complete=True) == (b"a\xc3", None)
    assert _decoded(b"\xff\xfe", complete=False) == (b"\xff\xfe", None)


def policy(*words: str) -> Policy:
    return policy_of(build_parser("mcp").parse_args(["mcp", *words]))


def test_the_operator_restricts_with_options() -> None:
    assert policy() == Policy()
    found = policy(
        *("--image", "code", "--image", "node", "--memory", "2G", "--net", "user", "--net-allow", "packages"),
        *("--ttl", "1h", "--idle-timeout", "90s", "--max-sandboxes", "1", "--cpus", "2", "--use", "mine"),
    )
    assert found == Policy(
        images=("code", "node"),
        memory_mib=2048,
        cpus=2,
        net=Net.USER,
        net_allow=("packages",),
        max_sandboxes=1,
        ttl_s=3600,
        idle_timeout_s=90,
        existing=("mine",),
    )
    for words, said in (
        (["--ttl", "soon"], "--ttl 'soon' is not a duration"),
        (["--memory", "much"], "--memory"),
        (["--max-sandboxes", "0"], "--max-sandboxes 0 must be at least 1"),
        (["--net-allow", "pypi.org"], "--net-allow needs --net user"),
        (["--net", "user", "--net-allow", "::::"], "--net-allow '::::'"),
    ):
        with pytest.raises(ConfigError, match=said):
            policy(*words)


def test_options_of_agents_need_the_option_that_serves_them() -> None:
    options = build_parser("serve").parse_args(["serve", "--no-socket", "--mcp-net", "user"])
    with pytest.raises(ConfigError, match="--mcp-net needs --mcp"):
        options.run(options)


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


@pytest.mark.parametrize("output", ["full", "gone", "whole"])
def test_standard_streams_that_fail_are_told_as_by_other_commands(tmp_path: Path, output: str) -> None:
    given = b"no JSON\n\xff\xfe\n" + json.dumps(INITIALIZE).encode() + b"\n"
    answers = tmp_path / "answers"
    if output == "gone":
        read, write = os.pipe()
        os.close(read)
    else:
        write = os.open("/dev/full" if output == "full" else answers, os.O_WRONLY | os.O_CREAT, 0o600)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ballonet", "mcp"],
        input=given,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(write)
    said = done.returncode, done.stderr.decode()
    if output == "full":
        assert said == (125, "ballonet: error: standard output: No space left on device\n")
    elif output == "gone":
        assert said == (141, "")
    else:
        assert said == (0, "")
        (answer,) = answers.read_text().splitlines()
        assert json.loads(answer)["result"]["serverInfo"]["name"] == "ballonet"
