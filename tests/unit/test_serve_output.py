"""The output of a command that a client reads, leaves and reads again; and the stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from ballonet.serve.events import KEPT, EventSource
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


class Quiet(EventSource):
    """Events that the test publishes."""

    def __init__(self) -> None:
        async def none(_: Any) -> list[Any]:
            return []

        super().__init__(none)


async def test_events_are_resumed_or_reset() -> None:
    source = Quiet()
    reading = source.follow()
    waiting = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0.01)
    for number in range(3):
        source._publish("state", {"number": number})
    first = await waiting
    assert first.data["number"] == 0
    again = source.follow(first.id)
    assert [(await anext(again)).data["number"] for _ in range(2)] == [1, 2]
    for after in ("odd", "00000000-1", f"{source._epoch}-99", f"{source._epoch}-{'9' * 5000}"):
        assert (await anext(source.follow(after))).kind == "reset"
    # A reader that was too slow starts anew.
    for number in range(KEPT + 1):
        source._publish("state", {"number": number})
    assert (await anext(reading)).kind == "reset"
    assert (await anext(source.follow(first.id))).kind == "reset"
    await source.close()


async def test_a_silent_stream_is_kept_alive() -> None:
    release = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        await release.wait()
        yield b"data: 1\n\n"

    stream = kept_alive(events(), every_s=0.001)
    assert [await anext(stream) for _ in range(3)] == [b": keep-alive\n\n"] * 3
    release.set()
    assert b"data: 1\n\n" in [piece async for piece in stream]
