"""What a tool is: its name, what it takes, and the code that does it. The result, or the error, is for a model."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent, Tool, ToolAnnotations

from ballonet.base.errors import BallonetError, ConfigError, HostError, SettingError
from ballonet.mcp.session import AgentSession
from ballonet.settings.names import PARAMETERS

log = logging.getLogger(__name__)


class ToolDefinition(NamedTuple):
    """One tool. Its description is the docstring of ``takes``, a struct with its arguments."""

    name: str
    title: str
    takes: type[msgspec.Struct]
    handler: Callable[[AgentSession, Any], Awaitable[Sequence[ContentBlock]]]
    #: It changes nothing.
    read_only: bool = False
    #: It removes or replaces something.
    destructive: bool = False

    def describe(self) -> Tool:
        """The tool for the protocol, with the JSON Schema of its arguments."""
        _, found = msgspec.json.schema_components([self.takes])
        schema = dict(found[self.takes.__name__])
        description = schema.pop("description", "")  # no docstrings with python -OO
        schema.pop("title", None)
        schema["properties"] = {name: _simple(each) for name, each in schema["properties"].items()}
        return Tool(
            name=self.name,
            title=self.title,
            description=" ".join(description.split()),
            input_schema=schema,
            annotations=ToolAnnotations(
                title=self.title,
                read_only_hint=self.read_only,
                destructive_hint=self.destructive,
                open_world_hint=False,
            ),
        )


def _simple(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an argument that may be left out, without its alternative ``null``: some clients cannot read it."""
    others = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(others) != 1:
        return schema
    return {"description": schema["description"], **others[0]}


class ToolError(BallonetError):
    """A tool failed, and its output so far belongs to the answer.

    :param content: of the result, after the error.
    """

    def __init__(self, cause: BallonetError, content: Sequence[ContentBlock]) -> None:
        super().__init__(cause.message, hint=cause.hint)
        self.cause = cause
        self.content = content


async def call_tool(
    tool: ToolDefinition, session: AgentSession, arguments: dict[str, Any] | None
) -> CallToolResult:
    """Call a tool. Every error is a result that a model can act on."""
    try:
        try:
            taken = msgspec.convert(arguments or {}, tool.takes)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"the arguments of {tool.name} are invalid: {error}", hint="see the tool's input schema"
            ) from None
        return CallToolResult(content=list(await tool.handler(session, taken)))
    except ToolError as error:
        return CallToolResult(content=[text(_told(error.cause)), *error.content], is_error=True)
    except BallonetError as error:
        return CallToolResult(content=[text(_told(error))], is_error=True)
    except OSError as error:
        failed = HostError(f"{error.filename or 'the host'}: {error.strerror or error}")
        return CallToolResult(content=[text(_told(failed))], is_error=True)
    except Exception:
        log.exception("internal error in the tool %s", tool.name)
        failed = HostError("internal error: this is a bug; the server's log has the details")
        return CallToolResult(content=[text(_told(failed))], is_error=True)


def _told(error: BallonetError) -> str:
    if isinstance(error, SettingError):
        error = error.named(PARAMETERS)
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return f"error ({error.code}): {error.message}{hint}"


def text(value: str) -> TextContent:
    # Names of files that are not UTF-8 have surrogates, which JSON cannot have.
    return TextContent(text=value.encode(errors="surrogateescape").decode(errors="replace"))


def as_json(value: object) -> TextContent:
    return text(json.dumps(value, ensure_ascii=False))


def picture(png: bytes) -> ImageContent:
    return ImageContent(data=base64.b64encode(png).decode(), mime_type="image/png")
