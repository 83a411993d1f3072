"""``--env-file``: reads environment variables from a file."""

from __future__ import annotations

import os
from pathlib import Path

from ballonet.base.errors import ConfigError

#: Variables of one command must fit into its frame anyway.
_MOST_BYTES = 1 << 20


def read_env_file(path: str) -> dict[str, str]:
    """The variables in a file: ``NAME=VALUE`` a line, without quotes or escapes; ``NAME`` alone copies the value from
    this environment. Empty lines and lines that begin with ``#`` are comments.

    :raises ConfigError: the file cannot be read, or a line is not valid; the message has its number.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--env-file {path!r} cannot be read: {why}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"--env-file {path!r} is larger than 1 MiB")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--env-file {path!r} is not UTF-8 text: {error.reason}") from error
    env = {}
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        where = f"--env-file {path!r}, line {number}"
        if not name or name != name.strip() or any(map(str.isspace, name)) or "\0" in line:
            raise ConfigError(f"{where}: {name[:60]!r} is not a name of a variable", hint="write NAME=VALUE")
        if not equals and name not in os.environ:
            raise ConfigError(
                f"{where}: the variable {name!r} is not set in this environment",
                hint=f"NAME alone copies the value from here; for an empty value write {name}=",
            )
        env[name] = value if equals else os.environ[name]
    return env
