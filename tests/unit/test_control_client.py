"""The clients against a real server, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import ballonet.control
from ballonet.base.errors import ControlError, ControlRefusedError
from ballonet.control import calls
from ballonet.control.backend import TrimRequest
from ballonet.control.client import Client
from ballonet.control.client_blocking import send_plain
from ballonet.control.connection import Limits
from ballonet.control.sync_client import SyncClient
from tests.unit.fake_backend import FakeBackend, serving


@asynccontextmanager
async def answering(path: Path, answer: bytes, *, then_close: bool = True) -> AsyncIterator[None]:
    """A server that reads one line, says ``answer`` and closes, or goes on to say nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readline()
            writer.write(answer)
            await writer.drain()
            if not then_close:
                await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield


async def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(work, *args), 60)


async def test_client_calls_every_method(tmp_path: Path) -> None:
    backend = FakeBackend()
    async with serving(tmp_path / "s", backend), await Client.connect(tmp_path / "s") as client:
        version = await client.version()
        assert version.protocol == 1 and version.capabilities.engine == "QEMU 7.2.0"
        assert (await client.get()) == backend.feed.snapshot
        reply = await client.set(100, force=True)
        assert (reply.requested_mib, reply.target_mib, reply.clamped, reply.outcome) == (
            100,
            256,
            "floor",
            "accepted",
        )
        assert backend.forced == [True]
        assert (await client.set(300, wait=True)).outcome == "settled"
        assert (await client.limit(600)).limit_mib == 600
        assert (await client.limit(None)).limit_mib is None
        stats = await client.stats()
        assert stats.guest.available_mib == 380 and stats.guest.swap_in_mib is None and stats.oom_kills == 0
        assert stats.pressure.some_avg60 == 1.25 and stats.host.pss_mib == 371
        assert (await client.trim(TrimRequest(caches_percent=50))).returned_mib == 110
        assert backend.trims == [TrimRequest(caches_percent=50)]


async def test_sync_client_calls_every_method(tmp_path: Path) -> None:
    backend = FakeBackend()

    def work() -> None:
        with SyncClient(tmp_path / "s") as client:
            assert client.version().capabilities.accelerator == "tcg"
            assert client.get().target_mib == 512
            assert client.set(300, wait=True).outcome == "settled"
            assert client.limit(600).limit_mib == 600
            assert client.stats().host.resident_mib == 390
            assert client.trim().complete
            with pytest.raises(ControlRefusedError) as caught:
                client.set(100, strict=True)
            assert caught.value.name == "out-of-range"
            assert client.get().target_mib == 300

    async with serving(tmp_path / "s", backend):
        await in_thread(work)


async def test_sync_client_watches(tmp_path: Path) -> None:
    backend = FakeBackend()
    seen: list[int | None] = []
    first = threading.Event()

    def work() -> None:
        with SyncClient(tmp_path / "s") as client:
            for snapshot in client.watch():
                seen.append(snapshot.actual_mib)
                first.set()
                if len(seen) == 2:
                    break

    async with serving(tmp_path / "s", backend):
        watching = asyncio.create_task(in_thread(work))
        await in_thread(first.wait, 60)
        backend.change(actual_mib=300)
        await watching
    assert seen == [512, 300]


async def test_watch_tells_changes_while_the_client_goes_on(tmp_path: Path) -> None:
    backend = FakeBackend()
    async with serving(tmp_path / "s", backend), await Client.connect(tmp_path / "s") as client:
        seen = []
        watch = client.watch()
        async for snapshot in watch:
            seen.append(snapshot.target_mib)
            if len(seen) == 1:
                await client.set(300)
            elif snapshot.state == "applied":
                break
        await watch.aclose()  # type: ignore[attr-defined]
    assert seen[0] == 512 and seen[-1] == 300


