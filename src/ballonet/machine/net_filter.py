"""The packet filter of a sandbox's network, as input of ``nft``. Pure.

The table is in a network namespace of the sandbox, in which packets are forwarded between two interfaces: ``guest``,
the other end of the guest's, and ``up``, which leads to the host's network (:mod:`ballonet.machine.network`). Rules
compare the addresses of a *connection* as its first packet had them, in both directions and after a change of rules.

A connection that was allowed has the number of the rules that allowed it as its mark. When the rules change, so does
the number: each connection is checked again with its next packet, whoever sends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

from ballonet.base.dataclass import dataclass
from ballonet.base.ipv4 import Block
from ballonet.vmm.attach import Port
from ballonet.vmm.net_rules import MAX_CONNECTIONS, NONE, PUBLIC, HostPort, NetRule

TABLE = "ballonet"
GUEST_INTERFACE, UP_INTERFACE = "guest", "up"
#: The network between the namespace and the host: addresses for local use by translators (RFC 7335).
UP_NETWORK = "192.0.0.0/24"
#: Those of slirp4netns in it: the namespace, the gateway (the host's loopback), the name server (the host's).
UP_ADDRESS, UP_GATEWAY, UP_NAME_SERVER = "192.0.0.100", "192.0.0.2", "192.0.0.3"
#: The group of the kernel's log (nfnetlink) to which refused connections are reported.
LOG_GROUP = 1
#: How long an address stays allowed after a name was resolved to it.
_NAME_TIMEOUT = "6h"
_MAX_ADDRESSES = 16384
#: How many rules fit into one input: a plain user's may have some 200 KiB (net.core.wmem_default).
_PART = 150
#: The longest packet with a query, and how many a second.
_MAX_QUERY_BYTES = 220
_MAX_QUERIES = 50

EVERYTHING = Block(0, 0)
#: Never open to a guest, whatever the rules say (RFC 6890): this network, loopback, link-local with the metadata of
#: clouds, protocol assignments, benchmarks, multicast, reserved.
CLOSED = tuple(
    map(
        Block.parse,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
#: Closed unless a rule allows addresses in one of them.
PRIVATE = tuple(
    map(Block.parse, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"))
)


@dataclass(frozen=True)
class Addresses:
    """Of the guest's side."""

    guest: str
    gateway: str
    name_server: str


