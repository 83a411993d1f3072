"""The HTTP server with real sandboxes: a real process on a real socket, and httpx."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from ballonet.sdk.sandbox import Sandbox
from tests.serve_client import ServerProcess, new_token
from tests.vm.processes import alive

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def server(
    guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("serve"), "--max-execs", "60") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def http(server: ServerProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with server.local() as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(server: ServerProcess) -> AsyncIterator[str]:
    """A sandbox that was made through the server."""
    async with server.local() as client:
        made = await client.post(
            "/v1/sandboxes",
            json={
                "name": "served",
                "memory": 256,
                "balloon": {"min": 128},
                "env": {"WHO": "you"},
                "cwd": "/tmp",
                "labels": {"team": "web", "tier": "1"},
                "hostname": "inside",
                "health_cmd": "true",
            },
        )
        assert made.status_code == 201, made.text
        assert made.headers["location"] == "/v1/sandboxes/served"
        yield "served"
        assert (await client.delete("/v1/sandboxes/served?force=true")).status_code == 204


def problem(response: httpx.Response) -> tuple[int, str]:
    """The status and the code of a problem document."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert document["status"] == response.status_code
    assert document["type"] == f"urn:ballonet:error:{document['code']}"
    assert document["title"] and document["detail"]
    return response.status_code, document["code"]


async def test_a_sandbox_is_created_inspected_and_removed(http: httpx.AsyncClient, box: str) -> None:
    shown = (await http.get(f"/v1/sandboxes/{box}")).json()
    assert (shown["name"], shown["state"], shown["ceiling_mib"]) == ("served", "running", 256)
    assert shown["env"]["WHO"] == "you" and alive(shown["pid"])
    listed = (await http.get("/v1/sandboxes", params={"state": "running", "name": "serv*"})).json()
    assert [row["name"] for row in listed] == ["served"]
    assert set(listed[0]) < set(shown)
    assert (await http.get("/v1/sandboxes", params={"state": "stopped"})).json() == []
    again = await http.post("/v1/sandboxes", json={"name": "served"})
    assert problem(again) == (409, "name-in-use")
    assert problem(await http.get("/v1/sandboxes/nobody")) == (404, "unknown-sandbox")
    assert problem(await http.delete(f"/v1/sandboxes/{box}")) == (409, "still-running")


async def test_a_command_runs_to_its_end(http: httpx.AsyncClient, box: str) -> None:
    script = "cat; echo $WHO $(pwd); echo err >&2; exit 3"
    done = await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": ["sh", "-c", script], "stdin": "in\n"})
    assert done.json() == {
        "returncode": 3,
        "timed_out": False,
        "encoding": "utf-8",
        "stdout": "in\nyou /tmp\n",
        "stderr": "err\n",
    }
    raw = await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": ["printf", r"\377"]})
    assert (raw.json()["encoding"], raw.json()["stdout"]) == ("base64", "/w==")
    much = {"argv": ["head", "-c", "17000000", "/dev/zero"]}
    assert problem(await http.post(f"/v1/sandboxes/{box}/exec", json=much)) == (422, "guest")
    missing = await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": ["no-such-program"]})
    assert problem(missing) == (422, "guest-command")


async def test_a_command_is_killed_at_its_timeout(http: httpx.AsyncClient, box: str) -> None:
    argv = ["sh", "-c", "echo begun; sleep 1000"]
    done = (await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": argv, "timeout_s": 2})).json()
    assert (done["returncode"], done["timed_out"], done["stdout"]) == (None, True, "begun\n")
    begun = await http.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "9"], "timeout_s": 1e-300})
    assert problem(begun) == (504, "command-timeout")
    script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f 2>/dev/null; echo; done'
    left = await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": ["sh", "-c", script]})
    assert "sleep 1000" not in left.json()["stdout"].splitlines()


