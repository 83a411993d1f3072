"""The request that the settings of a sandbox make up, checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.memory import to_mib
from ballonet.base.suggest import hint_for
from ballonet.cluster.request import Affinity, Request, Strategy, check_request
from ballonet.images.reference import looks_like_id, parse_reference
from ballonet.sdk.creation import Balloon, configuration, with_defaults
from ballonet.settings.definitions import CreateSettings, settings_in
from ballonet.vmm.builder import default_floor_mib

#: What :meth:`ballonet.sandbox.Sandbox.create` takes in addition to settings, and what makes sense on another host.
_PASSED = ("balloon", "command", "env", "cwd", "user", "cold")
#: Settings that name files of the host on which the program runs.
_LOCAL = ("rootfs",)


def request_of(
    name: str,
    settings: Mapping[str, Any],
    *,
    expected: str | int | None = None,
    labels: Mapping[str, str] | None = None,
    group: str | None = None,
    affinity: Affinity | None = None,
    strategy: Strategy = "spread",
) -> Request:
    """
    :param expected: the memory that it will use on average.
    :raises ConfigError: a setting is unknown or impossible.
    """
    known = [setting.name for setting in settings_in(CreateSettings)]
    for word in settings:
        if word in _LOCAL:
            raise ConfigError(f"{word} names a directory of this host, and cannot be used on a cluster")
        if word not in known and word not in _PASSED:
            raise ConfigError(
                f"unknown setting {word!r}",
                hint=hint_for(word, [*known, *_PASSED], "docs/python.md lists all settings"),
            )
    given = {word: value for word, value in settings.items() if word in known}
    full = with_defaults(given)  # type: ignore[arg-type]  # the names were checked
    config = configuration(name, full, balloon=settings.get("balloon", Balloon()))
    ceiling = config.memory_mib
    initial = ceiling if config.balloon_initial_mib is None else config.balloon_initial_mib
    if not config.has_balloon:
        floor = ceiling
    elif config.balloon_min_mib is None:
        floor = default_floor_mib(ceiling, initial)
    else:
        floor = config.balloon_min_mib
    reserve = to_mib(full["reserve"], "reserve")
    image = full.get("image")
    if image is not None and not looks_like_id(image):
        image = str(parse_reference(image))
    return check_request(
        Request(
            name,
            ceiling,
            min(ceiling, max(floor, reserve)),
            initial,
            None if expected is None else to_mib(expected, "expected"),
            image=image,
            labels=dict(labels or {}),
            group=group,
            affinity=affinity,
            strategy=strategy,
        )
    )
