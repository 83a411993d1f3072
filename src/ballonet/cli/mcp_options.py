"""The options of ``ballonet mcp`` and ``ballonet serve --mcp`` that say what an agent may have."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import ConfigError

if TYPE_CHECKING:
    from ballonet.mcp.policy import Policy

_NETWORKS = ("none", "isolated", "user")


def add_policy(parser: argparse._ActionsContainer, prefix: str = "") -> None:
    """:param prefix: in front of the name of each option."""

    def add(name: str, **settings: Any) -> None:
        parser.add_argument(f"--{prefix}{name}", **settings)

    add(
        "image",
        metavar="IMAGE",
        action="append",
        default=[],
        help="image that sandboxes may have; the first one is the default (default: the built-in root alone; "
        "may be repeated)",
    )
    add("memory", metavar="SIZE", default="512M", help="most memory of a sandbox (default: 512M)")
    add("cpus", metavar="N", type=int, default=1, help="processors of a sandbox (default: 1)")
    add(
        "net",
        choices=_NETWORKS,
        default="isolated",
        help="most network of a sandbox, if the agent asks for it: none; isolated, ports published on 127.0.0.1; "
        "user, also the internet (default: isolated)",
    )
    add(
        "net-allow",
        metavar="RULE",
        action="append",
        default=[],
        help="with user: what a sandbox may reach, as --net-allow of 'ballonet run' (default: public addresses; "
        "may be repeated)",
    )
    add("max-sandboxes", metavar="N", type=int, default=4, help="sandboxes of a session (default: 4)")
    add("ttl", metavar="TIME", default="4h", help="how long a sandbox runs (default: 4h)")
    add(
        "idle-timeout",
        metavar="TIME",
        default="30m",
        help="after which time without use a sandbox ends, and a session whose client is gone (default: 30m)",
    )
    add(
        "use",
        metavar="NAME",
        action="append",
        default=[],
        help="existing sandbox that an agent may use, too; it stays (may be repeated)",
    )


def check_unused(options: argparse.Namespace, prefix: str, needed: str) -> None:
    """:raises ConfigError: one of the options was given, which needs another one."""
    defaults = argparse.ArgumentParser()
    add_policy(defaults, prefix)
    for name, default in vars(defaults.parse_args([])).items():
        if getattr(options, name) != default:
            raise ConfigError(f"--{name.replace('_', '-')} needs {needed}")


def policy_of(options: argparse.Namespace, prefix: str = "") -> Policy:
    """:raises ConfigError: a value is invalid; the message has the option's name."""
    from ballonet.base.duration import parse_duration
    from ballonet.base.memory import parse_size
    from ballonet.mcp.policy import Policy
    from ballonet.vmm.attach import Net
    from ballonet.vmm.net_rules import NetRule

    def value(name: str) -> Any:
        return getattr(options, f"{prefix}{name}".replace("-", "_"))

    def duration(name: str) -> int:
        try:
            seconds = parse_duration(value(name))
        except ValueError as error:
            raise ConfigError(
                f"--{prefix}{name} {value(name)!r} {error}", hint="for example 90s, 10m or 2h"
            ) from None
        if seconds < 1:
            raise ConfigError(f"--{prefix}{name} {value(name)} must be at least 1s")
        return seconds

    for name in ("cpus", "max-sandboxes"):
        if value(name) < 1:
            raise ConfigError(f"--{prefix}{name} {value(name)} must be at least 1")
    if value("net-allow") and value("net") != Net.USER:
        raise ConfigError(f"--{prefix}net-allow needs --{prefix}net user")
    for rule in value("net-allow"):
        try:
            NetRule.parse(rule)
        except ValueError as error:
            if rule not in ("public", "packages", "none"):
                raise ConfigError(f"--{prefix}net-allow {rule!r}: {error}") from None
    return Policy(
        images=tuple(value("image")),
        memory_mib=parse_size(value("memory"), f"--{prefix}memory"),
        cpus=value("cpus"),
        net=Net(value("net")),
        net_allow=tuple(value("net-allow")),
        max_sandboxes=value("max-sandboxes"),
        ttl_s=duration("ttl"),
        idle_timeout_s=duration("idle-timeout"),
        existing=tuple(value("use")),
    )
