"""The pure parts of the HTTP server: hosts, origins, ranges, problems, limits, and what needs the scope admin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ballonet.base import errors
from ballonet.base.errors import (
    AdmissionError,
    BallonetError,
    ConfigError,
    GuestChannelError,
    HostError,
    NameInUseError,
    SettingError,
    error_class,
)
from ballonet.machine.owner_channel import Report
from ballonet.serve.exec_operations import signal_number
from ballonet.serve.file_operations import _part, parse_range
from ballonet.serve.gate import Counter
from ballonet.serve.host_access import host_settings
from ballonet.serve.http_exchange import passed_headers
from ballonet.serve.idempotency import KEPT_S, Entry, Keys, key_id
from ballonet.serve.port_proxy import _NOT_TO_GUEST, guest_target
from ballonet.serve.problems import OWN, STATUSES, RequestRefusedError, problem_of, refused
from ballonet.serve.request_checks import host_permitted, origin_permitted
from ballonet.serve.server import Settings, check_safe
from ballonet.serve.tokens import Scope, TokenFile


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:8080",
        "[::1]:80",
        "192.168.1.7",
        "box.example:443",
        "box.example.",
    ],
)
def test_requests_for_this_host_are_served(header: str) -> None:
    assert host_permitted(header, {"box.example"})


@pytest.mark.parametrize(
    "header",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "box.example@evil",
        "a b",
        "[::1",
        "1::2:",
    ],
)
def test_requests_for_another_host_are_refused(header: str) -> None:
    assert not host_permitted(header, {"box.example"})


def test_pages_of_the_server_itself_are_permitted() -> None:
    assert origin_permitted("http://127.0.0.1:80", "127.0.0.1:80", (), scheme="http")
    for origin in (
        "http://127.0.0.1:81",
        "https://127.0.0.1:80",
        "null",
        "",
        "http://127.0.0.1:80.evil.example",
    ):
        assert not origin_permitted(origin, "127.0.0.1:80", (), scheme="http")
    assert origin_permitted("https://page.example", "x", ("https://page.example",), scheme="http")


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=8-99", (8, 10)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=1-2", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_ranges(header: str, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_ranges_that_no_byte_is_in(header: str) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        parse_range(header, 10)
    assert (caught.value.status, caught.value.headers) == (416, {"Content-Range": "bytes */10"})


@pytest.mark.parametrize(("start", "end"), [(0, 10), (0, 3), (2, 3), (3, 7), (9, 10), (0, None), (4, None)])
def test_a_part_of_a_stream(start: int, end: int | None) -> None:
    async def pieces() -> Any:
        for piece in (b"abc", b"", b"defg", b"hij"):
            yield piece

    async def read() -> bytes:
        return b"".join([piece async for piece in _part(pieces(), start, end)])

    assert asyncio.run(read()) == b"abcdefghij"[start:end]


def test_a_file_that_became_shorter_is_an_error() -> None:
    async def pieces() -> Any:
        yield b"abc"

    async def read() -> None:
        async for _ in _part(pieces(), 0, 4):
            pass

    with pytest.raises(BallonetError, match="shortened to 3 bytes"):
        asyncio.run(read())


def test_problems_have_the_codes_of_the_library() -> None:
    problem = problem_of(NameInUseError("a sandbox named 'a' exists", hint="choose another"))
    assert (problem.status, problem.code, problem.detail, problem.hint) == (
        409,
        "name-in-use",
        "a sandbox named 'a' exists",
        "choose another",
    )
    assert problem.title == "A sandbox with that name exists already; it was not changed"
    assert problem_of(AdmissionError("no room")).status == 503
    assert problem_of(HostError("no disk")).status == 500
    assert problem_of(SettingError("{} is odd", "memory_mib")).detail == "memory is odd"
    assert problem_of(refused("forbidden", "no")).title == OWN["forbidden"][1]


def test_every_code_with_a_status_is_one_of_the_library() -> None:
    for code in STATUSES:
        assert error_class(code).code in (code, "guest"), code


def test_an_error_of_another_process_has_the_class_that_defines_its_code() -> None:
    class DerivedError(GuestChannelError):
        """Has the code of its base, but other parameters."""

        def __init__(self, cause: Exception) -> None:
            super().__init__(str(cause))

    assert error_class("guest-channel") is GuestChannelError
    assert error_class("config") is ConfigError
    assert (
        Report("failed", {"code": "config", "message": "{x} in a name"}).to_error().message == "{x} in a name"
    )
    assert DerivedError.code == "guest-channel"
    for code in {cls.code for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "code")}:
        assert error_class(code)("what happened", hint="what to do").hint == "what to do"


def test_requests_at_once_are_limited() -> None:
    counter = Counter(2)
    counter.enter()
    counter.enter()
    with pytest.raises(RequestRefusedError) as caught:
        counter.enter()
    assert caught.value.status == 503 and "Retry-After" in caught.value.headers
    counter.leave()
    counter.enter()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"volumes": ["cache:/c"], "ports": ["0:80", "127.0.0.1:0:80"], "image": "debian:12"}, []),
        ({"net_allow": ["example.org:443", "*.example.org", "8.8.8.8", "8.8.8.0/24:53/udp"]}, []),
        ({"volumes": ["/etc:/e"]}, ["volumes"]),
        ({"volumes": ["..:/e"]}, ["volumes"]),
        ({"volumes": ["cache:/c", "./x:/e"]}, ["volumes"]),
        ({"net_allow": ["192.168.0.0/16:80"]}, ["net_allow"]),
        ({"net_allow": ["10.1.2.3/tcp"]}, ["net_allow"]),
        ({"net_allow": ["0.0.0.0/0"]}, []),  # which does not open private addresses
        ({"ports": ["0.0.0.0:0:80"]}, ["ports"]),
        ({"ports": [":0:80"]}, ["ports"]),
        ({"image": "oci:/x"}, ["image"]),
        ({"image": "/x"}, ["image"]),
        ({"rootfs": "/x"}, ["rootfs"]),
        ({"balloon": {"control_socket": "/x"}}, ["balloon.control_socket"]),
    ],
)
def test_what_reaches_the_host(settings: dict[str, Any], found: list[str]) -> None:
    assert host_settings(settings) == found


def test_keys_of_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, id = Keys(tmp_path / "keys"), key_id("key", "token")
    assert id != key_id("key", "other")
    assert keys.find(id, "print") is None
    entry = Entry("print", "box", 1000.0)
    monkeypatch.setattr("time.time", lambda: 1001.0)
    keys.write(id, entry)
    assert Keys(tmp_path / "keys").find(id, "print") == entry
    with pytest.raises(RequestRefusedError) as caught:
        keys.find(id, "other print")
    assert (caught.value.status, caught.value.problem) == (409, "key-reused")
    monkeypatch.setattr("time.time", lambda: 1001.0 + KEPT_S)
    assert keys.find(id, "print") is None
    for key in ("", "a" * 256, "é", "a\n"):
        with pytest.raises(RequestRefusedError):
            key_id(key, "token")


@pytest.mark.parametrize(("given", "number"), [("TERM", 15), ("sigkill", 9), (2, 2), (64, 64), ("RTMIN", 34)])
def test_signals_by_name_and_number(given: int | str, number: int) -> None:
    assert signal_number(given) == number


@pytest.mark.parametrize("given", ["", "_DFL", "DFL", "9", "TERMINATE", 0, -1, 65, "SIG_IGN"])
def test_other_signals_are_refused(given: int | str) -> None:
    with pytest.raises(RequestRefusedError):
        signal_number(given)


def test_other_hosts_can_connect_only_with_a_token(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    check_safe(Settings(None, (("127.0.0.1", 0), ("::1", 0), ("localhost", 0))), tokens)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(BallonetError, match="no valid token"):
            check_safe(Settings(None, ((host, 0),)), tokens)
    tokens.create(Scope.READ, expires_s=60)
    check_safe(Settings(None, (("0.0.0.0", 0),)), tokens)
    for settings in (
        Settings(None),
        Settings(None, (("example.org", 0),)),
        Settings(Path("/x"), certificate=Path("/c"), key=Path("/k")),
        Settings(None, (("127.0.0.1", 0),), key=Path("/k")),
    ):
        with pytest.raises(BallonetError):
            check_safe(settings, tokens)


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        (b"/v1/sandboxes/a/ports/80", b"", b"/"),
        (b"/v1/sandboxes/a/ports/80/", b"", b"/"),
        (b"/v1/sandboxes/a/ports/80/x%2Fy//z/", b"q=%20", b"/x%2Fy//z/?q=%20"),
    ],
)
def test_the_guest_gets_the_path_as_it_was_sent(path: bytes, query: bytes, target: bytes) -> None:
    assert guest_target({"raw_path": path, "path": "", "query_string": query}) == target


def test_the_guest_gets_no_secrets_and_no_headers_of_the_connection() -> None:
    sent = [
        (b"Authorization", b"Bearer blt_x"),
        (b"COOKIE", b"a=b"),
        (b"Connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"Accept", b"*/*"),
        (b"Accept", b"text/html"),
    ]
    assert passed_headers(sent, _NOT_TO_GUEST) == [(b"accept", b"*/*"), (b"accept", b"text/html")]
