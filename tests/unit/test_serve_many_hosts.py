"""What the HTTP server of many hosts decides without them."""

from __future__ import annotations

from typing import Any, cast

from ballonet.serve import openapi
from ballonet.serve.app import OPERATIONS
from ballonet.serve.hosts import Hosts
from ballonet.serve.many_events import parse_position, show_position
from ballonet.serve.many_hosts import ManyHosts
from ballonet.serve.tokens import Scope


class NoHosts:
    """A cluster that is asked nothing."""

    async def collect(self) -> Any:
        raise AssertionError


def operations() -> dict[tuple[str, str], Any]:
    endpoints = ManyHosts(cast("Hosts", NoHosts())).endpoints()
    return {(each.method, each.path): each for each in endpoints.operations}


def test_a_position_in_the_events_of_all_hosts_is_text() -> None:
    position = {"b.example": 4, "a-1": 17}
    assert show_position(position) == "a-1=17,b.example=4"
    assert parse_position("a-1=17,b.example=4", ["a-1"]) == position
    assert parse_position("0", ["a", "b"]) == {"a": 0, "b": 0}
    for text in ("17", "a=", "a=-1", "=3", "a=1,", "a=1;b=2", "a=" + "9" * 19):
        assert parse_position(text, ["a"]) == {}, text


def test_operations_on_a_sandbox_are_those_of_one_host_with_the_same_scopes() -> None:
    found = operations()
    for each in OPERATIONS:
        if each.path.startswith("/v1/sandboxes"):
            assert found[each.method, each.path].scope is each.scope, each.path
            assert found[each.method, each.path].query is each.query


def test_what_a_host_has_for_itself_is_under_its_name_with_the_same_scope() -> None:
    found = operations()
    assert found["POST", "/v1/hosts/{host}/images/pull"].scope is Scope.ADMIN
    assert ("POST", "/v1/images/pull") not in found
    assert ("POST", "/v1/hosts/{host}/snapshots/{name}/restore") not in found, "it would bypass the directory"
    assert not any(path.startswith("/v1/hosts/{host}/sandboxes") for _, path in found)
    assert ("GET", "/v1/hosts/{host}/metrics") in found


def test_every_operation_of_many_hosts_is_described() -> None:
    document = openapi.document(operations().values())
    body = document["paths"]["/v1/sandboxes"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/CreateSandboxOnCluster"}
    assert "placement" in document["components"]["schemas"]["CreateSandboxOnCluster"]["properties"]
    for path, methods in document["paths"].items():
        if "{host}" in path:
            assert all({"404", "502"} <= each["responses"].keys() for each in methods.values()), path
