"""The output of a command that a client reads, leaves and reads again; and the stream of events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.serve.events import KEPT, Event, EventSource
from ballonet.serve.problems import RequestRefusedError
from ballonet.serve.running_commands import KEPT_BYTES, UNREAD_BYTES, Piece, RunningCommand, RunningCommands
from ballonet.serve.server_events import kept_alive


class FakeProcess:
    """A process that writes pieces as fast as they are taken."""

    pid = 7

    def __init__(self, pieces: int, size: int) -> None:
        self._pieces, self._size = pieces, size
        self.written = 0
        self.abandoned = False

    async def events(self) -> AsyncIterator[tuple[str, bytes]]:
        for _ in range(self._pieces):
            await asyncio.sleep(0)
            self.written += 1
            yield "stdout", b"x" * self._size

    async def wait(self) -> Any:
        return SimpleNamespace(returncode=0)

    def abandon(self) -> None:
        self.abandoned = True


def command(process: FakeProcess) -> RunningCommand:
    return RunningCommand("box", ("x",), process, tty=False, unattended_s=1)  # type: ignore[arg-type]


async def settled(process: FakeProcess) -> int:
    """How many pieces it has written when it does not write any more."""
    before = -1
    while before != process.written:
        before = process.written
        for _ in range(20):
            await asyncio.sleep(0)
    return before


@pytest.mark.parametrize("size", [1, 1000, 64 << 10])
async def test_a_command_waits_for_its_reader_and_memory_is_bounded(size: int) -> None:
    process = FakeProcess(20_000, size)
    running = command(process)
    unread = await settled(process)
    assert unread * size <= UNREAD_BYTES + size and unread < 20_000
    pieces = running.output()
    got = [await anext(pieces) for _ in range(unread + 5)]
    assert [piece.number for piece in got] == list(range(1, unread + 6))
    await settled(process)
    held = sum(piece.cost for piece in running._pieces)
    assert held <= KEPT_BYTES + UNREAD_BYTES + 2 * (size + 200)
    await pieces.aclose()  # type: ignore[attr-defined]
    await running.close()
    assert process.abandoned


async def test_readers_that_leave_after_each_piece_do_not_stop_the_command() -> None:
    process = FakeProcess(100, 16 << 10)
    running = command(process)
    for number in range(100):
        await settled(process)
        assert process.written > number, "the command waits for a reader that has everything"
        pieces = running.output(after=number)
        assert (await anext(pieces)).number == number + 1
        await pieces.aclose()  # type: ignore[attr-defined]
    await running.wait()


async def test_a_reader_continues_after_the_last_piece_that_it_has_read() -> None:
    running = command(FakeProcess(2000, 1000))
    first = running.output()
    got = [await anext(first) for _ in range(400)]
    await first.aclose()  # type: ignore[attr-defined]
    got += [piece async for piece in running.output(after=got[-1].number)]
    assert [piece.number for piece in got] == list(range(1, 2001))
    assert running.ended and running.returncode == 0
    with pytest.raises(RequestRefusedError) as caught:
        await anext(running.output(after=0))
    assert caught.value.problem == "output-lost"
    with pytest.raises(RequestRefusedError):
        await anext(running.output(after=2001))
    assert [piece async for piece in running.output(after=2000)] == []


async def test_places_are_given_back() -> None:
    commands = RunningCommands(1)
    with commands.reserve("box"):
        with pytest.raises(RequestRefusedError) as caught:
            commands.reserve("box")
        assert caught.value.status == 429
        commands.reserve("other")
    with commands.reserve("box") as place:
        running = command(FakeProcess(3, 1))
        commands.add(running, place)
    with pytest.raises(RequestRefusedError):
        commands.reserve("box")
    assert [piece async for piece in running.output()] == [Piece(n, "stdout", b"x") for n in (1, 2, 3)]
    await asyncio.sleep(0)
    commands.reserve("box")
    assert commands.get("box", running.id) is running
    with pytest.raises(RequestRefusedError):
        commands.get("other", running.id)
    await commands.close()


async def test_only_the_last_commands_that_have_ended_are_kept() -> None:
    commands = RunningCommands(3)
    added = []
    for _ in range(10):
        with commands.reserve("box") as place:
            added.append(command(FakeProcess(1, 1)))
            commands.add(added[-1], place)
        await added[-1].wait()
        await asyncio.sleep(0)
    assert [each.id for each in commands.of("box")] == [each.id for each in added[-4:]]
    await commands.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("XDG_STATE_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    return tmp_path


def change(name: str, state: State | None = None) -> None:
    """Add a sandbox to the registry, or change its state there."""
    with Registry.open() as registry:
        if state is None:
            registry.add(Record(name=name, created_at=1.5, flags=("--name", name)))
        else:
            registry.update(name, state=state, end_reason="stopped", exit_code=3)


async def in_thread(call: Any, *args: Any) -> Any:
    return await asyncio.to_thread(call, *args)


async def take(source: EventSource, after: str | None, count: int) -> list[tuple[str, str]]:
    """The first events after that one: what each is, and of which sandbox."""
    reading = source.follow(after)
    found = [await anext(reading) for _ in range(count)]
    await reading.aclose()  # type: ignore[attr-defined]
    return [(each.kind, each.data.get("name", "")) for each in found]


async def test_events_are_resumed_by_id_also_with_another_server(home: Path) -> None:
    change("a")
    source = EventSource(in_thread)
    assert await source.newest() == 1
    reading = source.follow()
    waiting = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    change("b")
    source.look()
    first = await waiting
    assert (first.id, first.kind, first.data["name"]) == (2, "created", "b")
    change("c")
    assert await take(source, "1", 2) == [("created", "b"), ("created", "c")]
    await source.close()
    # A server that is started later has the same events.
    later = EventSource(in_thread)
    assert await take(later, "0", 3) == [("created", "a"), ("created", "b"), ("created", "c")]
    assert [each.id async for each in later.logged("1")] == [2, 3]
    for after in ("odd", "00000000-1", "99", "9" * 5000):
        assert (await anext(later.follow(after))).kind == "reset"
        assert [each.kind async for each in later.logged(after)] == ["reset"]
    await later.close()


async def test_a_slow_client_gets_from_the_log_what_memory_does_not_have(home: Path) -> None:
    source = EventSource(in_thread)
    assert await source.newest() == 0
    reading = source.follow()
    waiting = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0)
    change("a")
    first = await waiting
    # Moves of balloons are not stored: those push all else out of the memory.
    for number in range(KEPT + 1):
        source._publish(Event.balloon("a", {"target_mib": number}))
        if number == 0:
            change("b")
    source.look()
    assert first.data["name"] == "a"
    second = await anext(reading)
    while second.kind == "balloon":
        second = await anext(reading)
    assert (second.id, second.kind, second.data["name"]) == (2, "created", "b")
    await source.close()


async def test_events_that_were_dropped_are_told(home: Path) -> None:
    for name in ("a", "b", "c"):
        change(name)
    with Registry.open() as registry, registry.transaction():
        registry.execute("DELETE FROM events WHERE id < 3")
        registry.execute("UPDATE events_dropped SET up_to = 2")
    source = EventSource(in_thread)
    assert await take(source, "1", 1) == [("reset", "")]
    assert await take(source, "2", 1) == [("created", "c")]
    assert await take(source, "0", 1) == [("created", "c")]
    await source.close()


async def test_a_change_of_state_is_told_before_the_event_with_the_id(home: Path) -> None:
    change("a")
    change("a", State.STOPPED)
    source = EventSource(in_thread)
    last = [each async for each in source.logged("1")][-1]
    await source.close()
    state, stopped = (block.splitlines() for block in last.encoded.decode().split("\n\n")[:2])
    assert state[0] == "event: state" and not state[1].startswith("id:")
    assert json.loads(state[1].partition(": ")[2])["exit_code"] == 3
    assert stopped[:2] == ["event: stopped", "id: 2"]


async def test_a_silent_stream_is_kept_alive() -> None:
    release = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        await release.wait()
        yield b"data: 1\n\n"

    stream = kept_alive(events(), every_s=0.001)
    assert [await anext(stream) for _ in range(3)] == [b": keep-alive\n\n"] * 3
    release.set()
    assert b"data: 1\n\n" in [piece async for piece in stream]
