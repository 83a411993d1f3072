"""Rules of the network: how they are written, and what the filter and the name server are told."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.base.errors import ConfigError, HostError
from ballonet.base.ipv4 import Block
from ballonet.machine.name_rules import render_names
from ballonet.machine.net_counters import read_counters
from ballonet.machine.net_filter import (
    Addresses,
    FilterRules,
    counter_name,
    render_filter,
    render_own,
    set_name,
)
from ballonet.machine.network import check_network_programs
from ballonet.machine.network_log import MAX_BYTES, NetworkLog, refused_connections
from ballonet.machine.network_request import Answer, NetworkRequest, NewRules
from ballonet.sdk.builder import SandboxBuilder
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import parse_config, render_flags
from ballonet.vmm.attach import Net, Port
from ballonet.vmm.net_rules import HostPort, NetRule

pytestmark = pytest.mark.long

ADDRESSES = Addresses("10.0.2.15", "10.0.2.2", "10.0.2.3")
OWN = (Block.parse("127.0.0.0/8"), Block.parse("203.0.113.1"))


def rules(*allow: str, deny: tuple[str, ...] = ()) -> FilterRules:
    return FilterRules(allow=tuple(map(NetRule.parse, allow)), deny=tuple(map(NetRule.parse, deny)))


@pytest.mark.parametrize(
    "text, host, ports, protocol",
    [
        ("pypi.org", "pypi.org", None, None),
        ("PyPI.org.:443", "pypi.org", (443, 443), None),
        ("*.debian.org:80-90/tcp", "*.debian.org", (80, 90), "tcp"),
        ("10.1.0.0/16:5432/tcp", "10.1.0.0/16", (5432, 5432), "tcp"),
        ("192.0.2.1/icmp", "192.0.2.1", None, "icmp"),
        ("0.0.0.0/0", "0.0.0.0/0", None, None),
        ("public:443", "public", (443, 443), None),
        ("none", "none", None, None),
    ],
)
def test_a_rule_is_read_and_written_in_one_form(
    text: str, host: str, ports: tuple[int, int] | None, protocol: str | None
) -> None:
    rule = NetRule.parse(text)
    assert rule == NetRule(host, ports, protocol)
    assert NetRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "is not HOST"),
        ("localhost", "has no dot"),
        ("127.1", "is not an IPv4 address"),
        ("2130706433", "is not an IPv4 address"),
        ("0177.0.0.1", "is not an IPv4 address"),
        ("10.1.2.3/16", "use 10.1.0.0/16"),
        ("10.0.0.0/33", "prefix length of 33"),
        ("fd00::1", "IPv6"),
        ("[fd00::1]:80", "IPv6"),
        ("a.test:0", "outside 1 to 65535"),
        ("a.test:90-80", "the last one first"),
        ("a.test/sctp", "supported are tcp, udp, icmp"),
        ("a.test:1/icmp", "does not have"),
        ("münchen.test", "xn--"),
        ("a*.test", "is not a name"),
        ("*.*.test", "is not a name"),
        ("a.test; accept", "is not HOST"),
        ("a.test\n", "is not HOST"),
        ("-a.test", "is not a name"),
        ("none:80", "the preset none does not take"),
        ("packages:443", "the preset packages does not take"),
        ("packages", "given as text"),
    ],
)
def test_a_rule_that_cannot_be_read_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NetRule.parse(text)


@given(st.text(max_size=40))
def test_whatever_is_read_as_a_rule_reaches_the_filter_as_one_word(text: str) -> None:
    try:
        rule = NetRule.parse(text)
    except ValueError:
        return
    assert not set(str(rule)) & set(" \n\t;{}\"'#$,@\\")
    assert NetRule.parse(str(rule)) == rule


def test_flags_carry_the_rules() -> None:
    config = SandboxConfig(
        name="box",
        net=Net.USER,
        net_allow=tuple(map(NetRule.parse, ("pypi.org:443", "10.1.0.0/16:5432/tcp"))),
        net_deny=(NetRule.parse("198.51.100.0/24"),),
        net_allow_host=(HostPort(5432), HostPort(53, "udp")),
    )
    assert parse_config(render_flags(config)) == config


def test_limits_are_read_and_carried() -> None:
    built = SandboxBuilder("box").net("user").net_rate("1.5M").net_connections(100).build()
    assert (built.net_rate_kib, built.net_connections) == (1536, 100)
    assert parse_config(render_flags(built)) == built
    for text, kib in (("10M", 10240), ("512K", 512), ("2", 2048), ("1G/s", 1 << 20), ("0", None)):
        assert SandboxBuilder("box").net("user").set(net_rate=text).build().net_rate_kib == kib, text
    for text, why in (
        ("fast", "is not a rate"), ("100B", "is not a rate"), ("1K", "outside 16 to"), ("-1", "is not a rate"),
("5000G", "outside 16 to"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            SandboxBuilder("box").net("user").set(net_rate=text).build()
    with pytest.raises(ConfigError, match="net_connections 801 is outside 1 to 800"):
        SandboxBuilder("box").net("user").net_connections(801).build()
    with pytest.raises(ConfigError, match="has no effect with the network none"):
        SandboxBuilder("box").net_connections(5).build()


def test_rules_without_the_network_are_an_error() -> None:
    for net in (Net.NONE, Net.ISOLATED):
        with pytest.raises(ConfigError, match="has no effect with the network"):
            SandboxConfig(name="box", net=net, net_allow=(NetRule("a.test"),))
        with pytest.raises(ConfigError, match="has no effect with the network"):
            SandboxConfig(name="box", net=net, net_allow_host=(HostPort(80),))


def test_none_allows_nothing_and_is_the_only_rule() -> None:
    text = filter_text(rules("none"))
    assert [line.strip() for line in text.splitlines() if "goto accepted" in line] == []
    assert "@private goto refuse_private\n  goto refuse_other" in text
    assert "server=" not in render_names(rules("none"), "10.0.2.3")
    nothing, some = NetRule("none"), NetRule("a.test")
    SandboxConfig(name="box", net=Net.USER, net_allow=(nothing,), net_allow_host=(HostPort(80),))
    with pytest.raises(ConfigError, match="none cannot be combined with other rules"):
        SandboxConfig(name="box", net=Net.USER, net_allow=(nothing, some))
    with pytest.raises(ConfigError, match="none denies nothing"):
        SandboxConfig(name="box", net=Net.USER, net_deny=(nothing,))


def filter_text(of: FilterRules, number: int = 1, old: FilterRules | None = None) -> str:
    """The only input for a few rules."""
    (text,) = render_filter(of, ADDRESSES, OWN, number=number, old=old)
    return text


def test_only_a_rule_inside_a_private_network_opens_a_part_of_it() -> None:
    text = filter_text(rules("10.1.0.0/16", "0.0.0.0/0:443", "a.test", "public:80"))
    decisions = [line.strip() for line in text.splitlines() if "goto accepted" in line]
    guarded = ["!= @private" in line for line in decisions]
    assert guarded == [False, True, True, True]


def test_the_hosts_addresses_are_refused_before_any_rule() -> None:
    text = filter_text(rules("203.0.113.0/24", deny=("9.9.9.9",)))
    order = [text.index(line) for line in ("@own goto", "@closed goto", "jump rules_1_0", "@private goto")]
    assert order == sorted(order)
    assert text.index("daddr 9.9.9.9") < text.index("daddr 203.0.113.0/24")


nft = pytest.mark.skipif(
    subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "nft", "list", "ruleset"],
        check=False,
        capture_output=True,
    ).returncode
    != 0,
    reason="nft does not run in a namespace of this user",
)


def load(*texts: str) -> str:
    """Load texts one after the other in a network namespace; the rules then."""
    script = "".join(f"nft -f - <<'END' || exit 1\n{text}\nEND\n" for text in texts) + "nft list ruleset\n"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-s"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@nft
def test_the_kernel_takes_the_rules_and_their_successors() -> None:
    old = replace(
        rules(
            "a.test:443", "*.b.test", "10.0.0.0/8/icmp", "public:1-1024/udp", deny=("9.9.9.0/24:25", "c.test")
        ),
        host_ports=(HostPort(80), HostPort(53, "udp")),
        ports=(Port(0, 80), Port(0, 53, protocol="udp")),
    )
    new = replace(rules("a.test:443", "1.1.1.1"), host_ports=old.host_ports, ports=old.ports)
    first, second = filter_text(old), filter_text(new, 2, old)
    third = filter_text(FilterRules(), 3, new)
    kept, dropped = (set_name(NetRule.parse(text)) for text in ("a.test", "*.b.test"))
    address = f"add element inet ballonet {kept} {{ 192.0.2.77 }}"
    middle = load(first, address, second, render_own(OWN))
    assert "192.0.2.77" in middle  # what was resolved stays open
    assert dropped not in middle
    assert "ct mark set 0x00000002" in middle
    assert "0x00000001" not in middle
    assert "rules_1_" not in middle
    assert "203.0.113.1" in middle
    assert kept not in load(first, address, second, third)


@nft
def test_a_thousand_rules_are_loaded_and_replaced_by_others() -> None:
    """More than a plain user may load at once."""
    many = rules(*(f"10.{number // 256}.{number % 256}.0/24:443" for number in range(1000)))
    texts = render_filter(many, ADDRESSES, OWN, number=1)
    assert load(*texts).count("10.3.") == 1000 - 3 * 256
    names = rules(*(f"n{number}.test:443" for number in range(1000)))
    others = render_filter(names, ADDRESSES, OWN, number=2, old=many)
    loaded = load(*texts, *others)
    assert "10.3." not in loaded
    assert loaded.count("@name_") == 1000
    # A preparation that was not completed is repeated.
    assert load(*texts, *others[:3], *others).count("@name_") == 1000


@pytest.mark.parametrize(
    "allow, deny, expected",
    [
        (("a.test",), (), {"server=/a.test/192.0.0.3", "local=/*.a.test/"}),
        (("*.a.test",), (), {"server=/*.a.test/192.0.0.3"}),
        (("a.test", "*.a.test"), (), {"server=/a.test/192.0.0.3", "server=/*.a.test/192.0.0.3"}),
        (
            ("*.a.test",),
            ("b.a.test",),
            {"server=/*.a.test/192.0.0.3", "local=/b.a.test/", "server=/*.b.a.test/192.0.0.3"},
        ),
        (("b.a.test",), ("*.a.test",), {"local=/*.a.test/"}),
        (("a.test",), ("a.test",), {"local=/a.test/"}),
        ((), ("a.test",), {"server=192.0.0.3", "local=/a.test/", "server=/*.a.test/192.0.0.3"}),
        (("192.0.2.1",), (), set()),
    ],
)
def test_the_name_server_forwards_what_is_allowed(
    allow: tuple[str, ...], deny: tuple[str, ...], expected: set[str]
) -> None:
    lines = render_names(rules(*allow, deny=deny), "10.0.2.3").splitlines()
    assert {line for line in lines if line.startswith(("server=", "local="))} == expected


def test_an_address_goes_to_the_sets_of_all_rules_for_its_name() -> None:
    text = render_names(rules("a.b.test:80", "*.b.test:443", "c.test"), "10.0.2.3")
    sets = dict(
        line.removeprefix("nftset=/").split("/") for line in text.splitlines() if line.startswith("nftset=")
    )
    wild, exact = set_name(NetRule("*.b.test")), set_name(NetRule("a.b.test"))
    assert set(sets) == {"a.b.test", "b.test", "c.test"}
    assert all(name in sets["a.b.test"] for name in (wild, exact))
    assert wild in sets["b.test"]
    assert exact not in sets["b.test"]


def test_private_answers_are_withheld_unless_a_private_network_is_open() -> None:
    assert "stop-dns-rebind" in render_names(rules("a.test", "192.0.2.0/24"), "10.0.2.3")
    assert "stop-dns-rebind" not in render_names(rules("a.test", "10.1.0.0/16"), "10.0.2.3")


def test_counters_are_told_by_reason_and_rule() -> None:
    allowed = NetRule.parse("a.test:443")
    listing = {
        "nftables": [
            {"metainfo": {}},
            {"counter": {"name": "n_private", "packets": 3, "bytes": 180}},
            {"counter": {"name": "n_sent", "packets": 9, "bytes": 900}},
            {"counter": {"name": counter_name(allowed), "packets": 2, "bytes": 120}},
        ]
    }
    found = read_counters(json.dumps(listing).encode(), FilterRules(allow=(allowed,)))
    assert found["refused"]["private addresses"] == 3
    assert found["sent_bytes"] == 900
    assert found["rules"] == [{"action": "allow", "rule": "a.test:443", "connections": 2}]


def packet_message(payload: bytes, prefix: bytes) -> bytes:
    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    body = b"\2\0\0\1" + attribute(10, prefix + b"\0") + attribute(9, payload)
    return struct.pack("=IHHII", 16 + len(body), 0x0400, 0, 0, 0) + body


def test_a_message_of_the_kernel_becomes_a_refused_connection() -> None:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 60, 0, 0, 64, 6, 0, bytes(4), socket.inet_aton("169.254.169.254")
    )
    message = packet_message(header + struct.pack("!HH", 40000, 80), b"closed")
    assert (
        list(refused_connections(message + message))
        == [{"rule": "closed", "address": "169.254.169.254", "protocol": "tcp", "port": 80}] * 2
    )


@given(st.binary(max_size=200))
def test_any_packet_of_a_guest_is_survived(payload: bytes) -> None:
    for facts in refused_connections(packet_message(payload, os.urandom(3))):
        json.dumps(facts)
    list(refused_connections(payload))


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ballonet.base.process._EXTRA_PATH", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    for program, package in (
        ("nft", "nftables"),
        ("slirp4netns", "slirp4netns"),
        ("dnsmasq", "dnsmasq-base"),
    ):
        with pytest.raises(HostError, match=f"^{program} is not installed") as failed:
            check_network_programs(names=True)
        assert f"apt-get install {package}" in str(failed.value.hint)
        (tmp_path / program).write_text("")
        (tmp_path / program).chmod(0o755)
    check_network_programs(names=True)


def test_requests_and_answers_survive_a_damaged_file(tmp_path: Path) -> None:
    request = NetworkRequest("a1", NewRules((NetRule("a.test", (443, 443)),), (NetRule("9.9.9.9"),)))
    request.write(tmp_path)
    assert NetworkRequest.read(tmp_path) == request
    limited = NetworkRequest("a0", NewRules((), (), 512, 7))
    limited.write(tmp_path)
    assert NetworkRequest.read(tmp_path) == limited
    request.write(tmp_path)
    assert request.answered(tmp_path) is None
    request.answer(tmp_path, Answer(None, {"sent_bytes": 1}))
    assert request.answered(tmp_path) == Answer(None, {"sent_bytes": 1})
    assert NetworkRequest("a2", None).answered(tmp_path) is None
    for damaged in (
        "",
        "[]",
        "{}",
        '{"id": 1, "rules": [["a b"], []]}',
        '{"id": "x", "rules": 7}',
        "\udcff",
        '{"id": "x", "rules": [[], []], "limits": ["x", 1]}',
        '{"id": "x", "rules": [[], []], "limits": [1, 2, 3]}',
    ):
        (tmp_path / "network-request.json").write_text(damaged, errors="surrogateescape")
        (tmp_path / "network-answer.json").write_text(damaged, errors="surrogateescape")
        assert NetworkRequest.read(tmp_path) is None
        assert request.answered(tmp_path) is None


def test_the_log_has_a_limited_size_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("ballonet.machine.network_log.time.time", lambda: now[0])
    log = NetworkLog(tmp_path)
    for number in range(1000):
        log.add("name", name=f"n{number}.test")
    lines = [json.loads(line) for line in (tmp_path / "network.jsonl").read_text().splitlines()]
    assert len(lines) == 200
    assert lines[-1]["event"] == "more"
    for _ in range(300):
        now[0] += 11
        for number in range(100):
            log.add("name", name=f"n{number}." + "x" * 200)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * MAX_BYTES + 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.1.jsonl", "network.jsonl"]
