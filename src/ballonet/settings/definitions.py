"""Every setting of a sandbox, declared once: its name, type, default, option, help, and when a change takes effect.

The options of ``run``, ``create`` and ``modify``, the parameters of the SDK, the names in messages and the table in
``docs/sandboxes.md`` follow from these classes. Beside them a setting has a field in
:class:`~ballonet.vmm.config.VmConfig` (or :class:`~ballonet.settings.config.SandboxConfig`), from which its flag of the
sandbox's process follows. The sandbox's process does not load this module.

Which calls take a setting is said by the classes at the end: each class of settings is a base of those calls that take
all of its settings. ``Unset`` is how a call says that a setting is not given: ``modify`` takes ``None``.
"""

# Without 'from __future__ import annotations': the annotations are read when the module is loaded.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Never, TypedDict, TypeVar

from ballonet.base.duration import Duration
from ballonet.base.memory import Size
from ballonet.settings.balloon_definitions import BalloonBehaviour as BalloonBehaviour
from ballonet.settings.balloon_definitions import BalloonRange as BalloonRange
from ballonet.settings.balloon_definitions import ControlAccess as ControlAccess
from ballonet.settings.balloon_definitions import ControlSocket as ControlSocket
from ballonet.settings.limit_definitions import Limits
from ballonet.settings.network_definitions import Network
from ballonet.settings.setting import LIVE, MIB, SECONDS, Setting, declared
from ballonet.vmm.attach import Tmpfs, Volume
from ballonet.vmm.config import DISK_TARGET, Accel, Machine, OnIdle

Unset = TypeVar("Unset")


class Identity(TypedDict, total=False):
    name: Annotated[str, Setting("name of the sandbox", default_text="a random one")]


class Labels(TypedDict, Generic[Unset], total=False):
    labels: Annotated[
        Mapping[str, str] | Unset,
        Setting(
            "label, a short text by key, that 'ls' shows and filters by",
            {},
            option="--label",
            short="-l",
            metavar="KEY=VALUE",
            takes_effect=LIVE,
        ),
    ]


class HostName(TypedDict, total=False):
    hostname: Annotated[
        str | None, Setting("host name of the guest", default_text="the sandbox's name", metavar="NAME")
    ]


class GuestSize(TypedDict, Generic[Unset], total=False):
    memory: Annotated[
        Size | Unset,
        Setting("maximum memory of the guest, the ceiling", 512, unit=MIB, field="memory_mib", short="-m"),
    ]
    cpus: Annotated[int | Unset, Setting("number of processors", 1, metavar="N")]


class AutopilotShare(TypedDict, Generic[Unset], total=False):
    weight: Annotated[
        int | Unset,
        Setting(
            "share of memory that the autopilot gives the sandbox, relative to the others",
            100,
            metavar="N",
            takes_effect=LIVE,
        ),
    ]
    reserve: Annotated[
        Size | Unset,
        Setting("memory that the autopilot never takes from the sandbox", 0, unit=MIB, takes_effect=LIVE),
    ]


class Lifetime(TypedDict, Generic[Unset], total=False):
    ttl: Annotated[
        Duration | None,
        Setting(
            "stop the sandbox when it has run for this long; the time while it is paused does not count",
            default_text="no limit",
            unit=SECONDS,
            field="ttl_s",
            takes_effect=LIVE,
        ),
    ]
    idle_timeout: Annotated[
        Duration | None,
        Setting(
            "pause the sandbox when it was idle for this long: no command of 'exec' or 'cp' runs, no TCP connection is "
            "open, and the guest uses less than a tenth of a processor",
            default_text="no limit",
            unit=SECONDS,
            field="idle_timeout_s",
            takes_effect=LIVE,
        ),
    ]
    on_idle: Annotated[
        OnIdle | str | Unset,
        Setting("what happens to a sandbox that was idle for its timeout", OnIdle.PAUSE, takes_effect=LIVE),
    ]
    pausable: Annotated[
        bool | Unset,
        Setting(
            "let the autopilot pause it when it is idle and the host nearly full", False, takes_effect=LIVE
        ),
    ]


class Health(TypedDict, Generic[Unset], total=False):
    wait_port: Annotated[
        int | None,
        Setting(
            "the guest is healthy when a program in it listens on this TCP port; 'run -d' and 'start' wait for that",
            metavar="PORT",
        ),
    ]
    health_cmd: Annotated[
        str | None,
        Setting("shell command in the guest that succeeds if the guest is healthy", metavar="COMMAND"),
    ]
    health_interval: Annotated[
        Duration | Unset, Setting("time between two checks", 30, unit=SECONDS, field="health_interval_s")
    ]
    health_timeout: Annotated[
        Duration | Unset,
        Setting("time after which a check has failed", 30, unit=SECONDS, field="health_timeout_s"),
    ]
    health_retries: Annotated[
        int | Unset, Setting("failed checks in a row after which the guest is unhealthy", 3, metavar="N")
    ]


