"""Images and commands brought together: the root that a sandbox has, and what its commands get from the image.

As in Docker: a command line replaces the image's command but not its entry point; variables are added to the
image's; user and working directory are the image's unless they are said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet import lifecycle
from ballonet.config import SandboxConfig
from ballonet.machine.disk import DEFAULT_DISK_MIB
from ballonet.registry.record import Command, Record

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.images.store import ImageStore, Pull


#: A command that is one of these and nothing else waits for somebody to type: without a terminal it ends at once.
_SHELLS = frozenset({"sh", "ash", "bash", "dash", "zsh"})


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
        return settings_for(self.image, env, cwd, user)

    def command(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        user: str | None,
        entrypoint: str | None = None,
        detached: bool = False,
    ) -> Command | None:
        """The command of a sandbox: ``argv``, or the image's own; ``None`` if neither says anything.

        :param detached: nobody types: an image whose own command is a bare shell says nothing.
        :param entrypoint: instead of the image's; the image's own command is then not used either. Empty: none.
        :raises ConfigError: the image has no such user.
        """
        replaced = None if entrypoint is None else (entrypoint,) * bool(entrypoint)
        words = tuple(argv)
        if self.image is not None:
            words = self.image.config.command(words, entrypoint=replaced)
        elif replaced is not None:
            words = (*replaced, *words)
        bare_shell = len(words) == 1 and words[0].rpartition("/")[2] in _SHELLS
        if not words or (detached and not argv and entrypoint is None and bare_shell):
            return None
        settings = self.settings(env, cwd, user)
        return Command(words, settings.env, settings.cwd, settings.user)


def prepare(
    config: SandboxConfig,
    *,
    pull: Pull = "missing",
    rootfs: Path | None = None,
    store: ImageStore | None = None,
    report: Callable[[str], None] | None = None,
) -> Prepared:
    """Bring in what ``config`` asks for as its root. One without an image comes back as it is.

    :param pull: when to ask the image's registry.
    :param rootfs: a directory of the host to make the root from, instead of an image.
    :param store: where images are; the user's own by default.
    :param report: told in one line what takes time.
    :raises BallonetError: the image cannot be had.
    """
    if config.image is None and rootfs is None:
        return Prepared(config)
    if store is None:
        from ballonet.images.store import ImageStore

        store = ImageStore.open()
    if rootfs is not None:
        image = store.from_rootfs(rootfs, report)
    else:
        assert config.image is not None
        image = store.resolve(config.image, pull=pull, report=report)
    disk_mib = DEFAULT_DISK_MIB if config.disk_mib is None else config.disk_mib
    return Prepared(replace(config, root=image.root, disk_mib=disk_mib), image)


def image_of(record: Record) -> Image | None:
    """What the root of a sandbox is made from; ``None``: the built-in root, or a file that was named.

    :raises BallonetError: the image is not there any more.
    """
    if record.image_id is None:
        return None
    from ballonet.images.store import ImageStore

    return ImageStore.open().find(record.image_id)


def inherited_settings(
    record: Record,
    image: Image | None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
) -> Settings:
    """What a command runs with in the sandbox of ``record``, which says so much itself.

    As in Docker: variables are added to those that the sandbox was told, and to the image's; directory and user are
    the command's own, else what the sandbox was told, else the image's.

    :raises ConfigError: the image has no such user.
    """
    told = record.inherited
    return settings_for(image, {**told.env, **(env or {})}, cwd or told.cwd, user or told.user)


def shown_settings(record: Record, image: Image | None) -> Settings:
    """What a command inherits that says nothing itself, as it was told: for people."""
    told = record.inherited
    if image is None:
        return Settings(dict(told.env), told.cwd, told.user)
    of = image.config
    return Settings({**of.env, **told.env}, told.cwd or of.workdir or None, told.user or of.user or None)


def settings_for(image: Image | None, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
    """What a command runs with in a sandbox of ``image`` that says so much.

    :raises ConfigError: the image has no such user.
    """
    if image is None:
        lifecycle.parse_user(user)
        return Settings(dict(env), cwd, user)
    if user is not None and "," in user:
        # Resolved already: an older row's. The home directory is among the variables there.
        lifecycle.parse_user(user)
        return Settings({**image.config.env, **env}, cwd or image.config.workdir or None, user)
    from ballonet.images.users import resolve_user

    who = resolve_user(user or image.config.user, image.passwd(), image.group())
    all_env = {"HOME": who.home, **image.config.env, **env}
    groups = "".join(f",{group}" for group in who.groups)
    return Settings(all_env, cwd or image.config.workdir or None, f"{who.uid}:{who.gid}{groups}")
