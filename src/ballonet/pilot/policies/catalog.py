"""All policies by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ballonet.base.errors import ConfigError
from ballonet.base.suggest import hint_for
from ballonet.pilot.model import Policy
from ballonet.pilot.policies.ballonet import Ballonet
from ballonet.pilot.policies.hypeman import Hypeman
from ballonet.pilot.policies.mom import Mom
from ballonet.pilot.policies.proxmox import Proxmox
from ballonet.pilot.policies.qmemman import Qmemman
from ballonet.pilot.policies.reporting import Reporting
from ballonet.pilot.policies.squeezed import Squeezed
from ballonet.pilot.policies.static import Static
from ballonet.pilot.policies.vm0 import Vm0

#: What a policy is made by; settings are its dataclass's fields.
POLICIES: dict[str, Callable[..., Policy]] = {
    "ballonet": Ballonet,
    "reporting": Reporting,
    "static": Static,
    "mom": Mom,
    "proxmox": Proxmox,
    "squeezed": Squeezed,
    "qmemman": Qmemman,
    "vm0": Vm0,
    "hypeman": Hypeman,
}


class About(NamedTuple):
    """A policy in words."""

    #: What it does: one sentence.
    rule: str
    good_for: str


ABOUT: dict[str, About] = {
    "ballonet": About(
        "Leaves each guest what it needs and room to grow, and returns idle memory to the host.",
        "sandboxes that are idle most of the time and busy in bursts; the default",
    ),
    "reporting": About(
        "Moves no target: only memory that guests report as free comes back.",
        "work that must not be slowed down at all",
    ),
    "static": About(
        "Gives every sandbox its ceiling and takes nothing back.",
        "hosts that have room for all ceilings; the baseline of comparisons",
    ),
    "mom": About(
        "Keeps a fifth of each guest free while the host has memory, and less as the host runs short (oVirt's MOM).",
        "comparison with oVirt",
    ),
    "proxmox": About(
        "Keeps 80 % of the host in use, in steps of at most 100 MiB (Proxmox's automatic ballooning).",
        "comparison with Proxmox VE; slow and even changes",
    ),
    "squeezed": About(
        "Squeezes every guest by the same fraction of its range (XAPI's squeezed).",
        "guests that matter equally, and a host that is always full",
    ),
    "qmemman": About(
        "Gives each guest 1.3 times what it uses and divides the rest in proportion (Qubes' qmemman).",
        "desktop guests that change slowly",
    ),
    "vm0": About(
        "Keeps 192 to 384 MiB available in each guest, whatever the others need (vm0).",
        "guests of about 4 GiB, each on its own",
    ),
    "hypeman": About(
        "Takes memory only while the host has less than 10 % available, until it has 15 % (hypeman).",
        "hosts that are rarely short of memory",
    ),
}


def unknown_policy(name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that no policy has."""
    known = sorted(known)
    return ConfigError(
        f"there is no policy {name!r}"[:200], hint=hint_for(name, known, f"choose one of {', '.join(known)}")
    )


def make_policy(name: str, **settings: Any) -> Policy:
    """The policy of that name.

    :raises ConfigError: there is none, or it has no such setting.
    """
    make = POLICIES.get(name)
    if make is None:
        raise unknown_policy(name, POLICIES)
    try:
        return make(**settings)
    except TypeError as error:
        raise ConfigError(f"policy {name}: {error}") from error
