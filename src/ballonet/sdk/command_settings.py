"""Checks the variables, the directory and the user of a command."""

from __future__ import annotations

from collections.abc import Mapping

from ballonet.base.arguments import check_env, check_text
from ballonet.base.errors import ConfigError
from ballonet.images.users import check_user


def command_settings(
    env: Mapping[str, str] | None, cwd: str | None, user: str | None
) -> tuple[dict[str, str], str | None, str | None]:
    """Variables, directory and user for a command, checked.

    :raises ConfigError: one of them has the wrong type, or is impossible.
    """
    check_text("cwd", cwd)
    check_text("user", user)
    if user is not None and not user.strip():  # an empty variable must not mean root
        raise ConfigError(f"user {user!r} is empty", hint="write USER[:GROUP], names or numbers; root is 0")
    if cwd and not cwd.startswith("/"):
        raise ConfigError(
            f"the working directory {cwd!r} is not an absolute path", hint=f"for example /{cwd}"
        )
    check_user(user)
    return check_env(env), cwd, user
