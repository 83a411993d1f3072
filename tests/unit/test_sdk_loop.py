"""The loop behind the synchronous SDK: threads, forks, interruptions, the program's end. Without sandboxes."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ballonet.base.errors import EventLoopError
from ballonet.base.forked import keep_from_children
from ballonet.base.paths import exclusive, exclusive_if_free
from ballonet.sdk.connections import PerLoop
from ballonet.sdk.sync_loop import LOOP, Loop

#: What a program says at its end must be this and nothing else: no warnings, no traceback.
_PYTHON = [sys.executable, "-X", "dev", "-W", "error", "-c"]


def run_program(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_PYTHON, text, *words], capture_output=True, text=True, timeout=60, check=False)


async def echo(value: object) -> object:
    await asyncio.sleep(0)
    return value


def test_calls_from_many_threads() -> None:
    loop = Loop()
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: loop.run(echo(number)), range(200))) == list(range(200))


def test_a_call_from_the_loops_own_thread_is_an_error_and_no_deadlock() -> None:
    async def callback() -> None:
        LOOP.run(echo(1))

    with pytest.raises(EventLoopError, match="its own event loop's thread") as caught:
        LOOP.run(callback())
    assert caught.value.code == "event-loop"
    assert LOOP.run(echo(2)) == 2


def test_an_error_is_raised_where_the_call_was_made() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        LOOP.run(fail())


_FORK = """
import os, threading
from ballonet.sdk.sync_loop import LOOP
async def echo(value): return value
LOOP.run(echo(1))
LOOP._lock.acquire()  # another thread had it
child = os.fork()
if child == 0:
    print(LOOP.run(echo("child")), flush=True)
    os._exit(0)
LOOP._lock.release()
assert os.waitpid(child, 0)[1] == 0
print(LOOP.run(echo("parent")))
"""


def test_a_forked_child_has_a_loop_of_its_own_even_if_a_lock_was_held() -> None:
    done = run_program(_FORK)
    assert (done.stdout, done.stderr, done.returncode) == ("child\nparent\n", "", 0)


def test_a_connection_ends_with_its_program_although_a_forked_child_lives() -> None:
    ours, theirs = socket.socketpair()
    keep_from_children(ours)
    over, still = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(still)
        os.read(over, 1)  # until the test is over
        os._exit(0)
    try:
        fd = ours.fileno()
        assert Path(f"/proc/{os.getpid()}/fd/{fd}").readlink() != Path("/dev/null")
        ours.close()
        assert select.select([theirs], [], [], 30)[0], "the child still has a copy"
        assert theirs.recv(1) == b""
        # What has the number in the child may be closed and written to, and nobody is disturbed.
        assert Path(f"/proc/{child}/fd/{fd}").readlink() == Path("/dev/null")
    finally:
        os.close(over)
        os.close(still)
        os.waitpid(child, 0)
        theirs.close()


def test_a_lock_is_free_after_its_block_although_a_forked_child_lives(tmp_path: Path) -> None:
    over, still = os.pipe()
    with exclusive(tmp_path / "lock"):
        child = os.fork()  # as another thread might
        if child == 0:
            os.close(still)
            os.read(over, 1)
            os._exit(0)
    try:
        with exclusive_if_free(tmp_path / "lock") as free:
            assert free
    finally:
        os.close(over)
        os.close(still)
        os.waitpid(child, 0)


_INTERRUPTED = """
import asyncio, os, signal, sys
from ballonet.sdk.sync_loop import LOOP
undone = []
async def long():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(0.01)
        undone.append(True)
try:
    LOOP.run(long())
except KeyboardInterrupt:
    print("interrupted", undone)
async def echo(value): return value
print(LOOP.run(echo("on")))
"""


def test_an_interrupted_call_is_undone_and_the_next_one_works() -> None:
    done = run_program(_INTERRUPTED)
    assert (done.stdout, done.stderr) == ("interrupted [True]\non\n", "")


_INTERRUPTED_AT_ONCE = """
import asyncio, concurrent.futures, os, signal
from ballonet.sdk import sync_loop
began = []
async def long():
    began.append(True)
    await asyncio.sleep(1000)