class ImageReference(TypedDict, total=False):
    image: Annotated[
        str | None,
        Setting(
            "image reference, OCI layout or archive to make the root from",
            default_text="the built-in root",
            metavar="REF",
        ),
    ]


class RootSource(TypedDict, total=False):
    rootfs: Annotated[
        str | Path | None,
        Setting("host directory to make the root from, instead of an image", field="root", metavar="DIR"),
    ]
    pull: Annotated[
        Literal["missing", "always", "never"],
        Setting("when to contact the image's registry", "missing"),
    ]


class Storage(TypedDict, Generic[Unset], total=False):
    disk: Annotated[
        Size | None,
        Setting(
            f"size of the writable disk, which is the root's with an image, and at {DISK_TARGET} without; it takes "
            "space on the host only as it is filled",
            default_text="8G with an image, else no disk",
            unit=MIB,
            field="disk_mib",
            modify_help="size of the writable disk, which can only grow",
        ),
    ]
    volumes: Annotated[
        Sequence[str | Volume] | Unset,
        Setting(
            "mount a host directory (written with a slash) or a named volume in the guest",
            (),
            option="--volume",
            short="-v",
            metavar="SOURCE:GUEST[:ro]",
        ),
    ]
    tmpfs: Annotated[
        Sequence[str | Tmpfs] | Unset,
        Setting("mount a directory in the guest that is kept in its memory", (), metavar="PATH[:SIZE]"),
    ]


class Engine(TypedDict, total=False):
    machine: Annotated[Machine | str, Setting("machine type", Machine.MICROVM)]
    accel: Annotated[
        Accel | str,
        Setting(
            "how guest code runs: kvm; tcg, software emulation; auto, the best that the host supports",
            Accel.AUTO,
        ),
    ]


class Target(TypedDict, total=False):
    memory_target: Annotated[
        Size | None,
        Setting(
            "move the balloon of the running sandbox to this target, and wait for the guest",
            unit=MIB,
            takes_effect=LIVE,
        ),
    ]


class CreateSettings(
    Labels[Never],
    HostName,
    GuestSize[Never],
    AutopilotShare[Never],
    Limits,
    Lifetime[Never],
    Health[Never],
    ImageReference,
    RootSource,
    Storage[Never],
    Network[Never],
    total=False,
):
    """What :meth:`ballonet.Sandbox.create` takes."""


class ModifySettings(
    Labels[None],
    HostName,
    GuestSize[None],
    Target,
    AutopilotShare[None],
    Limits,
    Lifetime[None],
    Health[None],
    BalloonRange,
    BalloonBehaviour[None],
    Storage[None],
    Network[None],
    total=False,
):
    """What :meth:`ballonet.Sandbox.modify` takes."""


class BuilderSettings(
    HostName,
    GuestSize[Never],
    Limits,
    Lifetime[Never],
    Health[Never],
    BalloonRange,
    ControlSocket,
    BalloonBehaviour[Never],
    ControlAccess,
    ImageReference,
    Storage[Never],
    Network[Never],
    Engine,
    total=False,
):
    """What :meth:`ballonet.SandboxBuilder.set` takes: the settings that are fields of a configuration."""


#: The options of ``run`` and ``create`` as their help groups them.
OPTION_GROUPS: Mapping[str | None, tuple[Any, ...]] = {
    None: (Identity, HostName, Labels, GuestSize, Limits, AutopilotShare, Lifetime),
    "health": (Health,),
    "balloon": (BalloonRange, ControlSocket, BalloonBehaviour, ControlAccess),
    "files": (ImageReference, RootSource, Storage),
    "network": (Network,),
    "engine": (Engine,),
}
#: Every setting by its name, in that order.
SETTINGS: Mapping[str, Setting] = {
    name: declared(name, annotation)
    for classes in (*OPTION_GROUPS.values(), (Target,))
    for of in classes
    for name, annotation in of.__annotations__.items()
}


def settings_in(*classes: Any) -> list[Setting]:
    """The settings that these classes declare or have from their bases."""
    return [SETTINGS[name] for of in classes for name in of.__annotations__]


#: The names of the settings that are fields of a configuration.
CONFIGURED = frozenset(BuilderSettings.__annotations__)
