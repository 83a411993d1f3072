"""What a snapshot says of itself (``snapshot.json``), and whether this host can restore it. Pure.

The file may come from another host: everything in it is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ballonet.base.dataclass import asdict, dataclass, fields
from ballonet.base.errors import ConfigError, SnapshotError
from ballonet.base.memory import mib_to_bytes
from ballonet.base.text import printable
from ballonet.lifecycle.record import Command, Defaults
from ballonet.settings.config import SandboxConfig, check_name
from ballonet.settings.flags import parse_config

FORMAT = 1
#: How far the frequencies of two hosts' time stamp counters may differ: a measurement is that precise.
_TSC_TOLERANCE = 0.001


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What must be the same where a saved guest runs again."""

    engine: str
    engine_version: str
    accelerator: str
    machine: str
    #: The features of the processor that the guest sees; none with emulation, where the engine's version decides.
    cpu_flags: tuple[str, ...] = ()
    #: The frequency of the time stamp counter that the guest of an emulated microvm was told.
    tsc_khz: int | None = None

    def problem_on(self, here: Platform) -> str | None:
        """Why a guest saved on this platform cannot run on ``here``, with both values; ``None`` if it can."""
        mine = f"{self.engine} {self.engine_version}"
        theirs = f"{here.engine} {here.engine_version}"
        if mine != theirs:
            return f"it was saved with {mine}, and this host has {theirs}"
        for what, saved, found in (
            ("accelerator", self.accelerator, here.accelerator),
            ("machine type", self.machine, here.machine),
        ):
            if saved != found:
                return f"it was saved with the {what} {saved}, and here it would run with {found}"
        missing, added = (
            sorted(set(one).difference(other))
            for one, other in ((self.cpu_flags, here.cpu_flags), (here.cpu_flags, self.cpu_flags))
        )
        if missing or added:
            ways = [("lacks", missing), ("also has", added)]
            said = " and ".join(f"{verb} {_few(flags)}" for verb, flags in ways if flags)
            return f"it was saved on a processor with other features: that of this host {said}"
        if (
            self.tsc_khz is not None
            and here.tsc_khz is not None
            and abs(self.tsc_khz - here.tsc_khz) > self.tsc_khz * _TSC_TOLERANCE
        ):
            return (
                f"it was saved with a time stamp counter of {self.tsc_khz} kHz, and that of this host has "
                f"{here.tsc_khz} kHz: the guest's clock would be wrong"
            )
        return None


@dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    """A snapshot. Times are unix seconds."""

    created_at: float
    #: The sandbox that was saved.
    sandbox: str
    #: Its configuration, as :mod:`ballonet.settings.flags`; the root's path is that of the host on which it was saved.
    flags: tuple[str, ...]
    image: str | None = None
    image_id: str | None = None
    command: Command | None = None
    defaults: Defaults | None = None
    #: Its own command was running, and goes on in each sandbox that is restored.
    command_runs: bool = False
    weight: int = 100
    reserve_mib: int = 0
    platform: Platform
    #: The key in the header of the saved state.
    state_key: str
    #: The version of ballonet that saved it.
    ballonet: str
    #: What the guest's RAM took of the host at that moment (bytes).
    resident_bytes: int | None = None
    #: How long the sandbox was stopped (seconds).
    stopped_s: float

    @property
    def config(self) -> SandboxConfig:
        """The configuration of the sandbox that was saved."""
        return parse_config(self.flags)

    @property
    def disk_bytes(self) -> int | None:
        """The size of the disk as the guest sees it; ``None`` without a disk."""
        disk_mib = self.config.disk_mib
        return None if disk_mib is None else mib_to_bytes(disk_mib)

    def encode(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes) -> SnapshotFacts:
        """:raises SnapshotError: it is not what :meth:`encode` returns, or is of a newer version."""
        try:
            values = json.loads(content)
            format = values.pop("format")
            if format != FORMAT:
                raise SnapshotError(
                    f"the snapshot has format {printable(str(format))[:20]}; this ballonet supports format {FORMAT}",
                    hint="use the version of ballonet that made it",
                )
            facts = cls(**_checked(values))
            config = facts.config
            check_name(facts.sandbox)
        except SnapshotError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
            raise SnapshotError(f"the description of the snapshot is damaged: {_short(error)}") from error
        if config.volumes:
            raise SnapshotError("the description of the snapshot is damaged: it has volumes")
        return facts


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values of all fields, with the types that they are declared with.

    :raises ValueError: one has another type. :raises KeyError: one is missing, or there are others.
    """
    names = {field.name for field in fields(SnapshotFacts)}
    if values.keys() != names:
        raise KeyError(", ".join(sorted(names.symmetric_difference(values))))
    return {name: _FIELDS[name](values[name]) for name in names}


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        raise ValueError("a printable text was expected")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of texts was expected")
    return tuple(map(_any_text, value))


def _any_text(value: Any) -> str:
    """A word of a command or of a configuration, which may be long."""
    if not isinstance(value, str):
        raise ValueError("a text was expected")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        raise ValueError("a number was expected")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 60:
        raise ValueError("a whole number was expected")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false was expected")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an object was expected")
    return value


def _env(value: Any) -> dict[str, str]:
    return {name: _any_text(of) for name, of in _object(value).items()}


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _record(kind: Any, **readers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A reader of an object with exactly these members."""

    def read(value: Any) -> Any:
        if _object(value).keys() != readers.keys():
            raise KeyError(", ".join(sorted(readers.keys() ^ value.keys())))
        return kind(**{name: reader(value[name]) for name, reader in readers.items()})

    return read


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "created_at": _number,
    "sandbox": _text,
    "flags": _texts,
    "image": _optional(_text),
    "image_id": _optional(_text),
    "command": _optional(
        _record(
            Command,
            argv=_texts,
            env=_env,
            cwd=_optional(_any_text),
            user=_optional(_text),
            stop_signal=_optional(_whole),
        )
    ),
    "defaults": _optional(_record(Defaults, env=_env, cwd=_optional(_any_text), user=_optional(_text))),
    "command_runs": _flag,
    "weight": _whole,
    "reserve_mib": _whole,
    "platform": _record(
        Platform,
        engine=_text,
        engine_version=_text,
        accelerator=_text,
        machine=_text,
        cpu_flags=_texts,
        tsc_khz=_optional(_whole),
    ),
    "state_key": _text,
    "ballonet": _text,
    "resident_bytes": _optional(_whole),
    "stopped_s": _number,
}


def _few(flags: list[str]) -> str:
    shown = ", ".join(printable(flag)[:20] for flag in flags[:5])
    return shown if len(flags) <= 5 else f"{shown} and {len(flags) - 5} more"


def _short(error: Exception) -> str:
    return printable(str(error))[:200]
