"""``ballonet --cluster auto serve``: the HTTP API of two hosts, each a real Ray node, with real sandboxes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from tests.schemathesis_run import run_schemathesis
from tests.serve_client import ServerProcess
from tests.vm.loopback_hosts import WAIT_S, Host, hosts

pytestmark = [pytest.mark.extended, pytest.mark.slow]
pytest.importorskip("ray")

__all__ = ["hosts"]  # a fixture


@pytest.fixture(scope="module")
def server(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("serve")
    environment = hosts[0].environment
    with ServerProcess(directory, before=["--cluster", "auto"], environment=environment) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with server.local() as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def boxes(server: ServerProcess) -> AsyncIterator[tuple[str, str]]:
    """A sandbox on each host."""
    async with server.local() as client:
        for name, labels in (("first", {"disk": "ssd"}), ("second", {"disk": "hdd"})):
            made = await client.post(
                "/v1/sandboxes",
                json={
                    "name": name,
                    "memory": "256M",
                    "balloon": {"min": 128},
                    "env": {"SECRET": name},
                    "labels": {"team": "web"},
                    "placement": {"labels": labels, "expected": "100M"},
                    "ports": ["0:8080"],
                },
            )
            assert made.status_code == 201, made.text
            assert made.headers["location"] == f"/v1/sandboxes/{name}"
            assert made.json()["labels"] == {"team": "web"}
        yield "first", "second"
        for name in ("first", "second"):
            assert (await client.delete(f"/v1/sandboxes/{name}?force=true")).status_code == 204


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def token(host: Host, scope: str) -> str:
    done = host.run("token", "create", "--scope", scope)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_lists_are_those_of_all_hosts(http: httpx.AsyncClient, boxes: tuple[str, str]) -> None:
    listed = {row["name"]: row for row in (await http.get("/v1/sandboxes")).json()}
    assert {name: row["host"] for name, row in listed.items()} == {"first": "head", "second": "other"}
    filtered = (await http.get("/v1/sandboxes", params={"name": "sec*", "label": "team=web"})).json()
    assert [row["name"] for row in filtered] == ["second"]
    hosts = {one["name"]: one for one in (await http.get("/v1/hosts")).json()}
    assert hosts["other"]["sandboxes"] == {"second": "running"}
    assert hosts["head"]["answers"] is True and hosts["head"]["offer"]["budget_mib"] == 2048
    memory = (await http.get("/v1/memory")).json()
    assert {row["name"]: row["host"] for row in memory["sandboxes"]} == {"first": "head", "second": "other"}
    assert (await http.get("/v1/autopilot")).json()["running"] is True
    document = (await http.get("/openapi.json")).json()
    assert "/v1/hosts/{host}/images" in document["paths"]
    assert (await http.get("/")).status_code in (200, 503), "503: the page's libraries are not built"


async def test_what_concerns_one_sandbox_reaches_its_host(
    http: httpx.AsyncClient, boxes: tuple[str, str]
) -> None:
    for name, host in zip(boxes, ("head", "other"), strict=True):
        at = f"/v1/sandboxes/{name}"
        shown = await http.get(at)
        assert (shown.json()["state"], shown.headers["ballonet-host"]) == ("running", host)
        done = (await http.post(f"{at}/exec", json={"argv": ["sh", "-c", "echo $SECRET; exit 3"]})).json()
        assert (done["stdout"], done["returncode"]) == (f"{name}\n", 3)
        moved = await http.put(f"{at}/balloon", json={"target": 160, "wait": True, "timeout_s": WAIT_S})
        assert moved.json()["state"] == "applied", moved.text
        content = os.urandom(3 << 20)
        put = await http.put(f"{at}/files", params={"path": "/tmp/blob"}, content=content)
        assert put.status_code < 300, put.text
        got = await http.get(
            f"{at}/files", params={"path": "/tmp/blob"}, headers={"Range": "bytes=1000000-1999999"}
        )
        assert got.status_code == 206
        assert got.content == content[1000000:2000000]
        assert hashlib.sha256(
            (await http.get(f"{at}/files", params={"path": "/tmp/blob"})).content
        ).digest() == (hashlib.sha256(content).digest())
    assert code_of(await http.get("/v1/sandboxes/nobody")) == (404, "unknown-sandbox")
    assert code_of(await http.get("/v1/sandboxes/first/execs/0123456789abcdef")) == (404, "unknown-exec")
    assert code_of(await http.post("/v1/sandboxes/first/rename", json={"name": "x"}))[0] == 400
    assert code_of(await http.post("/v1/sandboxes", json={"name": "first"})) == (409, "name-in-use")
    assert code_of(await http.post("/v1/sandboxes", json={"start": False}))[0] == 400
    assert code_of(await http.post("/v1/sandboxes", json={"memroy": 1})) == (400, "invalid-request")


async def test_a_terminal_and_a_port_are_reached_through_the_cluster(
    server: ServerProcess, http: httpx.AsyncClient, boxes: tuple[str, str]
) -> None:
    at = "/v1/sandboxes/second"
    begun = (await http.post(f"{at}/execs", json={"argv": ["cat"], "stdin": True})).json()
    uri = f"ws://ballonet{at}/execs/{begun['id']}/attach"
    async with unix_connect(str(server.socket), uri, subprotocols=["ballonet.v1"]) as line:
        assert line.subprotocol == "ballonet.v1"
        await line.send(b"\0through\n")
        assert await line.recv() == b"\1through\n"
        await line.send(json.dumps({"end": True}))
        assert json.loads(await line.recv())["exit"]["returncode"] == 0
    with pytest.raises(InvalidStatus) as refusal:
        async with unix_connect(str(server.socket), uri.replace(begun["id"], "0" * 16)):
            pass
    assert refusal.value.response.status_code == 404

    serving = (
        "mkdir -p /tmp/www && echo from the guest > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"
    )
    await http.post(f"{at}/execs", json={"argv": ["sh", "-c", serving]})
    async with asyncio.timeout(WAIT_S):
        while (page := await http.get(f"{at}/ports/8080/index.html")).status_code == 502:
            await asyncio.sleep(0.2)
    assert (page.status_code, page.text) == (200, "from the guest\n")
    assert "sandbox" in page.headers["content-security-policy"]


async def test_tokens_have_the_same_scopes_on_all_hosts(
    hosts: tuple[Host, Host], server: ServerProcess, boxes: tuple[str, str]
) -> None:
    at = "/v1/sandboxes/second"
    async with server.remote(token(hosts[0], "read")) as client:
        assert (await client.get(at)).json()["env"]["SECRET"] == "***"
        claimed = await client.get(at, headers={"Ballonet-Scope": "admin"})
        assert claimed.json()["env"]["SECRET"] == "***", "a client cannot state its scope"
        assert code_of(await client.post(f"{at}/exec", json={"argv": ["true"]})) == (403, "forbidden")
        assert code_of(await client.post(f"{at}/ports/8080/")) == (403, "forbidden")
    async with server.remote(token(hosts[0], "use")) as client:
        assert (await client.get(at)).json()["env"]["SECRET"] == "second"
        refused = await client.post("/v1/sandboxes", json={"volumes": ["/etc:/x"]})
        assert code_of(refused) == (403, "forbidden")
        pulled = await client.post("/v1/hosts/other/images/tag", json={"image": "a", "name": "b"})
        assert code_of(pulled) == (403, "forbidden")
    async with server.remote() as client:
        assert code_of(await client.get(at)) == (401, "unauthorized")


async def test_a_request_is_repeated_with_its_key_without_a_second_sandbox(http: httpx.AsyncClient) -> None:
    body = {"memory": "256M"}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    made = await http.post("/v1/sandboxes", json=body, headers=key)
    again = await http.post("/v1/sandboxes", json=body, headers=key)
    assert (made.status_code, again.status_code) == (201, 201), again.text
    assert again.headers["idempotency-replayed"] == "true"
    name = made.json()["name"]
    assert again.json()["name"] == name
    assert (await http.delete(f"/v1/sandboxes/{name}?force=true")).status_code == 204
    spent = await http.post("/v1/sandboxes", json=body, headers=key)
    assert code_of(spent) == (409, "key-spent")


async def test_a_sandbox_is_saved_copied_and_restored_through_the_cluster(
    http: httpx.AsyncClient, boxes: tuple[str, str]
) -> None:
    await http.post("/v1/sandboxes/first/exec", json={"argv": ["sh", "-c", "echo kept > /tmp/kept"]})
    point = f"point-{uuid.uuid4().hex[:8]}"  # the hosts share a data directory with other tests
    saved = await http.post("/v1/sandboxes/first/snapshots", json={"name": point})
    assert saved.status_code == 201, saved.text
    assert (saved.json()["name"], saved.json()["host"]) == (point, "head")
    assert point in [row["name"] for row in (await http.get("/v1/snapshots")).json()]
    copied = await http.post("/v1/sandboxes/first/fork", json={"names": ["copy"]})
    assert copied.status_code == 201, copied.text
    restored = await http.post(f"/v1/snapshots/{point}/restore", json={"name": "back"})
    assert restored.status_code == 201, restored.text
    for name in ("copy", "back"):
        done = await http.post(f"/v1/sandboxes/{name}/exec", json={"argv": ["cat", "/tmp/kept"]})
        assert done.json()["stdout"] == "kept\n"
        assert (await http.delete(f"/v1/sandboxes/{name}?force=true")).status_code == 204
    assert (await http.delete(f"/v1/snapshots/{point}")).status_code == 204
    assert code_of(await http.get(f"/v1/snapshots/{point}")) == (404, "unknown-snapshot")


class Events:
    """The events of a response, as they arrive."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, kind: str, name: str | None = None) -> tuple[str | None, dict[str, Any]]:
        """The next event of this kind, and of this sandbox: its id and its data."""
        async with asyncio.timeout(WAIT_S):
            found: dict[str, str] = {}
            async for line in self._lines:
                key, _, value = line.partition(": ")
                if line:
                    found[key] = value
                    continue
                data = json.loads(found.get("data", "{}"))
                if found.get("event") == kind and name in (None, data.get("name")):
                    return found.get("id"), data
                found = {}
        raise AssertionError("the stream ended")


