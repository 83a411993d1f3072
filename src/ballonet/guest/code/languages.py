"""The languages of code sessions: which command runs their kernel, and what it reads and says. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, GuestChannelError
from ballonet.base.suggest import close_to
from ballonet.guest.code.protocol import from_json

KERNELS = Path(__file__).parent / "kernels"
#: In a command: where the session has put the kernel's program.
_KERNEL = "{kernel}"


def _json_request(number: int, code: str) -> bytes:
    return json.dumps({"id": number, "code": code}).encode() + b"\n"


def _shell_request(number: int, code: str) -> bytes:
    text = code.replace("\\", "\\\\").replace("\n", "\\n")
    return f"{number} {text}\n".encode(errors="surrogateescape")


def _shell_done(text: bytes) -> dict[str, Any]:
    try:
        number, status = map(int, text.split())
    except ValueError:
        raise GuestChannelError(f"the shell of the code session said {text[:80]!r}") from None
    return {"id": number, "exit_status": status}


@dataclass(frozen=True)
class Language:
    """How a session runs one language.

    :param commands: what to try, in this order.
    :param kernel: the file of the kernel's program.
    :param request: the line that makes the kernel run code.
    :param done: reads the kernel's line about a finished request.
    :param needs: what an image must have, in words.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    kernel: str
    request: Callable[[int, str], bytes]
    done: Callable[[bytes], dict[str, Any]]
    needs: str
    hint: str

    @property
    def program(self) -> bytes:
        """The kernel's program."""
        return (KERNELS / self.kernel).read_bytes()


_SHELL_HINT = "use an image with a shell, such as debian:12 or alpine:3"
LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "python",
            (("python3", _KERNEL), ("python", _KERNEL)),
            "python_kernel.py",
            _json_request,
            from_json,
            "python3",
            "use an image with Python 3.7 or later, such as python:3.12-slim, or build one: "
            "ballonet image build-debian --with code --tag code",
        ),
        Language(
            "node",
            (("node", _KERNEL), ("nodejs", _KERNEL)),
            "node_kernel.js",
            _json_request,
            from_json,
            "node",
            "use an image with Node.js, such as node:22-slim",
        ),
        Language("sh", (("sh", _KERNEL),), "shell_kernel.sh", _shell_request, _shell_done, "sh", _SHELL_HINT),
        Language(
            "bash", (("bash", _KERNEL),), "shell_kernel.sh", _shell_request, _shell_done, "bash", _SHELL_HINT
        ),
    )
}


def language_of(name: object) -> Language:
    """:raises ConfigError: there is no such language."""
    if isinstance(name, str) and name in LANGUAGES:
        return LANGUAGES[name]
    hint = f"choose one of {', '.join(LANGUAGES)}"
    if isinstance(name, str) and (near := close_to(name, LANGUAGES)):
        hint = f"did you mean {near[0]!r}? {hint}"
    raise ConfigError(f"code sessions have no language {name!r}", hint=hint)
