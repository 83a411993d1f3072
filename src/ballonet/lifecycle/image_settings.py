"""What an image brings to a sandbox: its root, and the settings of its commands.

As in Docker: a command line replaces the image's command but not its entry point; variables are added to the
image's; user and working directory are the image's unless others are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.dataclass import dataclass, field, replace
from ballonet.base.errors import ConfigError
from ballonet.images.users import check_user
from ballonet.lifecycle.record import Command, Record
from ballonet.settings.config import SandboxConfig

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.images.store import ImageStore, Pull


#: A command that is only one of these reads its standard input: without a terminal it ends at once.
_SHELLS = frozenset({"sh", "ash", "bash", "dash", "zsh"})


@dataclass(frozen=True)
class Settings:
    """What a command runs with."""

    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    #: ``USER[:GROUP]``, which the guest looks up; ``None`` is root.
    user: str | None = None
    #: Create the directory if it is missing: nobody named it for this command.
    make_cwd: bool = False


@dataclass(frozen=True)
class Prepared:
    """A configuration whose root exists, and the image that it comes from (``None``: the built-in root)."""

    config: SandboxConfig
    image: Image | None = None

    def settings(self, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
        """The settings of a command for which these are given.

        :raises ConfigError: the user is not ``USER[:GROUP]``.
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
        """The command of a sandbox: ``argv``, or the image's own; ``None`` if there is neither.

        :param detached: there is no terminal: an image's own command does not count if it is only a shell.
        :param entrypoint: replaces the image's entry point and its own command; empty: no entry point.
        :raises ConfigError: the user is not ``USER[:GROUP]``, or the image's stop signal is unknown.
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
        return Command(words, settings.env, settings.cwd, settings.user, _stop_signal(self.image))


def prepare(
    config: SandboxConfig,
    *,
    pull: Pull = "missing",
    rootfs: Path | None = None,
    store: ImageStore | None = None,
    report: Callable[[str], None] | None = None,
) -> Prepared:
    """Prepare the root of ``config``. A configuration without an image is returned unchanged.

    :param pull: when to contact the image's registry.
    :param rootfs: a host directory to make the root from, instead of an image.
    :param store: the image store; by default the user's own.
    :param report: called with one line for each step that takes time.
    :raises BallonetError: the image is not available.
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
    from ballonet.machine.disk import DEFAULT_DISK_MIB

    disk_mib = DEFAULT_DISK_MIB if config.disk_mib is None else config.disk_mib
    return Prepared(replace(config, root=image.root, disk_mib=disk_mib), image)


def image_of(record: Record) -> Image | None:
    """The image of a sandbox's root; ``None``: the built-in root, or a root file.

    :raises BallonetError: the image no longer exists.
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
    """The settings of a command in the sandbox of ``record``, where these are given for the command itself.

    As in Docker: variables are added to those of the sandbox and of the image; directory and user are the command's
    own, else the sandbox's, else the image's.

    :raises ConfigError: the user is not ``USER[:GROUP]``.
    """
    outer = record.inherited
    found = settings_for(image, {**outer.env, **(env or {})}, cwd or outer.cwd, user or outer.user)
    return replace(found, make_cwd=not cwd)


def shown_settings(record: Record, image: Image | None) -> Settings:
    """The settings that a command inherits from the sandbox and its image, for display: nothing is checked."""
    outer = record.inherited
    if image is None:
        return Settings(dict(outer.env), outer.cwd, outer.user)
    of = image.config
    return Settings({**of.env, **outer.env}, outer.cwd or of.workdir or None, outer.user or of.user or None)


def settings_for(image: Image | None, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
    """The settings of a command in a sandbox of ``image``, where these are given.

    Names of users are looked up in the guest when the command starts.

    :raises ConfigError: the user is not ``USER[:GROUP]``.
    """
    check_user(user)
    if image is None:
        return Settings(dict(env), cwd, user or None)
    if not user:
        _check_image_user(image)
    return Settings(
        {**image.config.env, **env},
        cwd or image.config.workdir or None,
        user or image.config.user or None,
        make_cwd=not cwd,
    )


def _check_image_user(image: Image) -> None:
    try:
        check_user(image.config.user)
    except ConfigError as error:
        raise ConfigError(f"the image's own {error.message}", hint="choose another user with -u") from error


def _stop_signal(image: Image | None) -> int | None:
    if image is None or image.config.stop_signal is None:
        return None
    from ballonet.images.image import signal_number

    try:
        return signal_number(image.config.stop_signal)
    except ConfigError as error:
        raise ConfigError(
            f"the image's StopSignal cannot be used: {error.message}", hint=error.hint
        ) from error
