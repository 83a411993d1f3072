"""Images and commands brought together: the root that a sandbox has, and what its commands get from the image.

As in Docker: a command line replaces the image's command but not its entry point; variables are added to the
image's; user and working directory are the image's unless they are said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError
from ballonet.images.users import check_user
from ballonet.lifecycle.record import Command, Record
from ballonet.machine.disk import DEFAULT_DISK_MIB
from ballonet.settings.config import SandboxConfig

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.images.store import ImageStore, Pull


#: A command that is one of these and nothing else waits for somebody to type: without a terminal it ends at once.
_SHELLS = frozenset({"sh", "ash", "bash", "dash", "zsh"})


@dataclass(frozen=True)
class Settings:
    """What a command runs with."""

    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    #: ``USER[:GROUP]``, which the guest looks up; ``None`` is root.
    user: str | None = None
    #: Make the directory if it is not there: it was not asked for by name.
    make_cwd: bool = False


@dataclass(frozen=True)
class Prepared:
    """A configuration whose root is there, and the image that it comes from (``None``: the built-in root)."""

    config: SandboxConfig
    image: Image | None = None

    def settings(self, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
        """What a command runs with that says so much.

        :raises ConfigError: the user is no ``USER[:GROUP]``.
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
        :raises ConfigError: the user is no ``USER[:GROUP]``, or the image's stop signal no signal.
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

    :raises ConfigError: the user is no ``USER[:GROUP]``.
    """
    told = record.inherited
    found = settings_for(image, {**told.env, **(env or {})}, cwd or told.cwd, user or told.user)
    return replace(found, make_cwd=not cwd)


def shown_settings(record: Record, image: Image | None) -> Settings:
    """What a command inherits that says nothing itself, as it was told: for people."""
    told = record.inherited
    if image is None:
        return Settings(dict(told.env), told.cwd, told.user)
    of = image.config
    return Settings({**of.env, **told.env}, told.cwd or of.workdir or None, told.user or of.user or None)


def settings_for(image: Image | None, env: Mapping[str, str], cwd: str | None, user: str | None) -> Settings:
    """What a command runs with in a sandbox of ``image`` that says so much.

    Names of users are looked up in the guest, when the command starts.

    :raises ConfigError: the user is no ``USER[:GROUP]``.
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
        raise ConfigError(f"the image's own {error.message}", hint="say another one with -u") from error


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
