"""Runs Schemathesis, which sends requests that the OpenAPI document of a server describes, and others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

#: What a response must not be: an internal error, a status or content that the document does not have.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)
_TAR = """
import schemathesis

@schemathesis.serializer("application/x-tar")
def tar(context, value):
    return value if isinstance(value, bytes) else str(value).encode()
"""


def run_schemathesis(
    directory: Path,
    address: str,
    token: str,
    excluded: Iterable[str],
    *,
    hooks: str = "",
    phases: Sequence[str] = ("coverage", "fuzzing"),
) -> None:
    """Fail if a response is not as it is described.

    :param directory: for its files.
    :param excluded: patterns of paths that are left alone.
    :param hooks: more of the module with its hooks.
    :param phases: ``coverage`` goes through the parameters of each operation, ``fuzzing`` makes up five requests.
    """
    (directory / "serve_hooks.py").write_text(_TAR + hooks)
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
            *("-H", f"Authorization: Bearer {token}"),
            *("--checks", ",".join(CHECKS)),
            *("--phases", ",".join(phases), "--max-examples", "5", "--seed", "1"),
            *("--exclude-path-regex", "|".join(excluded)),
            "--no-color",
        ],
        cwd=directory,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "serve_hooks",
            "PYTHONPATH": ":".join([str(directory), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    for phase in phases:
        assert f"✅ {phase.capitalize()}" in done.stdout, done.stdout[-6000:] + done.stderr
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
