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

#: Constructors by policy name; the settings of a policy are the fields of its dataclass.
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
        "Keeps what each guest needs and room to grow, and returns idle memory to the host.",
        "sandboxes that are mostly idle and busy in bursts (the default)",
    ),
    "reporting": About(
        "Changes no target; the host gets back what guests report as free.",
        "work that must not be slowed down",
    ),
    "static": About(
        "Sets every target to the ceiling and takes nothing back.",
        "hosts with room for all ceilings; the baseline of comparisons",
    ),
    "mom": About(
        "Keeps 20 % of each guest free, and less when the host runs short of memory (oVirt's MOM).",
        "comparison with oVirt",
    ),
    "proxmox": About(
        "Keeps 80 % of the host in use, in steps of at most 100 MiB (Proxmox's automatic ballooning).",
        "comparison with Proxmox VE; slow and even changes",
    ),
    "squeezed": About(
        "Shrinks every guest by the same fraction of its range (XAPI's squeezed).",
        "equally important guests on a host that is always full",
    ),
    "qmemman": About(
        "Gives each guest 1.3 times the memory that it uses, and shares the rest in proportion (Qubes' qmemman).",
        "desktop guests whose use changes slowly",
    ),
    "vm0": About(
        "Keeps 192 to 384 MiB available in each guest, independently of the others (vm0).",
        "guests of about 4 GiB on a host that is not overcommitted",
    ),
    "hypeman": About(
        "Takes memory only when 10 % of the host or less are available, until 15 % are (hypeman).",
        "hosts that are rarely short of memory",
    ),
}


def unknown_policy(name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown policy name."""
    known = sorted(known)
    return ConfigError(
        f"unknown policy {name!r}"[:200], hint=hint_for(name, known, f"choose one of {', '.join(known)}")
    )


def make_policy(name: str, **settings: Any) -> Policy:
    """The policy with this name.

    :raises ConfigError: there is no such policy, or it has no such setting.
    """
    make = POLICIES.get(name)
    if make is None:
        raise unknown_policy(name, POLICIES)
    try:
        return make(**settings)
    except TypeError as error:
        raise ConfigError(f"policy {name}: {error}") from error
