"""Frames: any chunking gives the same ones, and what cannot be right is an error and never anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import GuestChannelError
from ballonet.guest.frames import (
    FROM_GUEST,
    FROM_LOCAL_CLIENT,
    HEADER,
    MAX_TO_GUEST_BYTES,
    MAX_TO_HOST_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)

frames = st.builds(
    Frame,
    st.sampled_from(sorted(FROM_GUEST)),
    st.integers(0, 0xFFFF_FFFF),
    st.binary(max_size=200),
)


@given(st.lists(frames, max_size=8), st.data())
def test_any_chunking_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    wire = b"".join(frame.encode() for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    decoder = FrameDecoder()
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        got += decoder.feed(wire[start:end])
    decoder.finish()
    assert got == sent


@given(st.binary(max_size=400), st.integers(1, 50))
def test_random_bytes_give_frames_or_a_channel_error(data: bytes, step: int) -> None:
    decoder = FrameDecoder()
    try:
        for start in range(0, len(data), step):
            for frame in decoder.feed(data[start : start + step]):
                assert frame.kind in FROM_GUEST
        decoder.finish()
    except GuestChannelError as error:
        assert error.message


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (HEADER.pack(0, 0x42, 0, 0), "unknown type 0x42"),
        (HEADER.pack(0, FrameType.EXEC, 0, 1), "unknown type 0x01"),
        (HEADER.pack(0, FrameType.STDOUT, 1, 1), "flags 0x0001"),
        (
            HEADER.pack(MAX_TO_HOST_BYTES + 1, FrameType.STDOUT, 0, 1),
            "65537 bytes exceeds the limit of 65536",
        ),
        (HEADER.pack(0xFFFF_FFFF, FrameType.STDOUT, 0, 1), "4294967295 bytes"),
    ],
)
def test_a_bad_header_is_refused_before_its_payload_comes(header: bytes, what: str) -> None:
    with pytest.raises(GuestChannelError, match=what):
        FrameDecoder().feed(header)


def test_the_longest_payload_is_accepted_and_one_byte_more_is_not() -> None:
    decoder = FrameDecoder(FROM_LOCAL_CLIENT, MAX_TO_GUEST_BYTES)
    longest = Frame(FrameType.STDIN, 1, bytes(MAX_TO_GUEST_BYTES))
    assert decoder.feed(longest.encode()) == [longest]
    with pytest.raises(GuestChannelError, match="STDIN"):
        decoder.feed(Frame(FrameType.STDIN, 1, bytes(MAX_TO_GUEST_BYTES + 1)).encode())


def test_local_clients_may_not_shut_the_guest_down() -> None:
    with pytest.raises(GuestChannelError, match="0x07"):
        FrameDecoder(FROM_LOCAL_CLIENT).feed(Frame(FrameType.SHUTDOWN, 0).encode())


@pytest.mark.parametrize("cut", [1, HEADER.size - 1, HEADER.size, HEADER.size + 4])
def test_an_end_within_a_frame_is_an_error(cut: int) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(Frame(FrameType.STDOUT, 1, b"hello").encode()[:cut]) == []
    with pytest.raises(GuestChannelError, match="middle of a frame"):
        decoder.finish()
