"""The OpenAPI document is the one that the code gives, and what it says of documents is what the library makes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from ballonet.lifecycle.descriptions import describe, describe_in_detail
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import create
from ballonet.serve import openapi, requests, results
from ballonet.serve.app import OPERATIONS
from ballonet.serve.operations import OPENAPI_FILE
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import CreateSettings, ModifySettings, settings_in


def test_the_shipped_document_is_the_generated_one() -> None:
    again = "python -m ballonet.serve.openapi > src/ballonet/serve/openapi.json"
    assert OPENAPI_FILE.read_text() == openapi.text(OPERATIONS), f"generate it again: {again}"


def test_references_and_names_are_whole() -> None:
    document = openapi.document(OPERATIONS)
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


def test_every_operation_has_its_own_errors() -> None:
    for operation in OPERATIONS:
        if "{name}" in operation.path:
            assert 404 in operation.errors, operation.path


def test_a_sandbox_is_described_as_the_document_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Registry.open() as registry:
        record = create(registry, SandboxConfig(name="box", memory_mib=160))
    row = describe([record])[0][0]
    assert list(row) == list(results.Sandbox.__struct_fields__)
    msgspec.convert(json.loads(msgspec.json.encode(row, enc_hook=str)), results.Sandbox)
    details = describe_in_detail([record])[0]
    assert set(details) == set(results.SandboxDetails.__struct_fields__)
    msgspec.convert(json.loads(msgspec.json.encode(details, enc_hook=str)), results.SandboxDetails)


def test_bodies_take_every_setting() -> None:
    for body, of in ((requests.CreateBody, CreateSettings), (requests.ModifyBody, ModifySettings)):
        assert {setting.name for setting in settings_in(of)} <= set(body.__struct_fields__)
