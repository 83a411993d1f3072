"""The settings of a sandbox's balloon: a part of :mod:`ballonet.settings.definitions`."""

# Without 'from __future__ import annotations': the annotations are read when the module is loaded.
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Generic, TypedDict, TypeVar

from ballonet.base.memory import Size
from ballonet.settings.setting import GROUP_ID, MIB, NEXT_START, USER_ID, Setting

Unset = TypeVar("Unset")


class BalloonRange(TypedDict, total=False):
    balloon_initial: Annotated[
        Size | None,
        Setting(
            "guest memory at boot",
            default_text="the ceiling",
            unit=MIB,
            field="balloon_initial_mib",
            takes_effect=NEXT_START,
        ),
    ]
    balloon_min: Annotated[
        Size | None,
        Setting(
            "lowest target that the balloon accepts, the floor",
            default_text="128M or a quarter of the ceiling, whichever is larger",
            unit=MIB,
            field="balloon_min_mib",
        ),
    ]


class ControlSocket(TypedDict, total=False):
    balloon_control_socket: Annotated[
        str | Path,
        Setting(
            "path of the control socket, on which programs read and set the target at run time",
            metavar="PATH",
        ),
    ]


class BalloonBehaviour(TypedDict, Generic[Unset], total=False):
    deflate_on_oom: Annotated[
        bool | Unset,
        Setting(
            "let the guest take memory back from the balloon before its kernel kills a process",
            True,
            off_help="do not let the guest take memory back from the balloon before its kernel kills a process",
        ),
    ]
    free_page_reporting: Annotated[
        bool | Unset,
        Setting(
            "let the guest report freed pages, so that the host gets them back",
            True,
            off_help="do not let the guest report freed pages",
        ),
    ]
    guard: Annotated[
        Size | None,
        Setting(
            "available memory that a shrink leaves to the guest",
            default_text="64M or a tenth of the ceiling, whichever is larger",
            unit=MIB,
            field="guard_mib",
        ),
    ]
    pressure_relief: Annotated[
        bool | Unset,
        Setting(
            "give memory back to a guest that stalls for lack of it",
            True,
            off_help="do not give memory back to a guest that stalls for lack of it",
        ),
    ]
    hard_cap: Annotated[
        bool | Unset,
        Setting(
            "enforce the target on the host with a cgroup, whatever the guest does",
            False,
            off_help="do not enforce the target on the host",
        ),
    ]


class ControlAccess(TypedDict, total=False):
    allow_users: Annotated[
        Sequence[int],
        Setting(
            "let this user read and set the target through the control socket",
            (),
            unit=USER_ID,
            field="balloon_allow_users",
            option="--balloon-allow-user",
            metavar="NAME",
        ),
    ]
    allow_groups: Annotated[
        Sequence[int],
        Setting(
            "let members of this group read and set the target through the control socket",
            (),
            unit=GROUP_ID,
            field="balloon_allow_groups",
            option="--balloon-allow-group",
            metavar="NAME",
        ),
    ]
    observe_users: Annotated[
        Sequence[int],
        Setting(
            "let this user read the target through the control socket, but not set it",
            (),
            unit=USER_ID,
            field="balloon_observe_users",
            option="--balloon-observe-user",
            metavar="NAME",
        ),
    ]
    observe_groups: Annotated[
        Sequence[int],
        Setting(
            "let members of this group read the target through the control socket, but not set it",
            (),
            unit=GROUP_ID,
            field="balloon_observe_groups",
            option="--balloon-observe-group",
            metavar="NAME",
        ),
    ]
