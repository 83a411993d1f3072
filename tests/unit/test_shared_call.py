from __future__ import annotations

import asyncio

import pytest

from ballonet.serve.shared_call import SharedCall


class Slow:
    """A call that ends when it is told to; counts how often it runs."""

    def __init__(self) -> None:
        self.begun = self.at_once = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        assert self.at_once == 0
        self.at_once += 1
        await self.may_end.wait()
        self.at_once -= 1
        return number


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_requests_that_come_during_a_call_share_the_next_one() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    first = asyncio.ensure_future(shared.result())
    await _turns()
    later = [asyncio.ensure_future(shared.result()) for _ in range(20)]
    await _turns()
    assert slow.begun == 1
    slow.may_end.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 20
    assert await shared.result() == 3


async def test_a_request_that_is_given_up_leaves_the_others_their_result() -> None:
    slow = Slow()
    shared = SharedCall(slow)
    gone, other = (asyncio.ensure_future(shared.result()) for _ in range(2))
    await _turns()
    gone.cancel()
    await _turns()
    slow.may_end.set()
    assert await other == 1


async def test_a_failure_is_told_and_does_not_stay() -> None:
    answers: list[int | Exception] = [ValueError("no"), 7]

    async def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = SharedCall(call)
    with pytest.raises(ValueError, match="no"):
        await shared.result()
    assert await shared.result() == 7
