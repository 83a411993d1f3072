"""Starting programs: the one place that does.

Argument lists only, standard input is nothing unless said otherwise, the environment is explicit, and the
command is logged at debug level. Errors name the program, its status and its last words, with a hint.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ballonet.errors import HostError, ProcessError

log = logging.getLogger(__name__)

#: Debian keeps administrative programs here; a plain user's PATH often lacks them.
_EXTRA_PATH = "/usr/sbin:/sbin"


def find_program(name: str, *, hint: str) -> Path:
    """The path of program ``name``.

    :raises HostError: it is not installed; ``hint`` says how to get it.
    """
    found = shutil.which(name) or shutil.which(name, path=_EXTRA_PATH)
    if found is None:
        raise HostError(f"{name} is not installed (not on PATH)", hint=hint)
    return Path(found)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for helper programs: ours, with the messages in English, plus ``extra``."""
    return {**os.environ, "LC_ALL": "C.UTF-8", **(extra or {})}


def show_command(argv: Sequence[str | os.PathLike[str]]) -> str:
    """``argv`` as one line that a shell would read back the same."""
    return shlex.join(os.fspath(word) for word in argv)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    timeout_s: float = 120,
    env: Mapping[str, str] | None = None,
    hint: str | None = None,
) -> str:
    """Run a program to its end and return its standard output.

    :raises ProcessError: it could not be started, took longer than ``timeout_s``, or ended with another
        status than 0; the message has the end of what it wrote to standard error.
    """
    log.debug("run %s", show_command(argv))
    name = os.fspath(argv[0])
    try:
        done = subprocess.run(
            [os.fspath(word) for word in argv],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=clean_environment(env),
            check=False,
        )
    except FileNotFoundError as error:
        raise ProcessError(f"{name} could not be started: {error}", hint=hint) from error
    except OSError as error:
        raise ProcessError(f"{name} could not be started: {error.strerror}", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"{name} did not finish within {timeout_s:g} s and was ended", hint=hint) from error
    if done.returncode != 0:
        last_words = done.stderr.strip()[-2000:] or "it wrote nothing to standard error"
        raise ProcessError(f"{name} ended with status {done.returncode}: {last_words}", hint=hint)
    return done.stdout