@dataclass(frozen=True, kw_only=True)
class FilterRules:
    """What the filter enforces."""

    allow: tuple[NetRule, ...] = ()
    deny: tuple[NetRule, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    #: Published ports, in the order of :func:`inner_ports`.
    ports: tuple[Port, ...] = ()
    #: How many connections of the guest may exist at once.
    connections: int = MAX_CONNECTIONS

    @property
    def names(self) -> tuple[NetRule, ...]:
        """The rules that allow names. A denied name has no addresses: it is not resolved."""
        return tuple(rule for rule in self.allow if rule.name is not None)

    @property
    def resolves_names(self) -> bool:
        """Whether the sandbox has a name server of its own, which answers only for what is allowed."""
        return bool(self.allow) or any(rule.name is not None for rule in self.deny)


def inner_ports(ports: Sequence[Port]) -> tuple[tuple[int, Port], ...]:
    """The ports of the namespace to which published ports lead."""
    return tuple(enumerate(ports, start=1))


def set_name(rule: NetRule) -> str:
    """The set of the addresses of a rule's name."""
    return f"name_{crc32((rule.name or '').encode()):08x}"


def _connections_set(rules: FilterRules) -> str:
    """The set with the number of the guest's connections."""
    return f"connections_{rules.connections}"


def _sets(rules: FilterRules) -> set[str]:
    """The sets that exist for these rules."""
    return {_connections_set(rules), *map(set_name, rules.names)}


def counter_name(rule: NetRule | str) -> str:
    """The counter of the connections that a rule has decided; for a built-in rule, by its word."""
    return f"n_{rule}" if isinstance(rule, str) else f"r_{crc32(str(rule).encode()):08x}"


#: The built-in rules by which connections are refused.
REFUSALS = ("host", "closed", "denied", "private", "other", "many", "names")


def render_filter(
    rules: FilterRules,
    addresses: Addresses,
    own: Iterable[Block],
    *,
    number: int,
    old: FilterRules | None = None,
) -> list[str]:
    """Inputs of ``nft -f``. The last one puts the rules in force, in one step. With many rules, those before it
    prepare some of the rules: the kernel limits the size of one input.

    :param own: the host's own addresses.
    :param number: of these rules: one more than that of ``old``, the rules that they replace.
    """
    first, *others = _parts(rules)
    return [
        *(_prepared(part, number, place) for place, part in enumerate(others, start=1)),
        _final(rules, addresses, own, number, old, first),
    ]


def _parts(rules: FilterRules) -> list[list[tuple[NetRule, str]]]:
    """The rules that are not built in, in order, each with its line."""
    lines = [
        (rule, f"{_match(rule)} counter name {counter_name(rule)} goto refuse_denied")
        for rule in rules.deny
        if rule.name is None
    ]
    for rule in rules.allow:
        if rule.host == NONE:
            continue
        # Only a rule for addresses inside a private block opens some of it: not 0.0.0.0/0, nor a name.
        block = rule.block
        opens = block is not None and any(block.within(private) for private in PRIVATE)
        guard = "" if opens else "ct original ip daddr != @private "
        lines.append((rule, f"{guard}{_match(rule)} counter name {counter_name(rule)} goto accepted"))
    return [lines[at : at + _PART] for at in range(0, max(len(lines), 1), _PART)]


def _part_chain(number: int, place: int) -> str:
    return f"rules_{number}_{place}"


def _part_lines(part: list[tuple[NetRule, str]], number: int, place: int) -> list[str]:
    """The sets, the counters and the chain of a part."""
    names = dict.fromkeys(set_name(rule) for rule, line in part if rule.name is not None)
    sets = [
        f" set {name} {{ type ipv4_addr; flags timeout; timeout {_NAME_TIMEOUT}; size {_MAX_ADDRESSES}; }}"
        for name in names
    ]
    counters = [f" counter {name} {{ }}" for name in dict.fromkeys(counter_name(rule) for rule, _ in part)]
    return [*sets, *counters, *_chain(_part_chain(number, place), [line for _, line in part])]


def _prepared(part: list[tuple[NetRule, str]], number: int, place: int) -> str:
    chain = _part_chain(number, place)
    return "\n".join(
        [
            f"add table inet {TABLE}",
            f"add chain inet {TABLE} {chain}",
            f"flush chain inet {TABLE} {chain}",  # of an attempt that failed
            f"table inet {TABLE} {{",
            *_static_sets(()),
            " chain accepted { }",
            " chain refuse_denied { }",
            *_part_lines(part, number, place),
            "}",
            "",
        ]
    )


def _final(
    rules: FilterRules,
    addresses: Addresses,
    own: Iterable[Block],
    number: int,
    old: FilterRules | None,
    first: list[tuple[NetRule, str]],
) -> str:
    chains = dict(_chains(rules, addresses, number))
    lines = [f"table inet {TABLE} {{"]
    for chain, body in (*chains.items(), (_part_chain(number, 0), [])):
        lines += _chain(chain, body[:1] if body and body[0].startswith("type ") else [])
    lines.append("}")
    lines += [f"flush chain inet {TABLE} {chain}" for chain in (*chains, _part_chain(number, 0))]
    if old is not None:
        lines += [
            f"delete chain inet {TABLE} {_part_chain(number - 1, at)}" for at in range(len(_parts(old)))
        ]
        unused = _sets(old) - _sets(rules)
        lines += [f"delete set inet {TABLE} {name}" for name in sorted(unused)]
    lines += [f"table inet {TABLE} {{", *_static_sets(own)]
    lines.append(f" set {_connections_set(rules)} {{ type ipv4_addr; size 16; flags dynamic; }}")
    built_in = (*REFUSALS, "allowed", "sent", "received", "queries")
    lines += [f" counter {counter_name(word)} {{ }}" for word in built_in]
    lines += _part_lines(first, number, 0)
    for chain, body in chains.items():
        lines += _chain(chain, body)
    return "\n".join([*lines, "}", ""])


def _static_sets(own: Iterable[Block]) -> list[str]:
    return [
        f" set own {{ type ipv4_addr; flags interval; auto-merge; {_elements(own)} }}",
        f" set closed {{ type ipv4_addr; flags interval; {_elements(CLOSED)} }}",
        f" set private {{ type ipv4_addr; flags interval; {_elements(PRIVATE)} }}",
    ]


def _chain(name: str, body: Iterable[str]) -> list[str]:
    return [f" chain {name} {{", *(f"  {line}" for line in body), " }"]


def render_own(own: Iterable[Block]) -> str:
    """Input of ``nft -f`` that replaces the host's own addresses."""
    elements = ", ".join(map(str, own))
    add = f"add element inet {TABLE} own {{ {elements} }}\n" if elements else ""
    return f"flush set inet {TABLE} own\n{add}"


def _elements(blocks: Iterable[Block]) -> str:
    elements = ", ".join(map(str, blocks))
    return f"elements = {{ {elements} }};" if elements else ""


def _chains(rules: FilterRules, addresses: Addresses, number: int) -> Iterator[tuple[str, list[str]]]:
    yield "spoofed", list(_spoofed(addresses))
    yield "destinations", list(_destinations(rules, addresses))
    yield (
        "sources",
        [
            "type nat hook postrouting priority srcnat; policy accept;",
            f"oifname {UP_INTERFACE} masquerade",
            f"oifname {GUEST_INTERFACE} snat ip to {addresses.gateway}",
        ],
    )
    for word in REFUSALS:
        yield f"refuse_{word}", list(_refusal(word))
    yield "refuse", ["meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"]
    yield "queries", list(_queries())
    yield "accepted", [f"ct mark set {number} accept"]
    yield "decide", list(_decisions(rules, addresses, number))
    yield "forwarded", list(_forwarded(rules, number))
    yield "received", list(_received(rules, addresses))
    yield "sent", list(_sent(rules))


def _spoofed(addresses: Addresses) -> Iterator[str]:
    """Before connection tracking: packets with another address than the guest's, and everything but IPv4."""
    yield "type filter hook prerouting priority raw; policy accept;"
    yield f"iifname {GUEST_INTERFACE} meta nfproto != ipv4 drop"
    yield f"iifname {GUEST_INTERFACE} ip saddr != {addresses.guest} drop"
    yield f"iifname {UP_INTERFACE} meta nfproto != ipv4 drop"


def _destinations(rules: FilterRules, addresses: Addresses) -> Iterator[str]:
    yield "type nat hook prerouting priority dstnat; policy accept;"
    from_guest = f"iifname {GUEST_INTERFACE} ip daddr"
    for port in rules.host_ports:
        yield f"{from_guest} {addresses.gateway} {port.protocol} dport {port.port} dnat ip to {UP_GATEWAY}"
    if not rules.resolves_names:
        for protocol in ("udp", "tcp"):
            yield f"{from_guest} {addresses.name_server} {protocol} dport 53 dnat ip to {UP_NAME_SERVER}"
    for inner, published in inner_ports(rules.ports):
        where = f"ip daddr {UP_ADDRESS} {published.protocol} dport {inner}"
        yield f"iifname {UP_INTERFACE} {where} dnat ip to {addresses.guest}:{published.guest}"


def _refusal(word: str) -> Iterator[str]:
    yield f"ct state new counter name {counter_name(word)}"
    log = f'log prefix "{word}" group {LOG_GROUP} snaplen 64 queue-threshold 1'
    yield f"ct state new limit rate 10/second burst 50 packets {log}"
    yield "goto refuse"


def _forwarded(rules: FilterRules, number: int) -> Iterator[str]:
    yield "type filter hook forward priority filter; policy drop;"
    yield f"iifname {GUEST_INTERFACE} counter name {counter_name('sent')}"
    yield f"oifname {GUEST_INTERFACE} counter name {counter_name('received')}"
    yield "ct state invalid drop"
    yield f"ct state established,related ct mark {number} accept"
    # In a set, so that a change of other rules does not forget the connections that exist.
    count = f"add @{_connections_set(rules)} {{ ip saddr ct count over {rules.connections} }}"
    yield f"iifname {GUEST_INTERFACE} ct state new {count} goto refuse_many"
    # Errors about connections, which have no mark of their own.
    yield "ct state related meta l4proto icmp accept"
    yield "goto decide"


def _decisions(rules: FilterRules, addresses: Addresses, number: int) -> Iterator[str]:
    """The first rule that matches a connection decides."""
    # A connection to a published port comes from the host; all others are the guest's.
    for inner, published in inner_ports(rules.ports):
        yield (
            f"ct original ip saddr != {addresses.guest} ct original ip daddr {UP_ADDRESS} meta l4proto "
            f"{published.protocol} ct original proto-dst {inner} goto accepted"
        )
    yield f"ct original ip saddr != {addresses.guest} drop"
    to = "ct original ip daddr"
    for port in rules.host_ports:
        where = f"{to} {addresses.gateway} meta l4proto {port.protocol} ct original proto-dst {port.port}"
        yield f"{where} counter name {counter_name('allowed')} goto accepted"
    if not rules.resolves_names:
        yield (
            f"{to} {addresses.name_server} meta l4proto {{ tcp, udp }} ct original proto-dst 53 "
            f"counter name {counter_name('queries')} goto accepted"
        )
    yield f"{to} @own goto refuse_host"
    yield f"{to} @closed goto refuse_closed"
    for place in range(len(_parts(rules))):
        yield f"jump {_part_chain(number, place)}"
    yield f"{to} @private goto refuse_private"
    if rules.allow:
        yield "goto refuse_other"
    else:
        yield f"counter name {counter_name('allowed')} goto accepted"


def _match(rule: NetRule) -> str:
    """The conditions of a rule, as short as they can be: the kernel limits the size of a change."""
    to = "ct original ip daddr"
    if rule.name is not None:
        where = f"{to} @{set_name(rule)} "
    else:
        where = "" if rule.host == PUBLIC or rule.block == EVERYTHING else f"{to} {rule.block} "
    if rule.ports is None:
        return where if rule.protocol is None else f"{where}meta l4proto {rule.protocol}"
    first, last = rule.ports
    protocol = rule.protocol or "{ tcp, udp }"
    return f"{where}meta l4proto {protocol} ct original proto-dst {first if first == last else f'{first}-{last}'}"


def _received(rules: FilterRules, addresses: Addresses) -> Iterator[str]:
    """Packets to the namespace itself."""
    yield "type filter hook input priority filter; policy drop;"
    yield "iifname lo accept"
    yield "ct state invalid drop"
    if rules.resolves_names:
        yield f"iifname {GUEST_INTERFACE} meta length > {_MAX_QUERY_BYTES} goto refuse_names"
    yield "ct state established,related accept"
    yield f"ip daddr {addresses.gateway} icmp type echo-request limit rate 20/second accept"
    if rules.resolves_names:
        server = f"iifname {GUEST_INTERFACE} ip daddr {addresses.name_server}"
        yield f"{server} udp dport 53 goto queries"
        yield f"{server} tcp dport 53 goto refuse_names"
    yield f"iifname {GUEST_INTERFACE} goto refuse_host"


def _queries() -> Iterator[str]:
    """A query for an allowed name is short. Long ones, and many, may carry data out."""
    yield f"limit rate over {_MAX_QUERIES}/second burst {2 * _MAX_QUERIES} packets goto refuse_names"
    yield f"counter name {counter_name('queries')} accept"


def _sent(rules: FilterRules) -> Iterator[str]:
    """Packets of the namespace itself: of its name server, and refusals."""
    yield "type filter hook output priority filter; policy drop;"
    yield "oifname lo accept"
    yield "ct state established,related accept"
    if rules.resolves_names:
        yield f"oifname {UP_INTERFACE} ip daddr {UP_NAME_SERVER} meta l4proto {{ tcp, udp }} th dport 53 accept"
