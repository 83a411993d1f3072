"""The flags of the hidden command ``ballonet sandbox``, one for each field of a :class:`VmConfig`. Pure.

A flag is rendered only when its value differs from the default, so that a configuration without a feature renders
exactly as it did before the feature existed. Registries keep these flags: a name or a form must not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

from ballonet.base.dataclass import dataclass, fields, replace
from ballonet.base.errors import ConfigError
from ballonet.settings.config import SandboxConfig, check_name
from ballonet.settings.field_types import FieldType, field_types
from ballonet.vmm.attach import Net
from ballonet.vmm.config import VmConfig

#: Flags that are not named as their fields are.
_NAMES = {"volumes": "--volume", "ports": "--publish"}
#: The first flag.
_NAME = "--name"
#: Always rendered: a sandbox's process shows in ``ps`` with its name and size.
_ALWAYS = frozenset({"name", "cpus", "memory_mib"})


@dataclass(frozen=True)
class Flag:
    """One flag and the configuration field it carries; ``read`` turns its text into the field's value, or into one
    item of it if the flag is repeated for each."""

    name: str
    field: str
    default: Any
    read: Callable[[str], Any]
    repeated: bool


@cache
def flags() -> tuple[Flag, ...]:
    """All flags, in the order in which they are rendered: that of the fields."""
    types = field_types(SandboxConfig)
    return tuple(
        Flag(
            _NAMES.get(field.name, f"--{field.name.replace('_', '-')}"),
            field.name,
            field.default,
            *_form(types[field.name]),
        )
        for field in fields(VmConfig)
    )


def _form(of: FieldType) -> tuple[Callable[[str], Any], bool]:
    """How a flag is read, and whether there is one for each item. Numbers of a list stand in one flag."""
    kind, _, many = of
    if many:
        return (_numbers, False) if kind is int else (kind.parse, True)
    return (_on_off if kind is bool else kind), False


def _on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("must be on or off")
    return text == "on"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _render(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def render_flags(config: SandboxConfig) -> list[str]:
    """The flags that carry ``config`` to the sandbox's process."""
    rendered: list[str] = []
    for flag in flags():
        value = getattr(config, flag.field)
        if flag.field in _ALWAYS or value != flag.default:
            for item in value if flag.repeated else (value,):
                rendered += [flag.name, _render(item)]
    return rendered


#: The fields that limit how long a sandbox runs, which may change while it runs.
LIFETIME_FIELDS = ("ttl_s", "idle_timeout_s", "on_idle", "pausable")
#: The fields that limit what it takes of the host's processors and disks, which may change while it runs.
RESOURCE_FIELDS = ("cpu_quota_percent", "io_rate_kib", "io_ops")
#: The fields of what a guest may reach, and how much of it, which may change while it runs.
NETWORK_RULES = ("net_allow", "net_deny", "net_rate_kib", "net_connections")


def with_rules_and_limits(argv: Sequence[str], of: VmConfig) -> tuple[str, ...]:
    """The flags ``argv`` with what may change while a sandbox runs, as in ``of``.

    :raises ConfigError: as :func:`parse_config`.
    """
    config = parse_config(argv)
    rules = NETWORK_RULES if config.net is of.net is Net.USER else ()
    return _with_fields(config, (*LIFETIME_FIELDS, *RESOURCE_FIELDS, *rules), of)


def with_limits(argv: Sequence[str], of: VmConfig) -> tuple[str, ...]:
    """The flags ``argv`` with the limits of ``of``: of its lifetime, and of what it takes of the host.

    :raises ConfigError: as :func:`parse_config`.
    """
    return _with_fields(parse_config(argv), (*LIFETIME_FIELDS, *RESOURCE_FIELDS), of)


def _with_fields(config: SandboxConfig, names: Sequence[str], of: VmConfig) -> tuple[str, ...]:
    return tuple(render_flags(replace(config, **{name: getattr(of, name) for name in names})))


def parse_flags(argv: Sequence[str]) -> VmConfig:
    """The configuration of a sandbox's process.

    :raises ConfigError: an unknown flag, one without its value, or a value that cannot be read.
    """
    # A SandboxConfig checks its values: the flags may have been typed by hand.
    checked = parse_config(argv)
    return VmConfig(**{field.name: getattr(checked, field.name) for field in fields(VmConfig)})


def parse_config(argv: Sequence[str]) -> SandboxConfig:
    """The configuration that :func:`render_flags` was given; what has no flag is left at its default.

    :raises ConfigError: as :func:`parse_flags` does.
    """
    return _parse(tuple(argv))


@lru_cache(maxsize=4096)
def _parse(argv: tuple[str, ...]) -> SandboxConfig:
    """The configuration, which is kept: a look at the sandboxes needs that of each several times."""
    again = any(word.partition("=")[0] == _NAME for word in argv[2:])
    if argv[:1] == (_NAME,) and len(argv) > 1 and not again:
        check_name(argv[1], "name")
        return _parse_unnamed(argv[2:]).named(argv[1])
    return SandboxConfig(**_parse_values(argv))


@lru_cache(maxsize=256)
def _parse_unnamed(argv: tuple[str, ...]) -> SandboxConfig:
    """A configuration without its name: most sandboxes differ only in that, and its checks take long."""
    return SandboxConfig(**_parse_values((_NAME, "unnamed", *argv)))


def _parse_values(argv: Sequence[str]) -> dict[str, Any]:
    known = {flag.name: flag for flag in flags()}
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
