"""What the operator lets an agent have: checked, and made into the settings of a sandbox. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError
from ballonet.vmm.attach import Net
from ballonet.vmm.config import OnIdle

#: The label of all sandboxes that agents have made.
LABEL = "ballonet.mcp"


@dataclass(frozen=True)
class Policy:
    """The limits of each session.

    :param images: which images sandboxes may have; the first is the default. Empty: only the built-in root.
    :param memory_mib: the memory of a sandbox by default, and the most that it may have.
    :param net: the most access to networks that a sandbox may have.
    :param net_allow: what a sandbox with the network ``user`` may reach, as ``--net-allow``; empty: public addresses.
    :param existing: names of the operator's own sandboxes that an agent may use, too.
    """

    images: tuple[str, ...] = ()
    memory_mib: int = 512
    cpus: int = 1
    net: Net = Net.ISOLATED
    net_allow: tuple[str, ...] = ()
    max_sandboxes: int = 4
    ttl_s: int = 4 * 3600
    idle_timeout_s: int = 1800
    existing: tuple[str, ...] = ()

    def image(self, wanted: str | None) -> str | None:
        """:raises ConfigError: sandboxes may not have that image."""
        if wanted is None:
            return self.images[0] if self.images else None
        if wanted not in self.images:
            known = ", ".join(self.images) or "none: sandboxes have a small built-in system with a shell"
            raise ConfigError(
                f"image {wanted[:200]!r} is not permitted here",
                hint=f"leave 'image' out, or choose one of these: {known}",
            )
        return wanted

    def memory(self, wanted_mib: int | None) -> int:
        """:raises ConfigError: sandboxes may not have that much."""
        if wanted_mib is None:
            return self.memory_mib
        if wanted_mib > self.memory_mib:
            raise ConfigError(
                f"memory_mib {wanted_mib} is more than the {self.memory_mib} MiB that a sandbox may have here",
                hint=f"ask for {self.memory_mib} or less",
            )
        return wanted_mib

    def network(self, *, internet: bool, ports: Sequence[int]) -> Net:
        """:raises ConfigError: sandboxes may not have that network."""
        if internet:
            if self.net is not Net.USER:
                raise ConfigError(
                    "sandboxes of this server have no access to the internet",
                    hint="work without it; only the operator can permit it, with --net user",
                )
            return Net.USER
        if not ports:
            return Net.NONE
        if self.net is Net.NONE:
            raise ConfigError(
                "sandboxes of this server cannot publish ports",
                hint="leave 'ports' out; only the operator can permit them, with --net isolated",
            )
        return Net.ISOLATED

    def settings(
        self, *, image: str | None, memory_mib: int | None, internet: bool, ports: Sequence[int]
    ) -> dict[str, Any]:
        """The settings of a sandbox, as ``Sandbox.create`` takes them.

        :raises ConfigError: something is not permitted.
        """
        net = self.network(internet=internet, ports=ports)
        found: dict[str, Any] = {
            "memory": self.memory(memory_mib),
            "cpus": self.cpus,
            "net": net.value,
            "ports": [f"127.0.0.1:0:{port}" for port in dict.fromkeys(ports)],
            "ttl": self.ttl_s,
            "idle_timeout": self.idle_timeout_s,
            # A paused sandbox would outlive a killed server.
            "on_idle": OnIdle.STOP.value,
            "labels": {LABEL: ""},
        }
        if (root := self.image(image)) is not None:
            found["image"] = root
        if net is Net.USER and self.net_allow:
            found["net_allow"] = list(self.net_allow)
        return found