async def test_watch_that_loses_its_sandbox_is_an_error(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server:
        client = await Client.connect(tmp_path / "s")
        watch = client.watch()
        await anext(watch)
        await server.close()
        with pytest.raises(ControlError, match="closed the connection"):
            await anext(watch)
        await client.close()


async def test_refusal_carries_name_and_hint(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"), await Client.connect(tmp_path / "s") as client:
        with pytest.raises(ControlRefusedError, match="floor is 256 MiB") as caught:
            await client.set(1, strict=True)
        assert caught.value.name == "out-of-range" and caught.value.hint
        with pytest.raises(ControlRefusedError) as caught:
            await client.set(-1)
        assert caught.value.name == "invalid-params"
        assert (await client.get()).target_mib == 512


async def test_call_that_was_given_up_does_not_confuse_the_next(tmp_path: Path) -> None:
    backend = FakeBackend(follows=False)
    async with serving(tmp_path / "s", backend), await Client.connect(tmp_path / "s") as client:
        waiting = asyncio.create_task(client.set(300, wait=True))
        while backend.waiting == 0:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        backend.change(actual_mib=300, state="applied")
        assert (await client.get()).actual_mib == 300


async def test_calls_of_many_tasks_share_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, await Client.connect(tmp_path / "s") as client:
        replies = await asyncio.gather(*(client.set(300 + n) for n in range(50)))
        assert [reply.requested_mib for reply in replies] == [300 + n for n in range(50)]
        assert server.connections == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (b"ERR not a number\n", "supports only the plain protocol", "older"),
        (b"OK 5\n", "supports only the plain protocol", "older"),
        (b"", "closed the connection without answering version", "does not support"),
        (b'{"jsonrpc":', "closed the connection", "does not support"),
        (b"nonsense\n", "not a message", None),
        (b"[]\n", "an array instead of a message", None),
        (b"\xff\xfe\n", "not UTF-8", None),
        (b"x" * (1 << 20), "a line of more than", None),
        (b"ERR not permitted: uid 5 (pid 6) may not use this socket\n", "not permitted: uid 5", "owner"),
        (b"ERR too many connections: 3\n", "too many", "later"),
    ],
)
async def test_server_that_misbehaves_is_a_clear_error(
    tmp_path: Path, kind: str, answer: bytes, message: str, hint: str | None
) -> None:
    path = tmp_path / "s"

    def work() -> None:
        with SyncClient(path) as client:
            client.version()

    async with answering(path, answer):
        with pytest.raises(ControlError, match=message) as caught:
            if kind == "sync":
                await in_thread(work)
            else:
                async with await Client.connect(path) as client:
                    await client.version()
    if hint is not None:
        assert caught.value.hint is not None and hint in caught.value.hint


async def test_reply_of_another_form_is_a_clear_error(tmp_path: Path) -> None:
    for result in (b"null", b"5", b'{"protocol":1}', b'{"protocol":"one","program":"x","capabilities":{}}'):
        path = tmp_path / "s"

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, result: bytes = result
        ) -> None:
            client_id = json.loads(await reader.readline())["id"]
            writer.write(b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (client_id, result))
            writer.close()

        async with await asyncio.start_unix_server(serve, path), await Client.connect(path) as client:
            with pytest.raises(ControlError, match="not as documented"):
                await client.version()
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("code", [{"a": 1}, [], None, "x", 1.5, True, -1])
def test_error_with_an_absurd_code_is_a_refusal(code: object) -> None:
    call = calls.make_call("version")
    message = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "no"}}
    for read in (lambda: calls.result_of(call, message), lambda: calls.change_of(message)):
        with pytest.raises(ControlRefusedError, match="no") as caught:
            read()
        assert caught.value.name == "failed"


async def test_members_of_a_newer_server_are_left_out(tmp_path: Path) -> None:
    snapshot = FakeBackend().feed.snapshot
    call = calls.make_call("balloon.get")
    message = {
        "jsonrpc": "2.0",
        "id": call.id,
        "result": {**dataclasses.asdict(snapshot), "new_in_2030": [1]},
    }
    assert calls.result_of(call, message) == snapshot