async def test_events_of_all_hosts_are_one_stream_that_goes_on_by_its_id(
    http: httpx.AsyncClient, boxes: tuple[str, str]
) -> None:
    async with http.stream("GET", "/v1/events") as response:
        events = Events(response)
        assert sorted(part.split("=")[0] for part in response.headers["last-event-id"].split(",")) == [
            "head",
            "other",
        ]
        await http.post("/v1/sandboxes/first/stop")
        first, stopped = await events.next("stopped", "first")
        assert stopped["host"] == "head"
        await http.post("/v1/sandboxes/second/stop")
        _, stopped = await events.next("stopped", "second")
        assert stopped["host"] == "other"
    await http.post("/v1/sandboxes/first/start")
    async with http.stream("GET", "/v1/events", headers={"Last-Event-ID": str(first)}) as response:
        events = Events(response)
        _, missed = await events.next("stopped", "second")
        assert missed["host"] == "other"
    async with http.stream("GET", "/v1/events", params={"after": str(first)}) as response:
        assert (await Events(response).next("started", "first"))[1]["host"] == "head"
    await http.post("/v1/sandboxes/second/start")
    recorded = (await http.get("/v1/events", params={"follow": "false"})).text
    assert '"host":"head"' in recorded and '"host":"other"' in recorded


