"""Filters that select sandboxes by their names, states, labels and images. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError
from ballonet.base.suggest import hint_for
from ballonet.lifecycle.record import Record, State
from ballonet.settings.labels import check_key

KEYS = ("name", "state", "label", "image")


@dataclass(frozen=True)
class Filters:
    """A sandbox is selected if it has one of the names, one of the states, one of the images and all of the labels. An
    empty tuple selects all."""

    #: Shell patterns.
    names: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    #: Keys and values; ``None``: any value.
    labels: tuple[tuple[str, str | None], ...] = ()
    #: Shell patterns for the image reference as it was given.
    images: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names or self.states or self.labels or self.images)

    def match(self, record: Record) -> bool:
        """Whether ``record`` is selected."""
        return (
            _any(self.names, record.name)
            and (not self.states or record.state in self.states)
            and _any(self.images, record.image)
            and all(
                key in record.labels and value in (None, record.labels[key]) for key, value in self.labels
            )
        )


def _any(patterns: tuple[str, ...], text: str | None) -> bool:
    if not patterns:
        return True
    from fnmatch import fnmatchcase  # rarely needed

    return text is not None and any(fnmatchcase(text, pattern) for pattern in patterns)


def parse_filters(words: Iterable[str]) -> Filters:
    """The filters in ``KEY=VALUE`` each.

    :raises ConfigError: a key or a value is not valid.
    """
    found: dict[str, list[Any]] = {key: [] for key in KEYS}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in found:
            raise ConfigError(
                f"filter {word[:80]!r}: there is no filter {key[:40]!r}",
                hint=hint_for(key, KEYS, f"choose one of {', '.join(f'{each}=' for each in KEYS)}"),
            )
        if not equals or not value:
            raise ConfigError(f"filter {word[:80]!r} has no value", hint=f"write {key}=VALUE")
        if key == "state":
            value = _state(value)
        found[key].append(_label(value) if key == "label" else value)
    return Filters(*(tuple(found[key]) for key in KEYS))


def filters_of(
    *, name: str | None, state: str | None, labels: Mapping[str, str | None] | None, image: str | None
) -> Filters:
    """The filters in the arguments of :meth:`ballonet.Sandbox.list`.

    :raises ConfigError: one is not valid.
    """
    pairs = [("name", name), ("state", state), ("image", image)]
    words = [f"{key}={value}" for key, value in pairs if value is not None]
    words += [
        f"label={key}" if value is None else f"label={key}={value}" for key, value in (labels or {}).items()
    ]
    return parse_filters(words)


def _state(value: str) -> State:
    known = [state.value for state in State]
    if value not in known:
        raise ConfigError(
            f"filter 'state={value[:40]}': there is no such state",
            hint=hint_for(value, known, f"choose one of {', '.join(known)}"),
        )
    return State(value)


def _label(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    check_key(key)
    return key, value if equals else None