async def test_fifty_commands_at_once(http: httpx.AsyncClient, box: str) -> None:
    async def run(number: int) -> str:
        done = await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": ["echo", str(number)]})
        assert done.status_code == 200, done.text
        return str(done.json()["stdout"])

    assert await asyncio.gather(*map(run, range(50))) == [f"{number}\n" for number in range(50)]


async def test_the_balloon_moves(http: httpx.AsyncClient, box: str) -> None:
    reply = await http.put(
        f"/v1/sandboxes/{box}/balloon", json={"target": "192M", "wait": True, "timeout_s": 120}
    )
    assert (reply.json()["target_mib"], reply.json()["outcome"]) == (192, "settled")
    state = (await http.get(f"/v1/sandboxes/{box}/balloon")).json()
    assert (state["target_mib"], state["floor_mib"], state["ceiling_mib"]) == (192, 128, 256)
    strict = await http.put(f"/v1/sandboxes/{box}/balloon", json={"target": 64, "strict": True})
    assert problem(strict) == (422, "control-refused")
    limited = await http.put(f"/v1/sandboxes/{box}/balloon/limit", json={"limit": 224})
    assert limited.json()["limit_mib"] == 224
    assert (await http.put(f"/v1/sandboxes/{box}/balloon/limit", json={"limit": None})).status_code == 200
    back = await http.put(
        f"/v1/sandboxes/{box}/balloon", json={"target": 256, "wait": True, "timeout_s": 120}
    )
    assert back.json()["outcome"] == "settled"


async def test_lists_are_filtered_by_label(http: httpx.AsyncClient, box: str) -> None:
    shown = (await http.get(f"/v1/sandboxes/{box}")).json()
    assert shown["labels"] == {"team": "web", "tier": "1"}

    async def names(*pairs: tuple[str, str]) -> list[str]:
        listed = await http.get("/v1/sandboxes", params=list(pairs))
        assert listed.status_code == 200, listed.text
        return [row["name"] for row in listed.json()]

    assert await names(("label", "team")) == await names(("label", "team=web"), ("label", "tier=1")) == [box]
    assert await names(("label", "team=db")) == await names(("label", "team"), ("label", "other")) == []
    assert await names(("image", "debian*")) == []
    assert problem(await http.get("/v1/sandboxes?label=!")) == (400, "config")
    twice = await http.get("/v1/sandboxes?name=a&name=b")
    assert problem(twice) == (400, "invalid-request")


async def test_the_guest_has_its_host_name_and_its_health(http: httpx.AsyncClient, box: str) -> None:
    done = await http.post(f"/v1/sandboxes/{box}/exec", json={"argv": ["cat", "/proc/sys/kernel/hostname"]})
    assert done.json()["stdout"] == "inside\n"
    while (health := (await http.get(f"/v1/sandboxes/{box}")).json()["health"]) == "starting":
        await asyncio.sleep(0.2)
    assert health == "healthy"


async def test_figures_are_served(http: httpx.AsyncClient, box: str) -> None:
    stats = (await http.get(f"/v1/sandboxes/{box}/stats")).json()
    assert stats["host"]["resident_mib"] > 0
    memory = (await http.get("/v1/memory")).json()
    assert memory["host"]["total"] > 0
    assert "served" in [each["name"] for each in memory["sandboxes"]]
    history = (await http.get(f"/v1/sandboxes/{box}/history")).json()
    assert history and history[-1]["name"] == "served"
    usage = (await http.get(f"/v1/sandboxes/{box}/usage")).json()
    assert usage["cpu_s"] > 0 and usage["resident_bytes"] > usage["guest_ram_bytes"] > 0
    exported = await http.get("/metrics")
    assert 'ballonet_sandbox_state{sandbox="served",state="running"} 1.0' in exported.text


async def test_settings_are_changed(http: httpx.AsyncClient, box: str) -> None:
    planned = await http.patch(f"/v1/sandboxes/{box}?dry_run=true", json={"weight": 7, "cpus": 2})
    assert {(each["setting"], each["state"]) for each in planned.json()} == {
        ("weight", "planned"),
        ("cpus", "planned"),
    }
    changed = await http.patch(f"/v1/sandboxes/{box}", json={"weight": 7})
    assert [(each["new"], each["state"]) for each in changed.json()] == [(7, "done")]
    assert (await http.get(f"/v1/sandboxes/{box}")).json()["weight"] == 7
    assert problem(await http.patch(f"/v1/sandboxes/{box}", json={"weight": -1})) == (400, "config")


