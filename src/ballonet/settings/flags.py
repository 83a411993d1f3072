"""The flags of the hidden command ``ballonet sandbox``: rendered and parsed here, from one table. Pure.

A flag is rendered only when its value differs from the default, so that a configuration without a feature
renders exactly as it did before the feature existed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume
from ballonet.vmm.config import Accel, Machine, VmConfig


@dataclass(frozen=True)
class Flag:
    """One flag and the configuration field it carries; ``read`` turns its text into the field's value, or into one
    item of it if the flag is repeated for each."""

    name: str
    field: str
    read: Callable[[str], Any]
    repeated: bool = False


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("must be on or off")
    return text == "on"


def _ids(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _render(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


FLAGS = (
    Flag("--name", "name", str),
    Flag("--cpus", "cpus", int),
    Flag("--memory-mib", "memory_mib", int),
    Flag("--balloon-initial-mib", "balloon_initial_mib", int),
    Flag("--balloon-min-mib", "balloon_min_mib", int),
    Flag("--balloon-control-socket", "balloon_control_socket", Path),
    Flag("--machine", "machine", Machine),
    Flag("--accel", "accel", Accel),
    Flag("--deflate-on-oom", "deflate_on_oom", _on_off),
    Flag("--free-page-reporting", "free_page_reporting", _on_off),
    Flag("--guard-mib", "guard_mib", int),
    Flag("--pressure-relief", "pressure_relief", _on_off),
    Flag("--hard-cap", "hard_cap", _on_off),
    Flag("--balloon-allow-users", "balloon_allow_users", _ids),
    Flag("--balloon-allow-groups", "balloon_allow_groups", _ids),
    Flag("--balloon-observe-users", "balloon_observe_users", _ids),
    Flag("--balloon-observe-groups", "balloon_observe_groups", _ids),
    Flag("--root", "root", Path),
    Flag("--disk-mib", "disk_mib", int),
    Flag("--volume", "volumes", Volume.parse, repeated=True),
    Flag("--tmpfs", "tmpfs", Tmpfs.parse, repeated=True),
    Flag("--net", "net", Net),
    Flag("--publish", "ports", Port.parse, repeated=True),
)

#: Always rendered: a sandbox's process shows in ``ps`` with its name and size.
_ALWAYS = frozenset({"name", "cpus", "memory_mib"})


def render_flags(config: SandboxConfig) -> list[str]:
    """The flags that carry ``config`` to the sandbox's process."""
    defaults = {field.name: field.default for field in fields(SandboxConfig)}
    rendered: list[str] = []
    for flag in FLAGS:
        value = getattr(config, flag.field)
        if flag.field in _ALWAYS or value != defaults[flag.field]:
            for item in value if flag.repeated else (value,):
                rendered += [flag.name, _render(item)]
    return rendered


def parse_flags(argv: Sequence[str]) -> VmConfig:
    """What the sandbox's process makes of its flags.

    :raises ConfigError: an unknown flag, one without its value, or a value that cannot be read.
    """
    # The same rules hold on this side: the flags may have been typed by hand.
    parse_config(argv)
    return VmConfig(**_parse_values(argv))


def parse_config(argv: Sequence[str]) -> SandboxConfig:
    """The configuration that :func:`render_flags` was given; what has no flag is left at its default.

    :raises ConfigError: as :func:`parse_flags` does.
    """
    return SandboxConfig(**_parse_values(argv))


def _parse_values(argv: Sequence[str]) -> dict[str, Any]:
    known = {flag.name: flag for flag in FLAGS}
    values: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        name, glued, text = word.partition("=")
        flag = known.get(name)
        if flag is None:
            raise ConfigError(f"ballonet sandbox: unknown flag {word!r}")
        if not glued:
            try:
                text = next(words)
            except StopIteration:
                raise ConfigError(f"ballonet sandbox: {name} needs a value") from None
        try:
            value = flag.read(text)
            values[flag.field] = (*values.get(flag.field, ()), value) if flag.repeated else value
        except ValueError as error:
            raise ConfigError(f"ballonet sandbox: {name} {text!r}: {error}") from error
    if "name" not in values:
        raise ConfigError("ballonet sandbox: --name is missing")
    return values
