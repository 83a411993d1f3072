"""The OpenAPI 3.1 document, generated from the operations: ``python -m ballonet.serve.openapi`` prints it.

:data:`~ballonet.serve.operations.OPENAPI_FILE` is the shipped copy; a test compares the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, get_args, get_origin

import msgspec

from ballonet.base.dataclass import is_dataclass
from ballonet.control.wire import schema_of
from ballonet.serve.operations import Media, Operation
from ballonet.serve.problems import MEDIA_TYPE, Problem

#: Responses that any operation may give, besides its own.
_COMMON = {
    400: "the request is invalid",
    403: "a page of another site sent it",
    413: "the body is too large",
    415: "the body is not JSON",
    421: "the request is for another host",
    500: "the host or the sandbox failed",
    503: "the server handles too many requests, or stops",
}
_WITH_TOKEN = {401: "a valid token is required", 403: "the token does not permit this"}
#: The forms of path parameters.
_NAME = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_PATTERNS = {"name": _NAME, "host": _NAME, "exec": "^[0-9a-f]{16}$", "port": "^[0-9]{1,5}$"}
_REF = "#/components/schemas/{name}"


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document."""
    operations = list(operations)
    schemas = _schemas(operations)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ballonet",
            "version": "v1",
            "summary": "MicroVM sandboxes whose memory breathes",
            "description": "Errors are problem documents (RFC 9457) with stable codes. Sizes are MiB unless a name "
            "says otherwise; null is unknown.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def text(operations: Iterable[Operation]) -> str:
    """The document as the file holds it."""
    return json.dumps(document(operations), indent=1, ensure_ascii=False) + "\n"


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    structs: list[Any] = [Problem]
    schemas: dict[str, Any] = {}
    for operation in operations:
        for of in (operation.body, operation.result):
            item: Any = get_args(of)[0] if get_origin(of) is list else of
            if item is None or isinstance(item, Media) or get_origin(item) is dict:
                continue
            if bool(is_dataclass(item)):  # not a narrower type
                schemas[item.__name__] = schema_of(item)
            else:
                structs.append(item)
    return schemas | msgspec.json.schema_components(structs, ref_template=_REF)[1]


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "tags": [_tag(operation.path)],
    }
    if operation.description:
        found["description"] = operation.description
    if operation.scope is None:
        found["security"] = []
    else:
        found["x-scope"] = operation.scope.value
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": _PATTERNS[name]},
        }
        for name in re.findall(r"{(\w+)", operation.path)
    ]
    parameters += _query(operation)
    parameters += [
        {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.headers.items()
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": _required(operation.body), "content": _content(operation.body)}
    found["responses"] = _responses(operation)
    return found


def _required(body: Any) -> bool:
    if isinstance(body, Media):
        return True
    return any(field.required for field in msgspec.structs.fields(body))


def _responses(operation: Operation) -> dict[str, Any]:
    done: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    if operation.result is not None:
        done["content"] = _content(operation.result)
    errors = dict(_COMMON)
    if operation.scope is not None:
        errors |= {401: _WITH_TOKEN[401], 403: _WITH_TOKEN[403] + ", or " + _COMMON[403]}
    for status, meaning in operation.errors.items():
        errors[status] = f"{meaning}; or {errors[status]}" if status in errors else meaning
    responses = {str(operation.status): done}
    for status, meaning in sorted(errors.items()):
        if status < 400:
            responses[str(status)] = {"description": meaning, "content": _content(operation.result)}
            continue
        problem = {"schema": {"$ref": _REF.format(name="Problem")}}
        responses[str(status)] = {"description": meaning, "content": {MEDIA_TYPE: problem}}
    return responses


def _content(of: Any) -> dict[str, Any]:
    if isinstance(of, Media):
        schema = {"type": "string"} if of.type.startswith("text/plain") else {}
        return {of.type: {"schema": schema}}
    return {"application/json": {"schema": _schema(of)}}


def _schema(of: Any) -> dict[str, Any]:
    if get_origin(of) is list:
        return {"type": "array", "items": _schema(get_args(of)[0])}
    if get_origin(of) is dict:
        return {"type": "object"}
    return {"$ref": _REF.format(name=of.__name__)}


def _query(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = msgspec.json.schema_components([operation.query], ref_template=_REF)[1][operation.query.__name__]
    parameters = []
    for name, of in schema["properties"].items():
        options = [each for each in of.get("anyOf", [of]) if each.get("type") != "null"]
        description = of.pop("description", None) or options[0].pop("description", None)
        default = of.pop("default", None)
        one = dict(options[0]) if len(options) == 1 else {"anyOf": options}
        if default is not None:
            one["default"] = default
        parameter = {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": one,
        }
        parameters.append(parameter | ({} if description is None else {"description": description}))
    return parameters


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part and part != "v1"]
    if parts[0] == "sandboxes" and len(parts) > 2 and parts[2] in ("exec", "execs", "files", "balloon"):
        return {"exec": "execs"}.get(parts[2], parts[2])
    return parts[0] if parts[0] in ("sandboxes", "images", "volumes", "snapshots") else "server"


def _id(operation: Operation) -> str:
    """A name for generated clients: of the handler's purpose, such as ``postSandboxesStart``."""
    parts = [part for part in operation.path.split("/") if part and part != "v1"]
    words = [re.sub(r"\W", "", part).title() for part in parts if not part.startswith("{")]
    single = parts[-1].startswith("{")
    return operation.method.lower() + "".join(words) + ("ByName" if single else "")


if __name__ == "__main__":
    from ballonet.serve.app import OPERATIONS

    print(text(OPERATIONS), end="")
