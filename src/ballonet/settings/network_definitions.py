"""The settings of a sandbox's network, declared as those in :mod:`ballonet.settings.definitions`."""

# Without 'from __future__ import annotations': the annotations are read when the module is loaded.
from collections.abc import Sequence
from typing import Annotated, Generic, TypedDict, TypeVar

from ballonet.base.memory import Size
from ballonet.settings.setting import KIB_PER_S, LIVE, Setting
from ballonet.vmm.attach import Net, Port
from ballonet.vmm.net_rules import MAX_CONNECTIONS, HostPort, NetRule

Unset = TypeVar("Unset")


class Network(TypedDict, Generic[Unset], total=False):
    net: Annotated[
        Net | str | None,
        Setting(
            "network access of the guest: none; user, public addresses and what is allowed, not the host; "
            "isolated, only its published ports from the host",
            default_text="none, or user with published ports or rules",
            modify_help="network access of the guest",
        ),
    ]
    ports: Annotated[
        Sequence[str | Port] | Unset,
        Setting(
            "publish a guest port on the host, on 127.0.0.1 unless another address is given; host port 0 selects "
            "a free port",
            (),
            option="--publish",
            short="-p",
            metavar="[ADDRESS:]HOST:GUEST[/udp]",
        ),
    ]
    net_allow: Annotated[
        Sequence[str | NetRule] | Unset,
        Setting(
            "allow connections to this name, *.name, address or block of addresses, and nothing that is not allowed; "
            "presets: public, packages, none",
            (),
            takes_effect=LIVE,
            metavar="HOST[:PORT][/PROTOCOL]",
        ),
    ]
    net_deny: Annotated[
        Sequence[str | NetRule] | Unset,
        Setting(
            "deny connections to this name, *.name, address or block of addresses, even if they are allowed",
            (),
            takes_effect=LIVE,
            metavar="HOST[:PORT][/PROTOCOL]",
        ),
    ]
    net_rate: Annotated[
        Size | None,
        Setting(
            "the most that the guest may send, and the most that it may receive, in a second, for example 10M",
            default_text="no limit",
            unit=KIB_PER_S,
            field="net_rate_kib",
            takes_effect=LIVE,
        ),
    ]
    net_connections: Annotated[
        int | Unset,
        Setting(
            "how many connections of the guest may exist at once",
            MAX_CONNECTIONS,
            metavar="N",
            takes_effect=LIVE,
        ),
    ]
    net_allow_host: Annotated[
        Sequence[str | HostPort] | Unset,
        Setting(
            "let the guest reach this port of the host's loopback, at the gateway's address",
            (),
            metavar="PORT[/udp]",
        ),
    ]
