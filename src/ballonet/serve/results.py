"""What operations return, for the OpenAPI document. The documents themselves are made by the library."""

from __future__ import annotations

from typing import Any

import msgspec

from ballonet.serve.problems import Problem


class Sandbox(msgspec.Struct):
    """A sandbox, as in ``ballonet ls --json``. Sizes are MiB; null is unknown."""

    name: str
    state: str
    image: str | None
    command: list[str] | None
    labels: dict[str, str]
    health: str | None
    pid: int | None
    ports: list[str]
    ceiling_mib: int | None
    target_mib: int | None
    actual_mib: int | None
    balloon_state: str | None
    resident_mib: int | None
    guest_ram_mib: int | None
    engine_mib: int | None
    saved_mib: int | None
    weight: int
    reserve_mib: int
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    end_reason: str | None
    end_detail: str | None
    exit_code: int | None


class SandboxDetails(Sandbox):
    """A sandbox with its configuration, as in ``ballonet inspect``."""

    desired: dict[str, Any]
    running: dict[str, Any] | None
    pending: dict[str, Any]
    env: dict[str, str]
    workdir: str | None
    user: str | None
    auto_remove: bool
    state_dir: str
    control_socket: str | None
    engine_pid: int | None
    confinement: dict[str, Any] | None
    boot_s: float | None
    memory: dict[str, Any] | None


class Host(msgspec.Struct):
    """A host of a cluster."""

    name: str
    answers: bool
    #: Why it does not answer.
    problem: str | None
    #: The state of each of its sandboxes, by name.
    sandboxes: dict[str, str]
    #: What it offers to new sandboxes, as in ``ballonet cluster status --json``.
    offer: dict[str, Any] | None


class Change(msgspec.Struct):
    """The change of one setting."""

    setting: str
    old: Any
    new: Any
    when: str
    state: str
    detail: str | None


class End(msgspec.Struct):
    """Whether and how a sandbox has ended."""

    ended: bool
    state: str
    reason: str | None
    detail: str | None
    exit_code: int | None


class ExecResult(msgspec.Struct):
    """A finished command. The outputs are base64 if ``encoding`` says so, because one of them is not UTF-8."""

    returncode: int | None
    timed_out: bool
    encoding: str
    stdout: str
    stderr: str


class Exec(msgspec.Struct):
    """A command that was started through the server."""

    id: str
    sandbox: str
    argv: list[str]
    tty: bool
    pid: int
    started_at: str | None
    ended_at: str | None
    returncode: int | None
    timed_out: bool
    error: Problem | None


class File(msgspec.Struct):
    """A file of a guest."""

    name: str
    path: str
    kind: str
    size: int
    mode: int
    mtime: int


class Image(msgspec.Struct):
    """An image, as in ``ballonet image inspect``."""

    id: str
    names: list[str]
    root: str
    size_bytes: int
    created_at: str | None
    architecture: str
    manifest: str | None
    config: dict[str, Any]
    used_by: list[str]


class Volume(msgspec.Struct):
    """A named volume, and the sandboxes that use it."""

    name: str
    path: str
    users: list[str]


class Snapshot(msgspec.Struct, omit_defaults=True):
    """A snapshot, as in ``ballonet snapshot inspect``. One that cannot be read has only the first four."""

    name: str
    path: str
    size_bytes: int
    problem: str | None
    sandbox: str | None = None
    created_at: str | None = None
    image: str | None = None
    image_id: str | None = None
    command: list[str] | None = None
    command_runs: bool | None = None
    resident_bytes: int | None = None
    disk_bytes: int | None = None
    stopped_s: float | None = None
    platform: dict[str, Any] | None = None
    ballonet: str | None = None
    config: dict[str, Any] | None = None


class Removed(msgspec.Struct):
    """What was removed."""

    removed: list[str]


class HostSamples(msgspec.Struct):
    """The memory of the host and of all sandboxes now. Sizes are bytes; null is unknown."""

    host: dict[str, Any]
    sandboxes: list[dict[str, Any]]


class Autopilot(msgspec.Struct):
    """The autopilot, as in ``ballonet pilot status --json``. Times are unix seconds."""

    running: bool
    policy: str | None
    paused_since: float | None
    last: dict[str, Any] | None


class Version(msgspec.Struct):
    """The version of ballonet, and of the API."""

    ballonet: str
    api: str


class Health(msgspec.Struct):
    """The server answers."""

    status: str
