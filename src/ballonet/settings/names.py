"""What each setting is called where people give it: a field of a configuration, a parameter, an option.

Errors are raised with the names of fields (:class:`~ballonet.errors.SettingError`); whoever is nearer to the person
tells them with the names of this table. A test holds it against the configuration's fields and the commands' options.
"""

from __future__ import annotations

from typing import NamedTuple


class Names(NamedTuple):
    """Of one setting."""

    #: Its parameter of :meth:`ballonet.sandbox.Sandbox.create`, or of :class:`ballonet.sandbox.Balloon`.
    parameter: str
    #: Its option of ``ballonet run``, ``create`` and ``modify``.
    option: str


#: By the configuration's field.
SETTINGS: dict[str, Names] = {
    "name": Names("name", "--name"),
    "cpus": Names("cpus", "--cpus"),
    "memory_mib": Names("memory", "--memory"),
    "balloon_initial_mib": Names("balloon_initial", "--balloon-initial"),
    "balloon_min_mib": Names("balloon_min", "--balloon-min"),
    "balloon_control_socket": Names("balloon_control_socket", "--balloon-control-socket"),
    "balloon_allow_users": Names("allow_users", "--balloon-allow-user"),
    "balloon_allow_groups": Names("allow_groups", "--balloon-allow-group"),
    "balloon_observe_users": Names("observe_users", "--balloon-observe-user"),
    "balloon_observe_groups": Names("observe_groups", "--balloon-observe-group"),
    "guard_mib": Names("guard", "--guard"),
    "deflate_on_oom": Names("deflate_on_oom", "--no-deflate-on-oom"),
    "free_page_reporting": Names("free_page_reporting", "--no-free-page-reporting"),
    "pressure_relief": Names("pressure_relief", "--no-pressure-relief"),
    "hard_cap": Names("hard_cap", "--hard-cap"),
    "machine": Names("machine", "--machine"),
    "accel": Names("accel", "--accel"),
    "image": Names("image", "--image"),
    "root": Names("rootfs", "--rootfs"),
    "disk_mib": Names("disk", "--disk"),
    "volumes": Names("volumes", "--volume"),
    "tmpfs": Names("tmpfs", "--tmpfs"),
    "net": Names("net", "--net"),
    "ports": Names("ports", "--publish"),
}
#: What is no part of the configuration, by its parameter; also the names that ``modify`` takes.
_OTHERS = {
    "weight": "--weight",
    "reserve": "--reserve",
    "memory_target": "--memory-target",
    "target": "SIZE",
    # One of a list.
    "volume": "--volume",
    "port": "--publish",
    "memory": "--memory",
    "balloon_initial": "--balloon-initial",
    "balloon_min": "--balloon-min",
    "guard": "--guard",
    "disk": "--disk",
}

PARAMETERS = {field: names.parameter for field, names in SETTINGS.items()}
OPTIONS = {field: names.option for field, names in SETTINGS.items()} | _OTHERS
