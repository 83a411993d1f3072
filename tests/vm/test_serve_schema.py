"""Schemathesis sends requests that the OpenAPI document describes, and others, to a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import create
from ballonet.machine.run_directory import prune_run_directories
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.serve_client import ServerProcess, new_token

pytestmark = pytest.mark.extended

#: What a response must not be: an internal error, a status or content that the document does not have.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)
#: What starts a VM, reaches a registry, or does not end.
EXCLUDED = ("/v1/sandboxes/{name}/start", "/v1/images/pull", "/v1/events")
#: Sandboxes that have settings are only registered, and nothing is fetched.
HOOKS = """
import schemathesis
from schemathesis.core import NotSet

@schemathesis.hook
def before_call(context, case, **kwargs):
    if case.operation.label == "POST /v1/sandboxes":
        if isinstance(case.body, dict):
            case.body = {**case.body, "start": False, "pull": "never"}
        elif isinstance(case.body, NotSet):  # which asks for a sandbox with all defaults
            case.body = {"start": False}

@schemathesis.serializer("application/x-tar")
def tar(context, value):
    return value if isinstance(value, bytes) else str(value).encode()
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
    (tmp_path / "serve_hooks.py").write_text(HOOKS)
    with ServerProcess(tmp_path) as server:
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"),
                *("-H", f"Authorization: Bearer {new_token('--scope', 'admin')}"),
                *("--checks", ",".join(CHECKS)),
                *("--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1"),
                *(word for path in EXCLUDED for word in ("--exclude-path", path)),
                "--no-color",
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "serve_hooks",
                "PYTHONPATH": ":".join([str(tmp_path), *sys.path]),
            },
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        for phase in ("Coverage", "Fuzzing"):
            assert f"✅ {phase}" in done.stdout, done.stdout[-6000:] + done.stderr
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    for record in asyncio.run(Sandbox.list()):  # a request without a body starts one
        asyncio.run(Sandbox.remove(record.name, force=True))
    prune_run_directories()  # fails to remove those in which something runs
    assert list((tmp_path / "ballonet_run_dir").iterdir()) == []
