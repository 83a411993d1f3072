"""The protocol's parser: whatever the bytes, the answer is a request or a clear refusal."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ballonet.base.memory import MAX_MIB
from ballonet.control import protocol
from ballonet.control.backend import TrimRequest, clamp
from ballonet.control.protocol import (
    LimitParams,
    Refusal,
    Request,
    SetParams,
    is_json,
    parse_plain,
    parse_request,
    plain_error,
    plain_ok,
)
from ballonet.control.schema import SCHEMA_FILE, schema_text
from ballonet.control.wire import field_specs
from tests.unit.fake_backend import FakeBackend


def refused(line: bytes) -> Refusal:
    message = parse_request(line)
    assert isinstance(message, Refusal), message
    return message


def request(method: str, params: str = "{}", request_id: str = "1") -> bytes:
    return f'{{"jsonrpc":"2.0","id":{request_id},"method":"{method}","params":{params}}}'.encode()


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"512", 512),
        (b" 512 ", 512),
        (b"512\r", 512),
        (b"\t0512", 512),
        (b"0", 0),
        (b"0" * 5000, 0),
        (b"999999999999999999999999", MAX_MIB),
        (b"9" * 60_000, MAX_MIB),
        (str(MAX_MIB).encode(), MAX_MIB),
        (str(MAX_MIB + 1).encode(), MAX_MIB),
    ],
)
def test_plain_target_is_read(line: bytes, target: int) -> None:
    assert parse_plain(line) == target


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  ",
        b"-1",
        b"+1",
        b"1.5",
        b"abc",
        b"1 2",
        b"1_000",
        b"0x10",
        b"\xff\xfe\x00",
        b"\xd9\xa1",
        "١٢".encode(),
        b"12\x00",
    ],
)
def test_plain_nonsense_has_a_reason_of_one_line(line: bytes) -> None:
    reason = parse_plain(line)
    assert isinstance(reason, str)
    error = plain_error(reason)
    assert error.startswith(b"ERR ") and error.count(b"\n") == 1 and error.endswith(b"\n")


def test_plain_reply_counts_balloon_pages() -> None:
    assert plain_ok(1024, 512) == b"OK 131072\n"
    assert plain_ok(1024, 1024) == b"OK 0\n"


def test_language_is_told_by_the_first_byte_that_is_not_blank() -> None:
    assert is_json(b'{"') and is_json(b"  \t[") and is_json(b"{")
    assert not is_json(b"512") and not is_json(b"") and not is_json(b'"{"')


def test_request_with_all_parameters() -> None:
    line = request(
        "balloon.set", '{"target_mib":300,"strict":true,"wait":true,"timeout_s":1.5,"force":true}', '"a"'
    )
    message = parse_request(line)
    assert isinstance(message, Request)
    assert message.id == "a" and message.wants_reply
    assert message.params == SetParams(300, strict=True, wait=True, timeout_s=1.5, force=True)


def test_parameters_have_defaults() -> None:
    message = parse_request(request("balloon.set", '{"target_mib":300}'))
    assert isinstance(message, Request) and message.params == SetParams(300)
    message = parse_request(request("guest.trim"))
    assert isinstance(message, Request) and message.params == TrimRequest()
    message = parse_request(request("balloon.limit", '{"limit_mib":null}'))
    assert isinstance(message, Request) and message.params == LimitParams(None)


def test_notification_wants_no_reply() -> None:
    message = parse_request(b'{"jsonrpc":"2.0","method":"balloon.get"}')
    assert isinstance(message, Request) and not message.wants_reply


def test_bad_notification_wants_no_reply() -> None:
    message = parse_request(b'{"jsonrpc":"2.0","method":"balloon.set","params":{}}')
    assert isinstance(message, Refusal) and not message.wants_reply


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ("{}", "target_mib is missing"),
        ('{"target_mib":true}', "target_mib must be a whole number"),
        ('{"target_mib":512.0}', "512.0"),
        ('{"target_mib":"512"}', "'512'"),
        ('{"target_mib":null}', "None"),
        ('{"target_mib":-1}', "-1"),
        ('{"target_mib":16777217}', "from 0 to 16777216"),
        ('{"target_mib":99999999999999999999999}', "99999999999999999999999"),
        ('{"target_mib":1,"strict":1}', "strict must be true or false"),
        ('{"target_mib":1,"timeout_s":true}', "timeout_s must be a number"),
        ('{"target_mib":1,"timeout_s":1e999}', "inf"),
        ('{"target_mib":1,"timeout_s":3601}', "from 0 to 3600"),
        ('{"target_mib":1,"timeout_s":-1}', "-1"),
        ('{"target_mib":1,"tagret":2}', "unknown parameter 'tagret'"),
        ("[512]", "named members"),
        ("null", "named members"),
        ('{"target_mib":{"a":1}}', "an object"),
    ],
)
def test_bad_parameters_are_refused_by_name(params: str, named: str) -> None:
    refusal = refused(request("balloon.set", params))
    assert refusal.code == protocol.INVALID_PARAMS and refusal.id == 1
    assert named in refusal.message


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"{]",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1,"a":2}',
        b'{"params":{"b":1,"b":1}}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\x00"}',
        b'{"jsonrpc":"2.0"} {}',
    ],
)
def test_what_is_not_json_is_a_parse_error(line: bytes) -> None:
    refusal = refused(line)
    assert refusal.code == protocol.PARSE_ERROR and refusal.id is None and refusal.wants_reply


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'[{"jsonrpc":"2.0","id":1,"method":"version"}]',
        b"5",
        b'"x"',
        b'{"id":1,"method":"version"}',
        b'{"jsonrpc":"1.0","id":1,"method":"version"}',
        b'{"jsonrpc":2.0,"id":1,"method":"version"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"method":5}',
        b'{"jsonrpc":"2.0","id":1,"result":5}',
        b'{"jsonrpc":"2.0","id":true,"method":"version"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"version"}',
        b'{"jsonrpc":"2.0","id":{},"method":"version"}',
        b'{"jsonrpc":"2.0","id":"\\ud800","method":"version"}',
        b'{"jsonrpc":"2.0","id":"' + b"x" * 300 + b'","method":"version"}',
        b'{"jsonrpc":"2.0","id":1,"method":"version","extra":1}',
    ],
)
def test_json_that_is_no_request_is_refused(line: bytes) -> None:
    assert refused(line).code == protocol.INVALID_REQUEST


def test_unknown_method_names_the_known_ones() -> None:
    refusal = refused(request("balloon.inflate"))
    assert refusal.code == protocol.METHOD_NOT_FOUND
    assert refusal.hint is not None and "balloon.set" in refusal.hint


def test_lone_surrogate_in_a_name_still_makes_one_line_of_ascii() -> None:
    line = protocol.error_line(refused(request("\\ud800\\n")))
    assert line.count(b"\n") == 1 and line.isascii() and json.loads(line)["error"]["code"] == -32601


# What a client may send, near the grammar so that more than the first check is reached.
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["jsonrpc", "id", "method", "params", "target_mib", "timeout_s", "x"]),
            inner | st.sampled_from(["2.0", *protocol.METHODS]),
            max_size=5,
        )
    ),
    max_leaves=12,
)
_lines = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    _json.map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda method, params: json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        ).encode(),
        st.sampled_from(sorted(protocol.METHODS)),
        _json,
    ),
)


@given(_lines)
@example(b'{"jsonrpc":"2.0","id":"\\ud800","method":"version"}')
def test_any_bytes_are_a_request_or_one_line_of_refusal(line: bytes) -> None:
    message = parse_request(line)
    if isinstance(message, Refusal):
        reply = protocol.error_line(message)
        assert reply.count(b"\n") == 1
        assert json.loads(reply)["error"]["code"] == message.code
        assert len(reply) < 4096
    else:
        assert isinstance(message.params, message.method.params)
    plain = parse_plain(line)
    if isinstance(plain, int):
        assert 0 <= plain <= MAX_MIB
    else:
        assert plain_error(plain).count(b"\n") == 1


@given(st.integers(0, 4096), st.none() | st.integers(0, 2048))
def test_clamped_target_is_inside_every_bound(requested: int, limit: int | None) -> None:
    backend = FakeBackend()
    backend.change(limit_mib=limit)
    target, by = clamp(requested, backend.feed.snapshot)
    assert 256 <= target <= 1024
    assert (by is None) == (target == requested)
    if limit is not None:
        assert target <= max(limit, 256)


def test_shipped_schema_is_the_generated_one() -> None:
    assert SCHEMA_FILE.read_text() == schema_text()


def test_every_method_has_schemas_with_described_parameters() -> None:
    definitions = json.loads(schema_text())["$defs"]
    for method in protocol.METHODS.values():
        request_schema = definitions[f"{method.name} request"]["properties"]["params"]
        assert set(request_schema["properties"]) == set(field_specs(method.params))
        assert all("description" in field for field in request_schema["properties"].values())
        assert definitions[f"{method.name} reply"]["properties"]["result"]["required"]
