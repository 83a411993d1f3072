"""The server over real sockets with a scripted sandbox: what it answers, and that no client harms another."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import BalloonError
from ballonet.control.client import Client
from ballonet.control.connection import Limits
from ballonet.control.protocol import LINE_LIMIT
from tests.unit.fake_backend import FakeBackend, serving

FAKE = Path(__file__).with_name("fake_backend.py")

#: For what must happen: a failure takes this long, a success does not.
PATIENCE_S = 60.0


class Raw:
    """A client that can misbehave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Raw:
        return cls(*await asyncio.open_unix_connection(path, limit=1 << 20))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def line(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readline()

    async def message(self) -> Any:
        return json.loads(await self.line())

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until ``true()`` holds; the test fails if it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.001)


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def exchange(path: Path, data: bytes, *, half_close: bool = False) -> bytes:
    client = await Raw.connect(path)
    try:
        try:
            await client.send(data)
            if half_close:
                client.writer.write_eof()
        except ConnectionError:
            pass
        return await client.rest()
    finally:
        client.close()


def call(method: str, request_id: object = 1, **params: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


# --- the plain protocol ---


@pytest.mark.parametrize(
    ("data", "reply", "target"),
    [
        (b"512\n", b"OK 131072\n", 512),
        (b" 512 \n", b"OK 131072\n", 512),
        (b"512\r\n", b"OK 131072\n", 512),
        (b"0\n", b"OK 196608\n", 0),
        (b"100\n", b"OK 196608\n", 100),
        (b"4096\n", b"OK 0\n", 4096),
        (b"9" * 1000 + b"\n", b"OK 0\n", 16 << 20),
        (b"512\n300\n", b"OK 131072\n", 512),
    ],
)
async def test_plain_target_is_clamped_and_answered(
    tmp_path: Path, data: bytes, reply: bytes, target: int
) -> None:
    backend = FakeBackend()
    async with serving(tmp_path / "s", backend):
        assert await exchange(tmp_path / "s", data) == reply
    assert backend.targets == [target]


async def test_plain_target_may_end_with_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()):
        assert await exchange(tmp_path / "s", b"512", half_close=True) == b"OK 131072\n"
    assert backend.targets == [512]


@pytest.mark.parametrize(
    "data",
    [
        b"-1\n",
        b"1.5\n",
        b"abc\n",
        b"\n",
        b"1" * (1 << 20) + b"\n",
        b"1" * (1 << 20),
        b"1" * (LINE_LIMIT + 1) + b"\n",
        bytes(range(10)) * 3000,
        b"\xff" * (1 << 20),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_plain_nonsense_is_one_line_of_error_and_the_server_goes_on(
    tmp_path: Path, data: bytes
) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()):
        reply = await exchange(tmp_path / "s", data, half_close=True)
        assert reply.startswith(b"ERR ") and reply.endswith(b"\n") and reply.count(b"\n") == 1
        assert await exchange(tmp_path / "s", b"300\n") == b"OK 185344\n"
    assert backend.targets == [300]


async def test_nothing_at_all_is_an_error_line(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        assert (await exchange(tmp_path / "s", b"", half_close=True)).startswith(b"ERR nothing was sent")


async def test_client_that_leaves_half_way_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()) as server:
        for beginning in (b"", b"5x", b'{"jsonrpc":'):
            client = await Raw.connect(tmp_path / "s")
            await client.send(beginning)
            client.close()
        await until(lambda: server.connections == 0)
        assert backend.targets == []
        assert await exchange(tmp_path / "s", b"300\n") == b"OK 185344\n"


async def test_plain_error_of_the_sandbox_is_one_line(tmp_path: Path) -> None:
    backend = FakeBackend()
    async with serving(tmp_path / "s", backend):
        backend.failure = BalloonError("the engine\nhas ended")
        assert await exchange(tmp_path / "s", b"512\n") == b"ERR the engine has ended\n"
        backend.has_balloon = False
        assert await exchange(tmp_path / "s", b"512\n") == b"ERR this sandbox has no balloon\n"


# --- JSON-RPC ---


async def test_replies_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        lines = [
            call("balloon.set", n, target_mib=300 + n) if n % 3 else call("balloon.get", n) for n in range(50)
        ]
        replies = (await exchange(tmp_path / "s", b"".join(lines), half_close=True)).splitlines()
        assert [json.loads(reply)["id"] for reply in replies] == list(range(50))


async def test_request_may_come_in_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        client = await Raw.connect(tmp_path / "s")
        for byte in call("balloon.get"):
            await client.send(bytes([byte]))
        assert (await client.message())["result"]["target_mib"] == 512
        client.close()


async def test_notification_is_carried_out_and_not_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()):
        message = b'{"jsonrpc":"2.0","method":"balloon.set","params":{"target_mib":400}}\n'
        replies = (
            await exchange(tmp_path / "s", message + call("balloon.get"), half_close=True)
        ).splitlines()
        assert len(replies) == 1 and json.loads(replies[0])["result"]["target_mib"] == 400
    assert backend.targets == [400]


