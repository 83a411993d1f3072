"""The tool that runs code in a session that keeps its variables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from mcp_types import ContentBlock
from msgspec import Meta, Struct

from ballonet.base.code_errors import CodeError, CodeSessionEndedError
from ballonet.mcp.command_tools import shown
from ballonet.mcp.sandbox_tools import SandboxName
from ballonet.mcp.session import AgentSession
from ballonet.mcp.tools import ToolDefinition, ToolError, as_json, picture, text
from ballonet.sdk.code_result import CodeResult

MAX_TIMEOUT_S, TIMEOUT_S = 3600, 50
#: The most of each output, of a value and of a traceback in a result (characters).
MAX_CHARACTERS = 16 << 10
#: The most pictures in a result, and their size in all (bytes).
MAX_PICTURES, MAX_PICTURE_BYTES = 8, 4 << 20
#: The most texts that were shown with ``display()``.
MAX_DISPLAYS = 8
#: What shows a value, the best first.
_TEXTS = ("text/plain", "text/markdown", "application/json", "text/html")


class RunCode(Struct, forbid_unknown_fields=True):
    """Run code in a sandbox, and return its output, the value of the last expression, its pictures (in Python,
    figures of matplotlib) and what it raised. Variables, imports and functions stay for the next call with the same
    sandbox, language and session. The image must have the language. Output beyond 16 Ki characters is dropped: write
    much output to a file, and read that with read_file."""

    code: Annotated[str, Meta(description="The code.", max_length=1_000_000)]
    language: Annotated[
        Literal["python", "node", "sh", "bash"], Meta(description="Language of the code.")
    ] = "python"
    sandbox: SandboxName = None
    session: Annotated[
        str,
        Meta(
            description="Sessions with different names have different variables.",
            pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,29}$",
        ),
    ] = "main"
    timeout_s: Annotated[
        float,
        Meta(
            description="Seconds after which the code is interrupted; variables stay.", gt=0, le=MAX_TIMEOUT_S
        ),
    ] = TIMEOUT_S
    restart: Annotated[bool, Meta(description="Restart the session first: all its variables are lost.")] = (
        False
    )


async def _run(session: AgentSession, given: RunCode) -> Sequence[ContentBlock]:
    box = await session.find(given.sandbox)
    key = box, given.language, given.session
    coding = await session.code(*key)
    try:
        if given.restart:
            await coding.restart()
        result = await coding.run(given.code, timeout=given.timeout_s, limit=MAX_CHARACTERS)
    except CodeError as error:
        if isinstance(error, CodeSessionEndedError):
            session.forget_code(*key)
            await coding.close()
            error.hint = "the next call starts a new session, without variables"
        raise ToolError(error, shown(cut(error.stdout), cut(error.stderr))) from None
    return contents(result)


def contents(result: CodeResult) -> list[ContentBlock]:
    """A result for a model. Pure."""
    facts: dict[str, Any] = {"ok": result.ok}
    if result.exit_status is not None:
        facts["exit_status"] = result.exit_status
    if result.truncated:
        facts["output_dropped"] = True
    if result.error is not None:
        facts["error"] = {"name": result.error.name, "message": cut(result.error.message)}
    pictures = result.pictures
    sent: list[bytes] = []
    for each in pictures[:MAX_PICTURES]:
        if sum(map(len, sent)) + len(each) > MAX_PICTURE_BYTES:
            break
        sent.append(each)
    if len(sent) < len(pictures):
        facts["pictures_dropped"] = len(pictures) - len(sent)
    displays = [said for each in result.displays if "image/png" not in each and (said := _words(each))]
    if len(displays) > MAX_DISPLAYS:
        facts["displays_dropped"] = len(displays) - MAX_DISPLAYS
    found: list[ContentBlock] = [as_json(facts), *shown(result.stdout, result.stderr)]
    if result.error is not None and result.error.traceback:
        found.append(text(f"traceback:\n{cut(result.error.traceback)}"))
    found += [text(f"display:\n{said}") for said in displays[:MAX_DISPLAYS]]
    if result.value is not None and (said := _words(result.value)):
        found.append(text(f"value:\n{said}"))
    found += map(picture, sent)
    return found


def _words(data: Mapping[str, Any]) -> str | None:
    for kind in _TEXTS:
        if kind in data:
            value = data[kind]
            return cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return f"({', '.join(data)})" if data else None


def cut(said: str) -> str:
    """The beginning of a text."""
    if len(said) <= MAX_CHARACTERS:
        return said
    return f"{said[:MAX_CHARACTERS]}\n(and {len(said) - MAX_CHARACTERS} more characters)"


TOOLS = [ToolDefinition("run_code", "Run code", RunCode, _run, destructive=True)]
