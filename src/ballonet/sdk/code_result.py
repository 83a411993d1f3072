"""What code in a session produces: output as it comes, results, and what the code raised."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ballonet.base.dataclass import dataclass, field

#: How much of each output :meth:`~ballonet.sdk.code_session.CodeSession.run` keeps by default (characters), and how
#: much of all results (bytes).
KEPT_CHARACTERS = 1 << 20
KEPT_RESULT_BYTES = 64 << 20


@dataclass(frozen=True)
class CodeException:
    """What the code raised: the name of its class, its message, and the traceback as text."""

    name: str
    message: str
    traceback: str


@dataclass(frozen=True)
class CodeEvent:
    """Something that the code did.

    :param kind: ``stdout`` or ``stderr``: ``text`` was written; ``display``: ``data`` was shown; ``value``: ``data`` is
        the value of the last expression; ``error``: ``error`` was raised; ``end``: the code has ended, which is the
        last event.
    :param data: representations by MIME type: text as ``str``, pictures as ``bytes``, ``application/json`` as objects.
    """

    kind: str
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    error: CodeException | None = None
    exit_status: int | None = None


@dataclass(frozen=True)
class CodeResult:
    """What code did until it ended.

    :param value: the value of the last expression, by MIME type, as in :class:`CodeEvent`; ``None``: there was none.
    :param displays: what was shown meanwhile, such as figures.
    :param error: what the code raised; ``None``: nothing.
    :param exit_status: of the last command, in a shell; ``None`` in other languages.
    :param truncated: an output was longer than the limit, or the results were; the rest was dropped.
    """

    stdout: str
    stderr: str
    value: Mapping[str, Any] | None
    displays: Sequence[Mapping[str, Any]]
    error: CodeException | None
    exit_status: int | None
    truncated: bool

    @property
    def ok(self) -> bool:
        """Whether the code raised nothing; in a shell, whether the last command succeeded."""
        return self.error is None and not self.exit_status

    @property
    def text(self) -> str | None:
        """The value as plain text."""
        return None if self.value is None else self.value.get("text/plain")

    @property
    def pictures(self) -> list[bytes]:
        """All PNG pictures, in order: of what was shown, and of the value."""
        shown = [*self.displays, *([] if self.value is None else [self.value])]
        return [data["image/png"] for data in shown if isinstance(data.get("image/png"), bytes)]


def bundle(found: object) -> dict[str, Any]:
    """Representations from a kernel's JSON. What is not as it should be is left out."""
    data: dict[str, Any] = {}
    for mime, value in found.items() if isinstance(found, dict) else ():
        if mime == "application/json":
            data[mime] = value
        elif isinstance(value, str):
            if mime.startswith("image/") and mime != "image/svg+xml":
                try:
                    data[mime] = base64.b64decode(value)
                except (binascii.Error, ValueError):
                    continue
            else:
                data[mime] = value
    return data


def exception(found: object) -> CodeException | None:
    """What was raised, from a kernel's JSON."""
    if not isinstance(found, dict):
        return None
    return CodeException(*(str(found.get(name, "")) for name in ("name", "message", "traceback")))


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else len(json.dumps(value))


class Collector:
    """Collects events to a result. Outputs and results beyond the limits are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._lengths = {"stdout": 0, "stderr": 0}
        self._result_bytes = 0
        self._truncated = False
        self._value: Mapping[str, Any] | None = None
        self._displays: list[Mapping[str, Any]] = []
        self._end = CodeEvent("end")

    def text(self, kind: str) -> str:
        return "".join(self._texts[kind])

    def add(self, event: CodeEvent) -> None:
        match event.kind:
            case "stdout" | "stderr":
                room = self._limit - self._lengths[event.kind]
                self._truncated |= len(event.text) > room
                self._texts[event.kind].append(event.text[:room])
                self._lengths[event.kind] += len(event.text[:room])
            case "display" | "value":
                self._result_bytes += sum(map(_size, event.data.values()))
                if self._result_bytes > KEPT_RESULT_BYTES:
                    self._truncated = True
                elif event.kind == "value":
                    self._value = event.data
                else:
                    self._displays.append(event.data)
            case "end":
                self._end = event

    def result(self) -> CodeResult:
        end = self._end
        return CodeResult(
            stdout=self.text("stdout"),
            stderr=self.text("stderr"),
            value=self._value,
            displays=tuple(self._displays),
            error=end.error,
            exit_status=end.exit_status,
            truncated=self._truncated,
        )
