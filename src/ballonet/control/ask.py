"""Asks many control sockets at the same time, without asyncio and without threads.

``ballonet ls`` asks each running sandbox two questions: loading asyncio takes longer than the answers.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import BallonetError
from ballonet.control import calls
from ballonet.control.backend import BalloonSnapshot, Stats
from ballonet.control.client_blocking import QUEUE_FULL_PAUSE_S, try_connect
from ballonet.control.protocol import LINE_LIMIT, StatsParams

#: How many sockets are asked at the same time: more would only exceed their timeouts.
AT_ONCE = 64
#: The least time for a socket that is asked late (seconds).
_LEAST_S = 0.1

#: What an exchange waits for: its socket to become readable, or (``None``) a little time.
_Exchange = Generator[socket.socket | None, None, None]


@dataclass
class Answer:
    """What a control socket answered."""

    balloon: BalloonSnapshot | None = None
    stats: Stats | None = None
    #: Why there is not everything.
    error: str | None = None


class _Asked:
    def __init__(self, path: str, answer: Answer, max_age_s: float, limit_s: float) -> None:
        self.answer = answer
        self._limit_s = limit_s
        self.deadline = time.monotonic() + limit_s
        self._exchange = _ask(path, answer, max_age_s)
        self.waits_for: socket.socket | None = None

    def go_on(self) -> bool:
        """Continue the exchange; false at its end."""
        try:
            self.waits_for = next(self._exchange)
            return True
        except StopIteration:
            pass
        except BallonetError as error:
            self.answer.error = error.message
        return False

    def late(self) -> bool:
        """End the exchange if its time is over."""
        if time.monotonic() < self.deadline:
            return False
        self.answer.error = f"no answer within {self._limit_s:g} s"
        self._exchange.close()
        return True


def ask_each(paths: Sequence[str], *, max_age_s: float, deadline_s: float, overall_s: float) -> list[Answer]:
    """The balloon's state and the statistics from each of these sockets.

    :param max_age_s: accepted age of a guest's figures.
    :param deadline_s: timeout for each socket.
    :param overall_s: timeout for all of them.
    """
    answers = [Answer(error=f"it was not asked: the others took {overall_s:g} s") for _ in paths]
    ends_at = time.monotonic() + overall_s
    waiting = deque(zip(paths, answers, strict=True))
    asked: list[_Asked] = []
    while asked or waiting:
        while waiting and len(asked) < AT_ONCE:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                waiting.clear()
                break
            path, answer = waiting.popleft()
            answer.error = None
            begun = _Asked(path, answer, max_age_s, min(deadline_s, max(_LEAST_S, left_s)))
            if begun.go_on():
                asked.append(begun)
        if asked:
            _wait(asked)
            asked = [each for each in asked if not each.late()]
    return answers


def _wait(asked: list[_Asked]) -> None:
    """Wait until one of them can go on or is late; those that have ended are removed."""
    poll = select.poll()
    for each in asked:
        if each.waits_for is not None:
            poll.register(each.waits_for, select.POLLIN)
    left_s = max(0.0, min(each.deadline for each in asked) - time.monotonic())
    if any(each.waits_for is None for each in asked):
        left_s = min(left_s, QUEUE_FULL_PAUSE_S)
    ready = {fd for fd, _ in poll.poll(left_s * 1000 + 1)}
    asked[:] = [
        each
        for each in asked
        if (each.waits_for is not None and each.waits_for.fileno() not in ready) or each.go_on()
    ]


def _ask(path: str, answer: Answer, max_age_s: float) -> _Exchange:
    calls.check_path(path)
    while (connection := try_connect(path)) is None:
        yield None
    with connection:
        received = bytearray()
        get = calls.make_call("balloon.get")
        answer.balloon = yield from _call(connection, path, received, get)
        stats = calls.make_call("stats", StatsParams(max_age_s) if max_age_s else None)
        answer.stats = yield from _call(connection, path, received, stats)


def _call(
    connection: socket.socket, path: str, received: bytearray, call: calls.Call
) -> Generator[socket.socket | None, None, Any]:
    try:
        connection.send(call.line)  # a line is short: it fits in the empty buffer
    except ConnectionError:
        pass  # a server that refuses closes at once; its reason is read below
    except OSError as error:
        raise calls.ended(path, call.method) from error
    while True:
        while (line := calls.take_line(received, path)) is None:
            yield connection
            try:
                piece = connection.recv(LINE_LIMIT)
            except BlockingIOError:
                continue
            except OSError:
                piece = b""
            if not piece:
                raise calls.ended(path, call.method)
            received += piece
        if (result := calls.result_of(call, calls.read_line(line, path))) is not None:
            return result