async def test_bad_message_does_not_end_the_connection(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        client = await Raw.connect(tmp_path / "s")
        await client.send(b"{nonsense}\n\n512\n[]\n" + call("nothing") + call("version"))
        codes = [(await client.message())["error"]["code"] for _ in range(4)]
        assert codes == [-32700, -32600, -32600, -32601]
        assert (await client.message())["result"]["protocol"] == 1
        client.close()


async def test_endless_json_line_is_refused_in_json(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        reply = json.loads(await exchange(tmp_path / "s", b'{"x":"' + b"a" * (1 << 20)))
        assert reply["error"]["data"]["name"] == "line-too-long"


async def test_strict_refuses_and_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()):
        client = await Raw.connect(tmp_path / "s")
        for target, bound in ((100, "floor is 256 MiB"), (2000, "ceiling is 1024 MiB")):
            await client.send(call("balloon.set", target_mib=target, strict=True))
            error = (await client.message())["error"]
            assert error["data"]["name"] == "out-of-range" and bound in error["message"]
        client.close()
    assert backend.targets == []


async def test_limit_clamps_and_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.limit", limit_mib=600) + call("balloon.set", target_mib=800))
        assert (await client.message())["result"]["limit_mib"] == 600
        result = (await client.message())["result"]
        assert (result["requested_mib"], result["target_mib"], result["clamped"]) == (800, 600, "limit")
        await client.send(call("balloon.limit", limit_mib=100))
        assert (await client.message())["error"]["data"]["name"] == "out-of-range"
        client.close()


@pytest.mark.parametrize("method", ["balloon.get", "balloon.set", "balloon.watch", "balloon.limit"])
async def test_sandbox_without_a_balloon_says_so(tmp_path: Path, method: str) -> None:
    params = {"balloon.set": {"target_mib": 300}, "balloon.limit": {"limit_mib": 300}}.get(method, {})
    async with serving(tmp_path / "s", FakeBackend(has_balloon=False)):
        reply = json.loads(await exchange(tmp_path / "s", call(method, **params), half_close=True))
        assert reply["error"]["data"]["name"] == "no-balloon"


async def test_failure_of_the_sandbox_is_told_with_its_kind(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.failure = BalloonError("the engine has ended", hint="start it again")
    async with serving(tmp_path / "s", backend):
        reply = json.loads(await exchange(tmp_path / "s", call("stats"), half_close=True))
        assert reply["error"]["message"] == "the engine has ended"
        assert reply["error"]["data"] == {"name": "failed", "hint": "start it again", "code": "balloon"}


async def test_defect_of_the_sandbox_is_logged_and_does_not_end_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    backend.failure = ZeroDivisionError("secret")
    async with serving(tmp_path / "s", backend):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("stats") + call("balloon.get"))
        error = (await client.message())["error"]
        assert error["code"] == -32603 and "secret" not in error["message"]
        assert "result" in await client.message()
        client.close()
    assert "ZeroDivisionError" in caplog.text


async def test_sandbox_that_does_not_answer_is_a_timeout(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.stall = asyncio.Event()
    async with serving(tmp_path / "s", backend, limits=Limits(call_s=0.05)):
        reply = json.loads(await exchange(tmp_path / "s", call("stats"), half_close=True))
        assert reply["error"]["data"]["name"] == "timed-out"


async def test_second_trim_is_told_that_one_runs(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.stall = asyncio.Event()
    async with serving(tmp_path / "s", backend):
        first = await Raw.connect(tmp_path / "s")
        await first.send(call("guest.trim"))
        await until(lambda: bool(backend.trims))
        reply = json.loads(await exchange(tmp_path / "s", call("guest.trim"), half_close=True))
        assert reply["error"]["data"]["name"] == "busy"
        backend.stall.set()
        assert (await first.message())["result"]["returned_mib"] == 110
        first.close()


# --- waiting and watching ---


async def test_wait_answers_when_the_guest_has_followed(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend(follows=False)):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.set", target_mib=300, wait=True))
        await until(lambda: backend.waiting == 1)
        backend.change(actual_mib=400)
        backend.change(actual_mib=300, state="applied")
        result = (await client.message())["result"]
        assert (result["outcome"], result["state"], result["actual_mib"]) == ("settled", "applied", 300)
        client.close()


async def test_wait_that_runs_out_tells_how_far_it_came(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", FakeBackend(follows=False)):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.set", target_mib=300, wait=True, timeout_s=0.01))
        result = (await client.message())["result"]
        assert (result["outcome"], result["state"], result["actual_mib"]) == ("timeout", "converging", 512)
        client.close()


async def test_later_set_tells_the_earlier_waiter_that_it_was_superseded(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend(follows=False)):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.set", target_mib=300, wait=True))
        await until(lambda: backend.waiting == 1)
        assert await exchange(tmp_path / "s", b"400\n") == b"OK 159744\n"
        result = (await client.message())["result"]
        assert (result["outcome"], result["requested_mib"], result["target_mib"]) == ("superseded", 300, 300)
        client.close()


async def test_slow_call_of_one_client_does_not_hold_up_another(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.stall = asyncio.Event()
    async with serving(tmp_path / "s", backend):
        slow = await Raw.connect(tmp_path / "s")
        await slow.send(call("stats") + call("version", 2))
        quick = await exchange(tmp_path / "s", call("balloon.get"), half_close=True)
        assert json.loads(quick)["result"]["target_mib"] == 512
        backend.stall.set()
        assert [(await slow.message())["id"] for _ in range(2)] == [1, 2]
        slow.close()


async def test_client_killed_while_it_waits_frees_its_place_and_the_target_stays(tmp_path: Path) -> None:
    backend = FakeBackend(follows=False)
    async with serving(tmp_path / "s", backend, limits=Limits(sweep_s=0.01)) as server:
        script = f"import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect({str(tmp_path / 's')!r})\n"
        script += f"s.sendall({call('balloon.set', target_mib=300, wait=True, timeout_s=3600)!r}); s.recv(1)"
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        await until(lambda: backend.waiting == 1)
        client.kill()
        await client.wait()
        await until(lambda: server.connections == 0 and backend.waiting == 0)
    assert backend.targets == [300]


async def test_client_that_only_ended_its_sending_side_is_still_answered(tmp_path: Path) -> None:
    backend = FakeBackend(follows=False)
    async with serving(tmp_path / "s", backend, limits=Limits(sweep_s=0.01)):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.set", target_mib=300, wait=True))
        client.writer.write_eof()
        await until(lambda: backend.waiting == 1)
        await asyncio.sleep(0.1)  # several looks at the connection
        backend.change(state="guest-refused", actual_mib=350)
        assert (await client.message())["result"]["state"] == "guest-refused"
        assert await client.rest() == b""
        client.close()


async def test_target_is_applied_though_its_client_left_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()) as server:
        for data in (b"300\n", call("balloon.set", target_mib=400)):
            client = await Raw.connect(tmp_path / "s")
            await client.send(data)
            client.close()
            await until(lambda: server.connections == 0 and bool(backend.targets))
        await until(lambda: len(backend.targets) == 2)
    assert backend.targets == [300, 400]


async def test_watcher_is_told_of_changes_and_may_ask_meanwhile(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()):
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.watch"))
        assert (await client.message())["result"]["actual_mib"] == 512
        backend.change(actual_mib=400)
        changed = await client.message()
        assert changed["method"] == "balloon.changed" and changed["params"]["actual_mib"] == 400
        await client.send(call("version", 2) + call("balloon.watch", 3))
        assert [(await client.message())["id"] for _ in range(2)] == [2, 3]
        backend.change(actual_mib=300)
        assert (await client.message())["params"]["actual_mib"] == 300
        client.close()


async def test_watcher_that_leaves_frees_its_place(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", limits=Limits(sweep_s=0.01)) as server:
        client = await Raw.connect(tmp_path / "s")
        await client.send(call("balloon.watch"))
        await client.message()
        client.close()
        await until(lambda: server.connections == 0)


async def test_slow_watcher_misses_changes_but_not_the_last_and_costs_no_memory(tmp_path: Path) -> None:
    changes = 20_000
    # However long a busy machine takes for the changes, the watcher is not dropped for reading nothing meanwhile.
    limits = Limits(write_s=PATIENCE_S)
    async with serving(tmp_path / "s", backend := FakeBackend(), limits=limits):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(tmp_path / "s"))
        client.sendall(call("balloon.watch"))
        client.setblocking(False)
        reply = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), PATIENCE_S)
        assert b'"result"' in reply
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for n in range(changes):
            backend.change(actual_mib=n)
            await asyncio.sleep(0)
        backend.change(actual_mib=1)
        assert (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024
        )  # KiB; unread: 7 MiB a copy
        reader, writer = await asyncio.open_unix_connection(sock=client)
        seen: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            while not seen or seen[-1] != 1 or len(seen) < 3:
                seen.append(json.loads(await reader.readline())["params"]["actual_mib"])
        assert len(seen) < changes // 10
        assert seen[:-1] == sorted(seen[:-1])
        writer.close()


