"""Images and commands brought together: the root that a sandbox has, and what its commands get from the image.

As in Docker: a command line replaces the image's command but not its entry point; variables are added to the
image's; user and working directory are the image's unless they are said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet import lifecycle
from ballonet.config import SandboxConfig
from ballonet.errors import HostError
from ballonet.machine.disk import DEFAULT_DISK_MIB
from ballonet.paths import replace_file
from ballonet.registry.record import Command

if TYPE_CHECKING:
    from ballonet.images.store import Image

#: In a sandbox's state directory: what its commands get unless they say otherwise.
DEFAULTS_FILE = "defaults.json"


@dataclass(frozen=True)
class Settings:
    """What a command runs with; :attr:`user` as :func:`ballonet.lifecycle.parse_user` reads it."""

    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A configuration whose root is there, and the image that it comes from (``None``: the built-in root)."""

    config: SandboxConfig
    image: Image | None = None

    def settings(self, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
        """What a command runs with that says so much.

        :raises ConfigError: the image has no such user.
        """
        return _settings(self.image, env, cwd, user)

    def command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        user: str | None,
        entrypoint: str | None = None,
    ) -> Command | None:
        """The command of a sandbox: ``argv``, or the image's own; ``None`` if neither says anything.

        :param entrypoint: instead of the image's; the image's own command is then not used either. Empty: none.
        :raises ConfigError: the image has no such user.
        """
        words = list(argv)
        if entrypoint is not None:
            words = [entrypoint] * bool(entrypoint) + words
        elif self.image is not None:
            words = [*self.image.config.entrypoint, *(words or self.image.config.cmd)]
        if not words:
            return None
        settings = self.settings(env, cwd, user)
        return Command(tuple(words), settings.env, settings.cwd, settings.user)


def prepare(
    config: SandboxConfig,
    *,
    pull: str = "missing",
    rootfs: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> Prepared:
    """Bring in what ``config`` asks for as its root. One without an image comes back as it is.

    :param pull: ``missing``, ``always`` or ``never``.
    :param rootfs: a directory of the host to make the root from, instead of an image.
    :param report: told in one line what takes time.
    :raises BallonetError: the image cannot be had.
    """
    if config.image is None and rootfs is None:
        return Prepared(config)
    from ballonet.images.store import ImageStore

    store = ImageStore.open()
    if rootfs is not None:
        image = store.from_rootfs(rootfs)
    else:
        assert config.image is not None
        image = store.resolve(config.image, pull=pull)
    disk_mib = DEFAULT_DISK_MIB if config.disk_mib is None else config.disk_mib
    return Prepared(replace(config, root=image.root, disk_mib=disk_mib), image)


def write_defaults(directory: Path, image: Image | None) -> None:
    """Note in a sandbox's state directory what its commands get.

    :raises HostError: it cannot be written.
    """
    if image is not None:
        settings = _settings(image, {}, None, None)
        replace_file(directory / DEFAULTS_FILE, json.dumps(asdict(settings)).encode())


def settings_in(
    name: str, image_id: str | None, env: Mapping[str, str], cwd: str | None, user: str | None
) -> Settings:
    """What a further command in the sandbox ``name`` runs with that says so much.

    :raises ConfigError: the image has no such user.
    """
    if image_id is None:
        return _settings(None, env, cwd, user)
    if user is not None:
        from ballonet.images.store import ImageStore

        return _settings(ImageStore.open().get(image_id), env, cwd, user)
    path = lifecycle.state_dir_of(name) / DEFAULTS_FILE
    try:
        defaults = Settings(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise HostError(
            f"what commands of sandbox {name!r} get cannot be read from {path}: {error}"
        ) from error
    return replace(defaults, env={**defaults.env, **env}, cwd=defaults.cwd if cwd is None else cwd)


def _settings(image: Image | None, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
    if image is None:
        lifecycle.parse_user(user)
        return Settings(dict(env), cwd, user)
    from ballonet.images.users import resolve_user

    who = resolve_user(image, user or image.config.user or "0")
    all_env = {"HOME": who.home, **image.config.env, **env}
    groups = "".join(f",{group}" for group in who.groups)
    return Settings(all_env, cwd or image.config.workdir or None, f"{who.uid}:{who.gid}{groups}")
