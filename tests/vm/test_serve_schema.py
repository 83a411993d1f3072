"""Schemathesis sends requests that the OpenAPI document describes, and others, to a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import create
from ballonet.machine.run_directory import prune_run_directories
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.schemathesis_run import run_schemathesis
from tests.serve_client import ServerProcess, new_token

pytestmark = pytest.mark.extended

#: What starts a VM, reaches a registry, or does not end.
EXCLUDED = ("/start$", "/images/pull$", "/events$")
#: Sandboxes that have settings are only registered, and nothing is fetched.
HOOKS = """
from schemathesis.core import NotSet

@schemathesis.hook
def before_call(context, case, **kwargs):
    if case.operation.label == "POST /v1/sandboxes":
        if isinstance(case.body, dict):
            case.body = {**case.body, "start": False, "pull": "never"}
        elif isinstance(case.body, NotSet):  # which asks for a sandbox with all defaults
            case.body = {"start": False}
"""


@pytest.mark.slow
def test_no_request_gives_an_internal_error_or_an_undocumented_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "BALLONET_RUN_DIR"):
        directory = tmp_path / variable.lower()
        directory.mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(directory))
    with Registry.open() as registry:
        create(registry, SandboxConfig(name="box", memory_mib=160))
    with ServerProcess(tmp_path) as server:
        run_schemathesis(tmp_path, server.address, new_token("--scope", "admin"), EXCLUDED, hooks=HOOKS)
    for record in asyncio.run(Sandbox.list()):  # a request without a body starts one
        asyncio.run(Sandbox.remove(record.name, force=True))
    prune_run_directories()  # fails to remove those in which something runs
    assert list((tmp_path / "ballonet_run_dir").iterdir()) == []