async def test_server_that_stalls_is_a_deadline(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def work() -> None:
        with SyncClient(path, deadline_s=0.05) as client:
            client.get()

    async with answering(path, b"", then_close=False):
        with pytest.raises(ControlError, match=r"did not answer balloon\.get within 0\.05 s"):
            await in_thread(work)
        async with await Client.connect(path, deadline_s=0.05) as client:
            with pytest.raises(ControlError, match="did not answer"):
                await client.get()
        with pytest.raises(ControlError, match="did not answer"):
            await in_thread(lambda: send_plain(path, 5, deadline_s=0.05))


async def test_dripping_server_does_not_put_off_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with await asyncio.start_unix_server(serve, path):
        with pytest.raises(ControlError, match="did not answer"):
            await in_thread(lambda: SyncClient(path, deadline_s=0.1).get())
        with pytest.raises(ControlError, match="did not answer"):
            await in_thread(lambda: send_plain(path, 5, deadline_s=0.1))


def test_path_that_leads_nowhere_is_named_with_its_cause(tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(stale))
    (tmp_path / "file").touch()
    causes = {
        str(tmp_path / "missing"): "there is no socket",
        str(stale): "no process is listening",
        "": "the path is empty",
        "x" * 108: "the maximum is 107",
        str(tmp_path / "file"): "no process is listening",
    }
    for path, cause in causes.items():
        with pytest.raises(ControlError, match=cause) as caught:
            SyncClient(path)
        assert repr(path) in str(caught.value) and caught.value.hint
        with pytest.raises(ControlError, match=cause):
            asyncio.run(Client.connect(path))
        with pytest.raises(ControlError, match=cause):
            send_plain(path, 5)


async def test_plain_target(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", backend := FakeBackend()):
        assert await in_thread(send_plain, tmp_path / "s", 512) == 131072
        with pytest.raises(ControlRefusedError, match="not a target"):
            await in_thread(send_plain, tmp_path / "s", -5)
    assert backend.targets == [512]
    async with answering(tmp_path / "t", b"HTTP/1.1 400\r\n"):
        with pytest.raises(ControlError, match="answered"):
            await in_thread(send_plain, tmp_path / "t", 5)
    async with answering(tmp_path / "u", b""):
        with pytest.raises(ControlError, match="without answering"):
            await in_thread(send_plain, tmp_path / "u", 5)


async def test_full_server_refuses_a_client_clearly(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "s", limits=Limits(per_user=1)),
        await Client.connect(tmp_path / "s") as first,
    ):
        await first.version()
        async with await Client.connect(tmp_path / "s") as second:
            with pytest.raises(ControlRefusedError, match="too many connections"):
                await second.version()
        with pytest.raises(ControlRefusedError, match="too many connections"):
            await in_thread(send_plain, tmp_path / "s", 300)


async def test_refused_client_that_has_yet_to_send_can_read_why(tmp_path: Path) -> None:
    """Many programs give up as soon as they cannot write; they, too, are to see the line."""
    kept = 32
    async with (
        serving(tmp_path / "s", limits=Limits(per_user=1, linger_s=3600)),
        contextlib.AsyncExitStack() as end,
    ):
        first = await end.enter_async_context(await Client.connect(tmp_path / "s"))
        await first.version()
        refused = []
        for _ in range(2 * kept):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            end.callback(writer.close)
            assert (await reader.readline()).startswith(b"ERR too many connections")
            refused.append((reader, writer))
        for reader, writer in refused[-kept:]:
            writer.write(b"300\n")
            await writer.drain()
            assert await reader.read() == b""
        reader, writer = refused[0]  # no more are kept, however many come
        with pytest.raises(ConnectionError):
            writer.write(b"300\n")
            await writer.drain()
            await reader.read()
        assert (await first.version()).protocol == 1


async def test_full_queue_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as crowd:
        listener.bind(str(path))
        listener.listen(0)
        probe = socket.socket(socket.AF_UNIX)
        while probe.connect_ex(str(path)) == 0:
            crowd.enter_context(probe)
            probe = crowd.enter_context(socket.socket(socket.AF_UNIX))
            probe.setblocking(False)
        with pytest.raises(ControlError, match="did not answer connect"):
            await Client.connect(path, deadline_s=0.05)
        with pytest.raises(ControlError, match="did not answer connect"):
            SyncClient(path, deadline_s=0.05)
        connecting = asyncio.create_task(Client.connect(path, deadline_s=60))
        while not connecting.done():
            await asyncio.sleep(0.01)
            with contextlib.suppress(BlockingIOError):
                listener.setblocking(False)
                listener.accept()[0].close()
        await (await connecting).close()


def test_package_offers_its_clients() -> None:
    assert ballonet.control.Client is Client
    assert ballonet.control.SyncClient is SyncClient
    assert ballonet.control.send_plain is send_plain
    with pytest.raises(AttributeError):
        ballonet.control.nothing  # noqa: B018


async def test_client_that_was_idle_for_longer_than_the_server_waits_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ballonet.control.client_blocking.IDLE_S", 0.0)
    limits = Limits(line_s=0.05, idle_s=0.05, sweep_s=0.01)
    async with (
        serving(tmp_path / "s", FakeBackend(), limits=limits) as server,
        await Client.connect(tmp_path / "s") as client,
    ):
        sync = await in_thread(SyncClient, tmp_path / "s")
        for _ in range(2):
            while server.connections:
                await asyncio.sleep(0.01)  # until the server has had enough of them
            assert (await client.get()).ceiling_mib == (await in_thread(sync.get)).ceiling_mib
        sync.close()


def test_words_of_a_server_are_bounded_and_cannot_rearrange_a_terminal() -> None:
    error = calls.refusal_from({"code": -32602, "message": "\x1b[2J" + "x" * 5000, "data": {"hint": "\r\n"}})
    assert "\x1b" not in error.message
    assert len(error.message) <= 1000
    assert error.hint is not None
    assert error.hint.isprintable()
