"""What operations take: bodies and queries. The structs check types; the library checks values.

Bodies with settings of sandboxes are made from :mod:`ballonet.settings.definitions`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ballonet.base.dataclass import fields
from ballonet.sdk.creation import Balloon
from ballonet.settings.definitions import SETTINGS, CreateSettings, ModifySettings, settings_in
from ballonet.settings.setting import Setting

SizeOrUnset = int | str | UnsetType
Argv = Annotated[list[str], Meta(min_length=1, description="the program and its arguments")]
GuestPath = Annotated[str, Meta(min_length=1, description="absolute path in the guest")]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base class of bodies: a misspelled name is an error."""


class Query(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Base class of queries."""


def _type_of(setting: Setting) -> Any:
    kinds: dict[str, Any] = {
        "size": int | str,
        "duration": int | float | str,
        "number": int,
        "count": int,
        "quota": int | float | str,
        "switch": bool,
        "list": list[str],
        "map": dict[str, str],
    }
    of = Literal[setting.choices] if setting.kind == "choice" else kinds.get(setting.kind, str)
    unit = " (MiB, or text such as 1.5G)" if setting.kind == "size" else ""
    unit = " (seconds, or text such as 10m)" if setting.kind == "duration" else unit
    default = setting.shown_default
    help = setting.help + unit + ("" if default is None else f"; default: {default}")
    return Annotated[of, Meta(description=help)] | UnsetType


def _settings_of(*classes: Any) -> list[tuple[str, Any, Any]]:
    names = [setting.name for setting in settings_in(*classes)]
    return [(name, _type_of(SETTINGS[name]), UNSET) for name in dict.fromkeys(names)]


def _balloon_fields() -> list[tuple[str, Any, Any]]:
    found = []
    for field in fields(Balloon):
        setting = SETTINGS.get(field.name) or SETTINGS[f"balloon_{field.name}"]
        found.append((field.name, _type_of(setting), UNSET))
    return found


BalloonSettings = msgspec.defstruct(
    "BalloonSettings",
    _balloon_fields(),
    bases=(Body,),
    module=__name__,
    namespace={"__doc__": "The settings of a sandbox's balloon."},
)

CreateBody = msgspec.defstruct(
    "CreateSandbox",
    [
        ("name", Annotated[str, Meta(description="default: a random one")] | UnsetType, UNSET),
        (
            "command",
            Annotated[
                list[str],
                Meta(
                    description="the sandbox's own command, with which it ends; without it the sandbox idles"
                ),
            ]
            | UnsetType,
            UNSET,
        ),
        (
            "env",
            Annotated[dict[str, str], Meta(description="variables of all its commands")] | UnsetType,
            UNSET,
        ),
        ("cwd", Annotated[str, Meta(description="working directory of its commands")] | UnsetType, UNSET),
        ("user", Annotated[str, Meta(description="user of its commands")] | UnsetType, UNSET),
        ("balloon", BalloonSettings | bool, True),
        ("start", Annotated[bool, Meta(description="start it, and wait until its guest answers")], True),
        ("cold", Annotated[bool, Meta(description="boot it, and use no start template")], False),
        ("admission", Annotated[bool, Meta(description="start it only if the host has room for it")], True),
        *_settings_of(CreateSettings),
    ],
    bases=(Body,),
    module=__name__,
    namespace={"__doc__": "A new sandbox."},
)


class Placement(Body):
    """Where a sandbox is placed, and what happens if its host is lost. See docs/cluster.md."""

    expected: int | str | None = None
    #: Labels that the host must have.
    labels: dict[str, str] = {}
    group: str | None = None
    affinity: Literal["near", "apart"] | None = None
    strategy: Literal["spread", "pack"] = "spread"
    restart: Literal["no", "elsewhere"] = "no"
    save_every: int | str | None = None


ClusterCreateBody = msgspec.defstruct(
    "CreateSandboxOnCluster",
    [("placement", Placement, msgspec.field(default_factory=Placement))],
    bases=(CreateBody,),
    module=__name__,
    namespace={"__doc__": "A new sandbox on the host that fits best."},
)

ModifyBody = msgspec.defstruct(
    "ModifySandbox",
    _settings_of(ModifySettings),
    bases=(Body,),
    module=__name__,
    namespace={"__doc__": "Changes of settings; at least one."},
)


def given(body: msgspec.Struct, *without: str) -> dict[str, Any]:
    """The fields of a body that were given, or have a default."""
    return {
        name: value
        for name in body.__struct_fields__
        if name not in without and (value := getattr(body, name)) is not UNSET
    }


class ListQuery(Query):
    state: (
        Annotated[
            Literal["created", "starting", "running", "stopped", "paused", "failed"],
            Meta(description="only sandboxes in this state"),
        ]
        | UnsetType
    ) = UNSET
    name: Annotated[str, Meta(description="only names that match this pattern (*, ?, [])")] | UnsetType = (
        UNSET
    )
    image: (
        Annotated[str, Meta(description="only sandboxes whose image reference matches this pattern")]
        | UnsetType
    ) = UNSET
    label: Annotated[
        list[str],
        Meta(description="only sandboxes with this label, KEY or KEY=VALUE; all of them if it is repeated"),
    ] = []


class StartBody(Body):
    """How to start a sandbox."""

    cold: bool = False
    admission: bool = True


class StopBody(Body):
    """How to stop a sandbox."""

    #: Seconds after which it is killed.
    timeout_s: Seconds = 10.0


class PauseBody(Body):
    """How to pause a sandbox."""

    #: Even if commands run in it, which that ends.
    force: bool = False


class ResumeBody(Body):
    """How to resume a sandbox."""

    admission: bool = True


class RemoveQuery(Query):
    force: Annotated[bool, Meta(description="remove it even if it is running")] = False


class ModifyQuery(Query):
    dry_run: Annotated[bool, Meta(description="only say what would be changed, and when")] = False


class WaitQuery(Query):
    timeout_s: Annotated[float, Meta(ge=0, le=86400, description="how long to wait at most")] = 60.0


class HistoryQuery(Query):
    since: Annotated[float, Meta(description="only samples since then (unix seconds)")] | UnsetType = UNSET


class DecisionsQuery(Query):
    last: Annotated[int, Meta(ge=1, le=1000, description="how many decisions at most")] = 10


class LogsQuery(Query):
    tail: Annotated[int, Meta(ge=0, description="only the last lines")] | UnsetType = UNSET
    since: (
        Annotated[float, Meta(description="only what was written since then (unix seconds)")] | UnsetType
    ) = UNSET
    follow: Annotated[bool, Meta(description="wait for more, until the sandbox has ended")] = False


class TargetBody(Body):
    """A target for a balloon."""

    target: int | str
    strict: bool = False
    wait: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    force: bool = False


class LimitBody(Body):
    """An upper limit for targets; null: the ceiling."""

    limit: int | str | None


class ExecBody(Body):
    """A command to run to its end."""

    argv: Argv
    env: dict[str, str] | None = None
    cwd: str | None = None
    user: str | None = None
    stdin: str | None = None
    #: ``base64``: for input that is not text.
    stdin_encoding: Literal["utf-8", "base64"] = "utf-8"
    #: Seconds after which it is killed, with everything that it started.
    timeout_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class StartExecBody(Body):
    """A command to start; its output is read while it runs."""

    argv: Argv
    env: dict[str, str] | None = None
    cwd: str | None = None
    user: str | None = None
    stdin: bool = False
    tty: bool = False
    rows: Annotated[int, Meta(ge=0, le=0xFFFF)] = 24
    cols: Annotated[int, Meta(ge=0, le=0xFFFF)] = 80
    timeout_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    #: Seconds that it may run while no client reads its output.
    unattended_s: Annotated[float, Meta(ge=1, le=86400)] = 60.0


class OutputQuery(Query):
    after: Annotated[int, Meta(ge=0, description="continue after the piece with this number")] | UnsetType = (
        UNSET
    )


class StdinQuery(Query):
    end: Annotated[bool, Meta(description="close standard input afterwards")] = False


class SignalBody(Body):
    """A signal, by name (``TERM``, ``SIGTERM``) or number."""

    signal: int | str


class ResizeBody(Body):
    """The size of a terminal."""

    rows: Annotated[int, Meta(ge=0, le=0xFFFF)]
    cols: Annotated[int, Meta(ge=0, le=0xFFFF)]


class PathQuery(Query):
    path: GuestPath


class WriteQuery(Query):
    path: GuestPath
    mode: Annotated[str, Meta(pattern="^[0-7]{1,4}$", description="permissions, octal")] = "644"
    parents: Annotated[bool, Meta(description="create the directories above it first")] = False


class DeleteFileQuery(Query):
    path: GuestPath
    recursive: Annotated[bool, Meta(description="also a directory, with everything in it")] = False


class MkdirBody(Body):
    """A directory to create."""

    path: str
    parents: bool = False


class ImageQuery(Query):
    reference: Annotated[str, Meta(description="name or ID of an image")]


class PullBody(Body):
    """An image to download."""

    reference: str
    pull: Literal["missing", "always"] = "always"


class TagBody(Body):
    """A further name for an image."""

    reference: str
    name: str


class NameBody(Body):
    """A name."""

    name: str


class SnapshotBody(Body):
    """A snapshot to make; its name is by default the sandbox's and the time."""

    name: str | None = None


class ForkBody(Body):
    """Copies to make of a sandbox: one for each name."""

    names: Annotated[list[str], Meta(min_length=1, max_length=64)]
    ports: list[str] = []
    admission: bool = True


class RestoreBody(Body):
    """A sandbox to make from a snapshot."""

    name: str
    ports: list[str] = []
    weight: int | None = None
    reserve: int | str | None = None
    target: int | str | None = None
    admission: bool = True


class EventsQuery(Query):
    after: (
        Annotated[
            str, Meta(description="continue after the event with this ID; 0: from the oldest that is kept")
        ]
        | UnsetType
    ) = UNSET
    follow: Annotated[bool, Meta(description="wait for further events; false: only what is recorded")] = True
