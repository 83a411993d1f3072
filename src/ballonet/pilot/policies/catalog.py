"""All policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ballonet.errors import ConfigError
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


def make_policy(name: str, **settings: Any) -> Policy:
    """The policy of that name.

    :raises ConfigError: there is none, or it has no such setting.
    """
    make = POLICIES.get(name)
    if make is None:
        raise ConfigError(f"there is no policy {name!r}", hint=f"one of {', '.join(sorted(POLICIES))}")
    try:
        return make(**settings)
    except TypeError as error:
        raise ConfigError(f"policy {name}: {error}") from error