class Interrupted(concurrent.futures.Future):
    "Ctrl-C comes before the loop has begun with the call: it is busy until the cancellation has been asked for."
    def result(self, timeout=None):
        if timeout is None:
            raise KeyboardInterrupt
        busy.set()
        return super().result(timeout)
import threading
busy = threading.Event()
loop = sync_loop.LOOP._started()
loop.call_soon_threadsafe(busy.wait)
sync_loop._UNDO_S = 1000
concurrent.futures.Future = Interrupted
try:
    sync_loop.LOOP.run(long())
except KeyboardInterrupt:
    print("interrupted", began)
"""


def test_a_call_interrupted_before_it_began_is_not_waited_for() -> None:
    """Its task is cancelled in the same turn of the loop in which it is made."""
    done = run_program(_INTERRUPTED_AT_ONCE)
    assert (done.stdout, done.stderr) == ("interrupted [True]\n", "")


_INTERRUPTED_WHILE_IT_BEGINS = """
import asyncio, sys, time
from ballonet.sdk.sync_loop import LOOP
ended = []
async def long():
    try:
        await asyncio.sleep(1000)
    finally:
        ended.append(True)
loop = LOOP._started()
begin = loop.call_soon_threadsafe
def interrupted(*args):
    "Ctrl-C comes just before, or just after, the call is on its way to the loop."
    loop.call_soon_threadsafe = begin
    if sys.argv[1] == "after":
        begin(*args)
    raise KeyboardInterrupt
loop.call_soon_threadsafe = interrupted
began = time.monotonic()
try:
    LOOP.run(long())
except KeyboardInterrupt:
    print("interrupted", ended, time.monotonic() - began < 5)
async def echo(value): return value
print(LOOP.run(echo("on")))
"""


@pytest.mark.parametrize(("when", "ended"), [("before", "[]"), ("after", "[True]")])
def test_a_call_interrupted_while_it_begins_is_ended(when: str, ended: str) -> None:
    done = run_program(_INTERRUPTED_WHILE_IT_BEGINS, when)
    assert (done.stdout, done.stderr) == (f"interrupted {ended} True\non\n", "")


_ENDING = """
import asyncio, threading
from ballonet.sdk.sync_loop import LOOP
async def long():
    begun.set()
    await asyncio.sleep(1000)
begun = threading.Event()
threading.Thread(target=lambda: LOOP.run(long()), daemon=True).start()
begun.wait()
class Late:
    def __del__(self):
        LOOP.forget(long())
        try:
            LOOP.run(long())
        except Exception as error:
            import os
            os.write(1, type(error).__name__.encode())
kept = Late()
kept.itself = kept
"""


def test_the_programs_end_neither_hangs_nor_warns() -> None:
    done = run_program(_ENDING)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout in ("", "EventLoopError")


class Held:
    def __init__(self) -> None:
        self.lost = False
        self.closed = 0
        self.dropped = asyncio.Event()

    async def close(self) -> None:
        self.closed += 1

    def drop(self) -> None:
        self.dropped.set()


def test_each_loop_has_a_connection_of_its_own_and_a_lost_one_is_replaced() -> None:
    made: list[Held] = []

    async def connect() -> Held:
        made.append(Held())
        return made[-1]

    connections: PerLoop[Held] = PerLoop(connect, lambda held: held.lost)

    async def twice() -> Held:
        first, second = await asyncio.gather(connections.get(), connections.get())
        assert first is second
        return first

    one, other = asyncio.run(twice()), asyncio.run(twice())
    assert one is not other

    async def replaced() -> None:
        first = await connections.get()
        first.lost = True
        assert await connections.get() is not first
        await connections.close()
        assert made[-1].closed == 1

    asyncio.run(replaced())
    assert len(made) == 4


def test_what_a_dropped_object_held_is_let_go_in_its_own_loop() -> None:
    async def main() -> None:
        async def connect() -> Held:
            return Held()

        connections: PerLoop[Held] = PerLoop(connect, lambda held: held.lost)
        held = await connections.get()
        dropping = threading.Thread(target=lambda holder: holder.clear(), args=([connections],))
        del connections
        dropping.start()
        await held.dropped.wait()
        dropping.join()

    asyncio.run(asyncio.wait_for(main(), 60))
