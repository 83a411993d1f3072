"""Payloads: what was put in comes out, and random bytes are a channel error or a value, nothing else."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError, GuestChannelError, GuestCommandError
from ballonet.guest import messages
from ballonet.guest.frames import MAX_TO_HOST_BYTES, PROTOCOL_VERSION, Frame, FrameType
from ballonet.guest.messages import Exec, FailedModule, Features, Ready
from ballonet.guest.report import GuestReport, parse_report

pytestmark = pytest.mark.long

DECODERS: list[Callable[[Frame], object]] = [
    lambda frame: messages.decode_exec(frame.payload),
    messages.decode_ready,
    messages.decode_exit,
    messages.decode_error,
    messages.decode_number,
    messages.decode_resize,
    messages.split_trim_done,
]
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
names = words.filter(lambda name: name != "" and "=" not in name)


@pytest.mark.parametrize("decode", DECODERS)
@given(payload=st.binary(max_size=100))
def test_random_payloads_give_a_value_or_a_channel_error(
    decode: Callable[[Frame], object], payload: bytes
) -> None:
    try:
        decode(Frame(FrameType.READY, 0, payload))
    except GuestChannelError as error:
        assert error.message


@given(
    st.lists(words, min_size=1, max_size=5),
    st.dictionaries(names, words, max_size=5),
    words,
    st.booleans(),
    st.booleans(),
)
def test_every_exec_that_can_be_made_is_accepted_by_the_check(
    argv: list[str], env: dict[str, str], cwd: str, tty: bool, stdin: bool
) -> None:
    payload = Exec(argv, env, cwd, tty=tty, stdin=stdin).encode()
    assert messages.decode_exec(payload) == messages.ExecShape(tty, stdin)
    for changed in (payload + b"x\0", payload[:-1], payload + b"\0"):
        with pytest.raises(GuestChannelError):
            messages.decode_exec(changed)


@pytest.mark.parametrize("words", [["a" * (3 << 20)], [""] * (3 << 20), ["a" * 1000] * 3000])
def test_more_words_than_linux_takes_are_told_as_a_shell_does(words: list[str]) -> None:
    with pytest.raises(GuestCommandError, match="argument list too long") as caught:
        Exec(["sh", *words], {}).encode()
    assert caught.value.errno == errno.E2BIG
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (Exec([], {}), "at least one word"),
        (Exec(["a\0b"], {}), "NUL"),
        (Exec(["a"], {"A": "\0"}), "NUL"),
        (Exec(["a"], {"A=B": "c"}), "'='"),
        (Exec(["a"], {"": "c"}), "empty"),
        (Exec(["\ud800"], {}), "UTF-8"),
        (Exec(["a"], {}, user="a\0b"), "NUL"),
        (Exec(["a"], {}, rows=65536), "65536x80"),
    ],
)
def test_an_impossible_command_is_refused_with_its_values(request_: Exec, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        request_.encode()


def test_ready_survives_the_way() -> None:
    failed = (FailedModule("virtio_balloon.ko", 8), FailedModule("x", 2))
    ready = Ready(PROTOCOL_VERSION, "6.12.1-cloud", 1234, Features.PRESSURE | Features.COMPACT, failed)
    assert messages.decode_ready(Frame(FrameType.READY, 0, messages.encode_ready(ready))) == ready


def test_another_protocol_version_is_refused_with_a_hint() -> None:
    payload = b"\x07" + messages.encode_ready(Ready(PROTOCOL_VERSION, "k", 0, Features.NONE, ()))[1:]
    with pytest.raises(GuestChannelError, match="version 7") as caught:
        messages.decode_ready(Frame(FrameType.READY, 0, payload))
    assert caught.value.hint


def test_a_restored_guest_gets_the_time_and_enough_random_bytes() -> None:
    assert messages.encode_restored(258, b"r" * 32) == b"\2\1" + bytes(6) + b"r" * 32
    with pytest.raises(ConfigError, match="seed of 31 bytes"):
        messages.encode_restored(0, bytes(31))


def test_text_from_the_guest_cannot_rearrange_the_terminal() -> None:
    failure = messages.decode_error(
        Frame(FrameType.ERROR, 1, b"\x02\0\0\0no\x1b[2Jsuch\nfile\xff" + b"a" * 9999)
    )
    assert failure.errno == 2
    assert failure.text.startswith("no\N{REPLACEMENT CHARACTER}[2Jsuch\N{REPLACEMENT CHARACTER}file")
    assert len(failure.text) <= 512


@pytest.mark.parametrize("payload", [b"\2\0\0\0\0\0\0\0", b"\0\0\0\0\0\1\0\0", b"\1\0\0\0\x80\0\0\0"])
def test_an_exit_that_no_process_can_have_is_refused(payload: bytes) -> None:
    with pytest.raises(GuestChannelError, match="EXIT"):
        messages.decode_exit(Frame(FrameType.EXIT, 1, payload))


@given(st.binary(max_size=MAX_TO_HOST_BYTES // 64))
def test_any_report_text_gives_a_report_with_sane_numbers(text: bytes) -> None:
    for value in astuple(parse_report(text)):
        assert value is None or 0 <= value <= 1 << 63


def test_absurd_report_values_are_unknown() -> None:
    report = parse_report(
        b"mem_total_kib 1024\nmem_free_kib -1\ncached_kib 1e3\nbuffers_kib 9999999999999999999\n"
        b"swap_total_kib \xd9\xa3\npgmajfault 12 \nunheard_of 1\noom_kill 18446744073709551615\nuptime_ms 0\n"
    )
    assert report == GuestReport(mem_total_kib=1024, uptime_ms=0)


def test_a_ready_that_would_not_fit_when_passed_on_is_refused() -> None:
    modules = b"".join(b"\x02\x00" + b"\xff" * 60 + b"\0" for _ in range(900))
    payload = struct.pack("<HHIQ", PROTOCOL_VERSION, 900, 0, 1) + b"6.12\0" + modules
    with pytest.raises(GuestChannelError, match="READY frame of"):
        messages.decode_ready(Frame(FrameType.READY, 0, payload))
    allowed = struct.pack("<HHIQ", PROTOCOL_VERSION, 250, 0, 1) + b"6.12\0" + modules[: 250 * 63]
    passed_on = messages.encode_ready(messages.decode_ready(Frame(FrameType.READY, 0, allowed)))
    assert len(passed_on) <= 64 << 10
