"""kill -9 of the HTTP server while it serves each kind of request: the sandbox is whole, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from ballonet.base.paths import data_dir
from tests.serve_client import ServerProcess
from tests.vm.processes import alive

pytestmark = pytest.mark.extended

AT = "/v1/sandboxes/mortal"


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


#: Requests that are in progress when the server is killed: method, path, body, content.
REQUESTS: dict[str, tuple[str, str, Any, Any]] = {
    "exec": ("POST", f"{AT}/exec", {"argv": ["sleep", "1000"]}, None),
    "upload": ("PUT", f"{AT}/files?path=/tmp/kept", None, endless),
    "archive": ("PUT", f"{AT}/archive?path=/tmp", None, endless),
    "target": ("PUT", f"{AT}/balloon", {"target": 130, "wait": True}, None),
    "snapshot": ("POST", f"{AT}/snapshots", {"name": "mortal-1"}, None),
    "fork": ("POST", f"{AT}/fork", {"names": ["mortal-2"]}, None),
    "pause": ("POST", f"{AT}/pause", {"force": True}, None),
    "stop": ("POST", f"{AT}/stop", {"timeout_s": 60}, None),
    "events": ("GET", "/v1/events", None, None),
    "wait": ("GET", f"{AT}/wait", None, None),
    "modify": ("PATCH", AT, {"weight": 9, "memory_target": 140}, None),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mortal(
    guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Path]:
    """The directory of a server, and a sandbox that was made through it."""
    directory = tmp_path_factory.mktemp("serve")
    with ServerProcess(directory) as server:
        async with server.local() as http:
            made = await http.post(
                "/v1/sandboxes", json={"name": "mortal", "memory": 256, "balloon": {"min": 128}}
            )
            assert made.status_code == 201, made.text
    yield directory
    with ServerProcess(directory) as server:
        async with server.local() as http:
            assert (await http.delete(f"{AT}?force=true")).status_code == 204


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_kill_during_a_request_harms_nothing(mortal: Path, kind: str) -> None:
    method, path, body, content = REQUESTS[kind]
    with ServerProcess(mortal) as server:
        async with server.local() as http:
            await http.put(f"{AT}/files?path=/tmp/kept", content=b"old")
            pid = (await http.get(AT)).json()["pid"]
            request: dict[str, Any] = {"content": content()} if content else {"json": body}
            under_way = asyncio.create_task(http.request(method, path, **request))
            await asyncio.wait({under_way}, timeout=0.3)
            server.kill()
            with contextlib.suppress(httpx.HTTPError):
                await under_way
    with ServerProcess(mortal) as server:
        async with server.local() as http:
            found = {row["name"]: row for row in (await http.get("/v1/sandboxes")).json()}
            # A fork that had begun is whole or absent.
            if "mortal-2" in found:
                assert (await http.delete("/v1/sandboxes/mortal-2?force=true")).status_code == 204
            if kind in ("stop", "pause"):
                # What the server had asked for goes on without it.
                started = await http.post(f"{AT}/start")
                assert started.status_code in (200, 409), started.text
            else:
                assert found["mortal"]["pid"] == pid and alive(pid)
            done = await http.post(f"{AT}/exec", json={"argv": ["echo", "whole"]})
            while kind in ("stop", "pause") and done.status_code == 409:  # it is still about to end
                await asyncio.sleep(0.2)
                await http.post(f"{AT}/start")
                done = await http.post(f"{AT}/exec", json={"argv": ["echo", "whole"]})
            assert done.json()["stdout"] == "whole\n", done.text
            if kind != "stop":
                assert (await http.get(f"{AT}/files?path=/tmp/kept")).content == b"old"
            if kind == "snapshot":
                await http.delete("/v1/snapshots/mortal-1")
            names = {row["name"] for row in (await http.get("/v1/sandboxes")).json()}
            assert names == {"mortal"}
            listed = [path.name for path in (data_dir() / "serve").iterdir()]
            assert set(listed) <= {"keys", "tokens.json", "tokens.lock"}