def server_of(host: Host) -> int:
    """The process of the host's own server."""
    socket = host.directory / "run/.serve/cluster.sock"
    found = subprocess.run(["pgrep", "-f", f"serve --socket {socket}"], capture_output=True, text=True)
    (pid,) = map(int, found.stdout.split())
    return pid


async def test_a_host_that_does_not_answer_is_missing_in_a_list(
    hosts: tuple[Host, Host], http: httpx.AsyncClient, boxes: tuple[str, str]
) -> None:
    pid = server_of(hosts[1])
    os.kill(pid, signal.SIGSTOP)
    try:
        listed = await http.get("/v1/sandboxes")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (listed.status_code, listed.headers["ballonet-missing"]) == (200, "other")
    assert [row["name"] for row in listed.json()] == ["first"]
    assert "ballonet-missing" not in (await http.get("/v1/sandboxes")).headers


async def test_the_server_of_a_host_that_is_killed_is_started_again(
    hosts: tuple[Host, Host], http: httpx.AsyncClient, boxes: tuple[str, str]
) -> None:
    pid = server_of(hosts[1])
    async with http.stream("GET", "/v1/events") as response:
        events = Events(response)
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            while (shown := await http.get("/v1/sandboxes/second")).status_code == 502:
                pass  # it was still ending
        assert shown.json()["state"] == "running", shown.text
        await http.post("/v1/sandboxes/second/stop")
        assert (await events.next("stopped", "second"))[1]["host"] == "other"
    await http.post("/v1/sandboxes/second/start")


async def test_what_a_host_has_for_itself_is_under_its_name(http: httpx.AsyncClient) -> None:
    assert code_of(await http.get("/v1/hosts/nowhere/images")) == (404, "not-found")
    assert isinstance((await http.get("/v1/hosts/other/images")).json(), list)
    assert "ballonet_" in (await http.get("/v1/hosts/other/metrics")).text
    assert code_of(await http.post("/v1/volumes", json={"name": "x"}))[0] in (404, 405)


def test_no_request_gives_an_internal_error_or_an_undocumented_response(
    hosts: tuple[Host, Host], server: ServerProcess, tmp_path: Path
) -> None:
    # They start a VM, reach a registry, or do not end.
    excluded = ("/v1/sandboxes$", "/start$", "/images/pull$", "/events$", "/wait$")
    run_schemathesis(tmp_path, server.address, token(hosts[0], "admin"), excluded, phases=["fuzzing"])
