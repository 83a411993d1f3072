"""Which settings of a sandbox reach the host or its network: they need a token with the scope ``admin``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.images.reference import REGISTRY, parse_reference
from ballonet.machine.net_filter import PRIVATE
from ballonet.vmm.net_rules import NetRule

_LOOPBACK = "127."


def host_settings(settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that give a sandbox files, ports or private networks of the host.

    Named volumes, ports on loopback and public addresses do not. Values may be invalid: they are refused later.
    """
    found = [name for name in ("rootfs", "net_allow_host") if settings.get(name)]
    if any(_is_directory(volume.partition(":")[0]) for volume in settings.get("volumes", ())):
        found.append("volumes")
    if any(_is_private(rule) for rule in settings.get("net_allow", ())):
        found.append("net_allow")
    image = settings.get("image")
    if isinstance(image, str) and _is_file(image):
        found.append("image")
    if any(not _on_loopback(port) for port in settings.get("ports", ())):
        found.append("ports")
    balloon = settings.get("balloon")
    if isinstance(balloon, Mapping) and "control_socket" in balloon:
        found.append("balloon.control_socket")
    return found


def _is_directory(source: str) -> bool:
    return "/" in source or source in (".", "..")


def _is_private(rule: str) -> bool:
    """Whether a rule of the network opens private addresses: names and larger blocks do not."""
    try:
        block = NetRule.parse(rule).block
    except ValueError:
        return False
    return block is not None and any(block.within(private) for private in PRIVATE)


def _is_file(image: str) -> bool:
    try:
        return parse_reference(image).transport != REGISTRY
    except BallonetError:
        return True


def _on_loopback(port: str) -> bool:
    parts = port.split(":")
    return len(parts) < 3 or parts[0].startswith(_LOOPBACK)
