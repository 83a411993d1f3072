"""The protocol as a JSON Schema, generated from its dataclasses: ``python -m ballonet.control.schema`` prints it.

``schema.json`` in this directory is the shipped copy; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path

from ballonet.control.backend import BalloonSnapshot
from ballonet.control.protocol import CHANGED, ERRORS, METHODS, PROTOCOL_VERSION
from ballonet.control.wire import schema_of

#: The shipped copy.
SCHEMA_FILE = Path(__file__).with_name("schema.json")

_VERSION = {"const": "2.0"}
_ID = {"type": ["string", "integer", "null"]}


def protocol_schema() -> dict[str, object]:
    """JSON Schema (draft 2020-12) of every message, with one definition per method under ``$defs``."""
    definitions: dict[str, object] = {}
    for method in METHODS.values():
        request = {"jsonrpc": _VERSION, "id": _ID, "method": {"const": method.name}}
        params = schema_of(method.params)
        required = ["jsonrpc", "method", *(["params"] if params["required"] else [])]
        definitions[f"{method.name} request"] = {
            "description": method.doc + ("" if method.observers else "; not for observers"),
            "type": "object",
            "properties": {**request, "params": params},
            "required": required,
            "additionalProperties": False,
        }
        definitions[f"{method.name} reply"] = _object(
            jsonrpc=_VERSION, id=_ID, result=schema_of(method.result)
        )
    definitions[f"{CHANGED} notification"] = _object(
        jsonrpc=_VERSION, method={"const": CHANGED}, params=schema_of(BalloonSnapshot)
    )
    definitions["error reply"] = _object(jsonrpc=_VERSION, id=_ID, error=_error())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"ballonet control protocol, version {PROTOCOL_VERSION}",
        "description": "One message is one line. Sizes are MiB of guest-visible memory; null means unknown.",
        "anyOf": [{"$ref": "#/$defs/" + name.replace(" ", "%20")} for name in definitions],
        "$defs": definitions,
    }


def _object(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _error() -> dict[str, object]:
    codes = [{"const": code, "title": name, "description": doc} for code, (name, doc) in ERRORS.items()]
    data = {
        "type": "object",
        "properties": {
            "name": {"enum": [name for name, _ in ERRORS.values()]},
            "hint": {"type": "string", "description": "what a person can do about it"},
            "code": {"type": "string", "description": "with failed: the kind of error inside the sandbox"},
        },
        "required": ["name"],
    }
    return _object(code={"oneOf": codes}, message={"type": "string"}, data=data)


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(protocol_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
