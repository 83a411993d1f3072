"""Which pages of a guest are buffers that a device has not used: found in its rings, whatever the guest wrote there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.vmm.qemu.posted_buffers import drop_posted_buffers, posted_pages

PAGE, SIZE, RAM = 4096, 8, 64 * 4096
TABLE, RING = 0, PAGE
STATUS = {"vring-num": SIZE, "vring-desc": TABLE, "vring-avail": RING, "last-avail-idx": 0}


@pytest.fixture
def ram() -> Iterator[int]:
    fd = new_ram()
    yield fd
    os.close(fd)


def new_ram() -> int:
    fd = os.memfd_create("ram")
    os.truncate(fd, RAM)
    return fd


def post(ram: int, *buffers: tuple[int, int, int], end: int | None = None) -> None:
    """Buffers (address, length, flags) in order, with that index of the ring's end."""
    for number, (address, length, flags) in enumerate(buffers):
        os.pwrite(ram, struct.pack("<QIHH", address, length, flags, 0), TABLE + 16 * number)
        os.pwrite(ram, struct.pack("<H", number), RING + 4 + 2 * number)
    os.pwrite(ram, struct.pack("<HH", 0, len(buffers) if end is None else end), RING)


def test_what_is_posted_and_not_used_is_found(ram: int) -> None:
    post(ram, (8 * PAGE, PAGE, 2), (9 * PAGE, PAGE, 2), (20 * PAGE, PAGE, 2))
    assert posted_pages(ram, STATUS) == {8 * PAGE, 9 * PAGE, 20 * PAGE}
    assert posted_pages(ram, STATUS | {"last-avail-idx": 1}) == {9 * PAGE, 20 * PAGE}
    assert posted_pages(ram, STATUS | {"last-avail-idx": 3}) == set()


def test_the_ring_and_its_index_wrap_around(ram: int) -> None:
    post(ram, *((place * PAGE, PAGE, 2) for place in range(8, 16)), end=1)
    used = STATUS | {"last-avail-idx": 0xFFFE}
    assert posted_pages(ram, used) == {14 * PAGE, 15 * PAGE, 8 * PAGE}


@pytest.mark.parametrize(
    "buffer",
    [
        (8 * PAGE, PAGE, 0),  # to be read by the device
        (8 * PAGE, PAGE, 2 | 1),  # continued elsewhere
        (8 * PAGE, PAGE, 2 | 4),  # a table of others
        (8 * PAGE + 8, PAGE, 2),
        (8 * PAGE, PAGE - 1, 2),
        (8 * PAGE, 2 * PAGE, 2),
        (RAM, PAGE, 2),
        (1 << 63, PAGE, 2),
    ],
)
def test_other_buffers_are_left_alone(ram: int, buffer: tuple[int, int, int]) -> None:
    post(ram, buffer)
    assert posted_pages(ram, STATUS) == set()


@given(
    content=st.binary(max_size=2 * PAGE),
    size=st.integers(-1, 70_000),
    table=st.integers(-PAGE, 2 * RAM),
    ring=st.integers(-PAGE, 2 * RAM),
    first=st.integers(0, 0xFFFF),
)
def test_whatever_a_guest_writes_only_pages_of_its_ram_are_found(
    content: bytes, size: int, table: int, ring: int, first: int
) -> None:
    fd = new_ram()
    try:
        os.pwrite(fd, content, 0)
        status = {"vring-num": size, "vring-desc": table, "vring-avail": ring, "last-avail-idx": first}
        found = posted_pages(fd, status)
    finally:
        os.close(fd)
    assert all(page % PAGE == 0 and 0 <= page < RAM for page in found)


class Monitor:
    """Answers as QEMU does, or not at all."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers = answers

    async def execute(self, command: str, **arguments: object) -> object:
        return self.answers.get(command, {"unknown": arguments})


async def test_their_memory_is_discarded_and_nothing_else(ram: int) -> None:
    for page in range(8, 12):
        os.pwrite(ram, b"x" * PAGE, page * PAGE)
    post(ram, (8 * PAGE, PAGE, 2), (9 * PAGE, PAGE, 2), (11 * PAGE, PAGE, 2))
    devices = [{"name": "virtio-balloon", "path": "/a"}, {"name": "virtio-serial", "path": "/b"}]
    monitor = Monitor({"x-query-virtio": devices, "x-query-virtio-queue-status": STATUS})
    assert await drop_posted_buffers(monitor, ram) == 3 * PAGE  # type: ignore[arg-type]
    left = [os.pread(ram, 1, page * PAGE) for page in range(8, 12)]
    assert left == [b"\0", b"\0", b"x", b"\0"]


@pytest.mark.parametrize("answers", [{}, {"x-query-virtio": []}, {"x-query-virtio": [{"name": "other"}]}])
async def test_an_engine_that_does_not_tell_loses_nothing(ram: int, answers: dict[str, object]) -> None:
    post(ram, (8 * PAGE, PAGE, 2))
    os.pwrite(ram, b"x", 8 * PAGE)
    assert await drop_posted_buffers(Monitor(answers), ram) == 0  # type: ignore[arg-type]
    assert os.pread(ram, 1, 8 * PAGE) == b"x"