async def test_a_repeated_request_creates_one_sandbox(http: httpx.AsyncClient, box: str) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"memory": 128, "start": False}
    answers = await asyncio.gather(*(http.post("/v1/sandboxes", json=body, headers=key) for _ in range(4)))
    names = {answer.json()["name"] for answer in answers}
    assert [answer.status_code for answer in answers] == [201] * 4 and len(names) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 3
    other = await http.post("/v1/sandboxes", json={**body, "memory": 160}, headers=key)
    assert problem(other) == (409, "key-reused")
    renamed = await http.post(f"/v1/sandboxes/{names.pop()}/rename", json={"name": "other"})
    assert renamed.json()["name"] == "other", renamed.text
    assert (await http.delete("/v1/sandboxes/other")).status_code == 204
    assert problem(await http.post(f"/v1/sandboxes/{box}/rename", json={"name": "x"})) == (
        409,
        "still-running",
    )
    assert problem(await http.post("/v1/sandboxes", json=body, headers=key)) == (409, "key-spent")


async def test_a_sandbox_outlives_a_killed_server(server: ServerProcess, tmp_path: Path) -> None:
    """Killed while a create and a command are in progress: the sandboxes go on, and a repetition with the same key
    completes the create."""
    body: dict[str, Any] = {"memory": 128}
    key = {"Idempotency-Key": uuid.uuid4().hex}
    with ServerProcess(tmp_path) as mortal:
        async with mortal.local() as client:
            first = (await client.post("/v1/sandboxes", json={"name": "survivor", "memory": 128})).json()
            running = asyncio.create_task(
                client.post("/v1/sandboxes/survivor/exec", json={"argv": ["sleep", "1000"]})
            )
            before = len(await Sandbox.list())
            creating = asyncio.create_task(client.post("/v1/sandboxes", json=body, headers=key))
            while len(await Sandbox.list()) == before:
                await asyncio.sleep(0.05)
            mortal.kill()
            for task in (running, creating):
                with pytest.raises(httpx.TransportError):
                    await task
    assert alive(first["pid"])
    with ServerProcess(tmp_path) as later:
        async with later.local() as client:
            assert (await client.get("/v1/sandboxes/survivor")).json()["pid"] == first["pid"]
            made = await client.post("/v1/sandboxes", json=body, headers=key)
            assert made.status_code == 201, made.text
            name = made.json()["name"]
            names = {row["name"] for row in (await client.get("/v1/sandboxes")).json()}
            assert names >= {"survivor", name} and len(names) == before + 1
            done = await client.post(f"/v1/sandboxes/{name}/exec", json={"argv": ["echo", "whole"]})
            assert done.json()["stdout"] == "whole\n"
            for each in (name, "survivor"):
                assert (await client.delete(f"/v1/sandboxes/{each}?force=true")).status_code == 204


async def test_stop_wait_and_start_again(http: httpx.AsyncClient, server: ServerProcess) -> None:
    made = await http.post("/v1/sandboxes", json={"name": "cycle", "memory": 128})
    assert made.status_code == 201, made.text
    try:
        early = (await http.get("/v1/sandboxes/cycle/wait?timeout_s=0")).json()
        assert (early["ended"], early["state"]) == (False, "running")
        waiting = asyncio.create_task(http.get("/v1/sandboxes/cycle/wait"))
        stopped = await http.post("/v1/sandboxes/cycle/stop", json={"timeout_s": 60})
        assert stopped.json()["state"] == "stopped"
        assert (await waiting).json()["ended"]
        refused = await http.post("/v1/sandboxes/cycle/exec", json={"argv": ["true"]})
        assert problem(refused) == (409, "not-running")
        assert (await http.post("/v1/sandboxes/cycle/start")).json()["state"] == "running"
        paused = await http.post("/v1/sandboxes/cycle/pause")
        assert paused.json()["state"] == "paused", paused.text
        # A command wakes it.
        woken = await http.post("/v1/sandboxes/cycle/exec", json={"argv": ["echo", "awake"]})
        assert woken.json()["stdout"] == "awake\n"
    finally:
        assert (await http.delete("/v1/sandboxes/cycle?force=true")).status_code == 204