# --- clients that do harm ---


async def test_silent_and_dripping_clients_are_told_and_let_go(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", limits=Limits(line_s=0.2, sweep_s=0.02)) as server:
        silent = await Raw.connect(tmp_path / "s")
        dripping = await Raw.connect(tmp_path / "s")
        json_dripping = await Raw.connect(tmp_path / "s")
        await json_dripping.send(call("version") + b"{")
        assert "result" in await json_dripping.message()

        async def drip() -> None:
            while True:
                await dripping.send(b"1")
                await asyncio.sleep(0.01)

        drops = asyncio.create_task(drip())
        assert (await silent.rest()).startswith(b"ERR no complete request within")
        assert (await dripping.rest()).startswith(b"ERR no complete request within")
        assert (await json_dripping.message())["error"]["data"]["name"] == "timed-out"
        drops.cancel()
        for client in (silent, dripping, json_dripping):
            client.close()
        await until(lambda: server.connections == 0)


async def test_idle_client_is_let_go_but_not_a_watcher(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend(), limits=Limits(idle_s=0.1, sweep_s=0.02)):
        watcher = await Raw.connect(tmp_path / "s")
        await watcher.send(call("balloon.watch"))
        await watcher.message()
        idle = await Raw.connect(tmp_path / "s")
        await idle.send(call("version"))
        await idle.message()
        assert (await idle.message())["error"]["data"]["name"] == "timed-out"
        assert await idle.rest() == b""
        backend.change(actual_mib=300)
        assert (await watcher.message())["params"]["actual_mib"] == 300
        idle.close()
        watcher.close()


async def test_client_that_never_reads_is_dropped_and_its_memory_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", limits=Limits(write_s=0.1, sweep_s=0.02)) as server:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(str(tmp_path / "s"))
        sent = 0
        request = call("balloon.get") * 100
        async with asyncio.timeout(PATIENCE_S):
            try:
                while True:
                    await asyncio.get_running_loop().sock_sendall(client, request)
                    sent += len(request)
            except ConnectionError:
                pass
        assert sent < 4 << 20
        await until(lambda: server.connections == 0)
        client.close()


async def test_client_that_never_closes_after_the_reply_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", limits=Limits(linger_s=0.05, sweep_s=0.01)) as server:
        client = await Raw.connect(tmp_path / "s")
        await client.send(b"512\n")
        assert await client.rest() == b"OK 131072\n"
        await until(lambda: server.connections == 0)
        client.close()


async def test_too_many_connections_are_refused_clearly_and_accepted_again_later(tmp_path: Path) -> None:
    for limits, whose in ((Limits(per_user=3), "the most per user"), (Limits(total=3), "the most in all")):
        async with serving(tmp_path / "s", limits=limits) as server:
            clients = [await Raw.connect(tmp_path / "s") for _ in range(3)]
            await until(lambda server=server: server.connections == 3)  # type: ignore[misc]
            refused = await exchange(tmp_path / "s", b"")
            assert refused.startswith(b"ERR too many connections") and whose.encode() in refused
            clients.pop().close()
            await until(lambda server=server: server.connections == 2)  # type: ignore[misc]
            assert await exchange(tmp_path / "s", b"512\n") == b"OK 131072\n"
            for client in clients:
                client.close()


async def test_no_target_is_lost_among_hostile_clients(tmp_path: Path) -> None:
    targets = [256 + n for n in range(300)]
    async with serving(tmp_path / "s", backend := FakeBackend()) as server:
        silent = [await Raw.connect(tmp_path / "s") for _ in range(200)]
        dripping = [await Raw.connect(tmp_path / "s") for _ in range(50)]
        deaf = socket.socket(socket.AF_UNIX)
        deaf.setblocking(False)
        deaf.connect(str(tmp_path / "s"))
        await until(lambda: server.connections == 251)

        async def flood() -> None:
            while True:
                await asyncio.get_running_loop().sock_sendall(deaf, call("balloon.get") * 50)

        async def drip() -> None:
            while True:
                for client in dripping:
                    client.writer.write(b" ")
                await asyncio.sleep(1)

        hostile = [asyncio.create_task(flood()), asyncio.create_task(drip())]
        async with await Client.connect(tmp_path / "s") as honest:
            for target in targets:
                reply = await honest.set(target, wait=True)
                assert (reply.target_mib, reply.outcome) == (target, "settled")
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
        deaf.close()
        for client in (*silent, *dripping):
            client.close()
    assert backend.targets == targets


async def test_pipelining_client_leaves_others_their_turn(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        greedy = await Raw.connect(tmp_path / "s")
        greedy.writer.write(call("balloon.get") * 2000)
        honest = await exchange(tmp_path / "s", call("balloon.get"), half_close=True)
        assert b'"result"' in honest
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(2000):
                assert b'"result"' in await greedy.reader.readline()
        greedy.close()


EMFILE_SCRIPT = """
import asyncio, os, pathlib, resource, sys
sys.path.insert(0, {tests!r})
from fake_backend import serving

async def ask(data):
    # the client's own descriptor is opened before they run out
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, path)
    await loop.sock_sendall(client, data)
    return await asyncio.wait_for(loop.sock_recv(client, 4096), 60)

async def main():
    global client
    async with serving(pathlib.Path(path)) as server:
        for turn in range(3):
            while server.connections:
                await asyncio.sleep(0.001)
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            client = socket.socket(socket.AF_UNIX)
            hoard = []
            try:
                while True:
                    hoard.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            print((await ask(b"512\\n")).decode().strip())
            client.close()
            for fd in hoard:
                os.close(fd)
            client = socket.socket(socket.AF_UNIX)
            print((await ask(b"512\\n")).decode().strip())
            client.close()

import socket
path = sys.argv[1]
asyncio.run(main())
"""


def test_lack_of_descriptors_refuses_the_client_and_leaves_the_listener_alive(tmp_path: Path) -> None:
    script = EMFILE_SCRIPT.format(tests=str(FAKE.parent))
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "s"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused = "ERR the sandbox is out of file descriptors: try again later"
    assert done.stdout.splitlines() == [refused, "OK 131072"] * 3


async def test_accept_that_fails_for_lack_of_memory_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path / "s") as server:
        failures = [OSError(12, "Cannot allocate memory")] * 3
        listener = server._control_socket.socket

        class Failing:
            def accept(self) -> object:
                if failures:
                    raise failures.pop()
                return listener.accept()

            def fileno(self) -> int:
                return listener.fileno()

            def close(self) -> None:
                listener.close()

        monkeypatch.setattr(server._control_socket, "socket", Failing())
        assert await exchange(tmp_path / "s", b"512\n") == b"OK 131072\n"
        assert not failures


# --- the file and the end ---


async def test_deleted_socket_is_bound_again_and_open_connections_stay(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, limits=Limits(check_socket_s=0.02)):
        before = await Raw.connect(path)
        await before.send(call("version"))
        await before.message()
        for _ in range(2):
            path.unlink()
            await until(lambda: path.is_socket())
            assert await exchange(path, b"512\n") == b"OK 131072\n"
            assert path.stat().st_mode & 0o777 == 0o600
        await before.send(call("balloon.get"))
        assert (await before.message())["result"]["target_mib"] == 512
        before.close()
    assert not list(tmp_path.iterdir())


async def test_socket_whose_place_is_taken_comes_back_when_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    async with serving(path, limits=Limits(check_socket_s=0.01)):
        path.unlink()
        path.write_text("somebody else's")
        await until(lambda: "cannot be bound again" in caplog.text)
        assert path.read_text() == "somebody else's"
        path.unlink()
        await until(lambda: path.is_socket())
        assert await exchange(path, b"512\n") == b"OK 131072\n"
    assert caplog.text.count("cannot be bound again") == 1


async def test_close_ends_clients_and_leaves_no_file_and_no_descriptor(tmp_path: Path) -> None:
    descriptors = descriptors_open()
    async with serving(tmp_path / "s", FakeBackend(follows=False)) as server:
        waiting = await Raw.connect(tmp_path / "s")
        await waiting.send(call("balloon.set", target_mib=300, wait=True))
        watching = await Raw.connect(tmp_path / "s")
        await watching.send(call("balloon.watch"))
        await watching.message()
        silent = await Raw.connect(tmp_path / "s")
        await until(lambda: server.connections == 3)
    for client in (waiting, watching, silent):
        await client.rest()
        client.close()
        await client.writer.wait_closed()
    await until(lambda: descriptors_open() == descriptors)
    assert not list(tmp_path.iterdir())
    await server.close()


async def test_many_connections_leave_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server:
        descriptors = descriptors_open()
        for n in range(500):
            assert await exchange(tmp_path / "s", b"512\n" if n % 2 else call("version"), half_close=True)
        await until(lambda: server.connections == 0)
        await until(lambda: descriptors_open() <= descriptors)