async def test_snapshots_and_forks(http: httpx.AsyncClient, box: str) -> None:
    await http.put(f"/v1/sandboxes/{box}/files?path=/tmp/mark", content=b"here")
    made = await http.post(f"/v1/sandboxes/{box}/snapshots", json={"name": "served-1"})
    assert made.status_code == 201, made.text
    try:
        assert "served-1" in [each["name"] for each in (await http.get("/v1/snapshots")).json()]
        for path, body in (
            ("/v1/snapshots/served-1/restore", {"name": "copy"}),
            (f"/v1/sandboxes/{box}/fork", {"names": ["copy"]}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 201, answer.text
            assert answer.json()[0]["name"] == "copy"
            assert (await http.get("/v1/sandboxes/copy/files?path=/tmp/mark")).content == b"here"
            assert (await http.delete("/v1/sandboxes/copy?force=true")).status_code == 204
    finally:
        assert (await http.delete("/v1/snapshots/served-1")).status_code == 204
    assert problem(await http.get("/v1/snapshots/served-1")) == (404, "unknown-snapshot")


async def test_images_and_volumes(http: httpx.AsyncClient, box: str) -> None:
    assert (await http.get("/v1/images")).status_code == 200
    missing = await http.get("/v1/images/find", params={"reference": "no-such-image:1"})
    assert problem(missing) == (404, "unknown-image")
    name = f"served-{os.getpid()}"
    assert (await http.post("/v1/volumes", json={"name": name})).status_code == 201
    assert name in [volume["name"] for volume in (await http.get("/v1/volumes")).json()]
    assert (await http.delete(f"/v1/volumes/{name}")).status_code == 204
    assert problem(await http.delete(f"/v1/volumes/{name}")) == (404, "unknown-volume")


async def test_tokens_permit_what_their_scope_says(server: ServerProcess, box: str) -> None:
    read, use = new_token("--scope", "read"), new_token("--scope", "use")
    run = {"argv": ["true"]}
    async with server.remote() as nobody, server.remote(read) as reader, server.remote(use) as user:
        assert problem(await nobody.get("/v1/sandboxes")) == (401, "unauthorized")
        assert (await nobody.get("/v1/health")).status_code == 200
        assert (await reader.get(f"/v1/sandboxes/{box}")).json()["env"] == {"WHO": "***"}
        assert (await user.get(f"/v1/sandboxes/{box}")).json()["env"] == {"WHO": "you"}
        assert problem(await reader.post(f"/v1/sandboxes/{box}/exec", json=run)) == (403, "forbidden")
        assert problem(await reader.get(f"/v1/sandboxes/{box}/files?path=/etc/hostname")) == (
            403,
            "forbidden",
        )
        assert (await user.post(f"/v1/sandboxes/{box}/exec", json=run)).json()["returncode"] == 0
        for settings in (
            {"volumes": ["/etc:/host"]},
            {"volumes": [".:/host"]},
            {"rootfs": "/"},
            {"image": "oci:/tmp"},
            {"net_allow_host": ["22"]},
            {"net_allow": ["10.0.0.0/8"]},
            {"ports": ["0.0.0.0:0:80"]},
            {"balloon": {"control_socket": "/tmp/x.sock"}},
        ):
            assert problem(await user.post("/v1/sandboxes", json=settings)) == (403, "forbidden"), settings
        assert problem(await user.post("/v1/volumes", json={"name": "x"})) == (403, "forbidden")
