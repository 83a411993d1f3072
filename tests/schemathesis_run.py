"""Runs Schemathesis, which sends requests that the OpenAPI document of a server describes, and others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
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
    directory: Path, address: str, token: str, excluded: Iterable[str], *, hooks: str = "", examples: int = 5
) -> None:
    """Fail if a response is not as it is described.

    :param directory: for its files.
    :param excluded: patterns of paths that are left alone.
    :param hooks: more of the module with its hooks.
    :param examples: how many requests it makes up for each operation, besides those that cover its parameters.
    """
    (directory / "serve_hooks.py").write_text(_TAR + hooks)
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
            *("-H", f"Authorization: Bearer {token}"),
            *("--checks", ",".join(CHECKS)),
            *("--phases", "coverage,fuzzing", "--max-examples", str(examples), "--seed", "1"),
            *(word for pattern in excluded for word in ("--exclude-path-regex", pattern)),
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
    for phase in ("Coverage", "Fuzzing"):
        assert f"✅ {phase}" in done.stdout, done.stdout[-6000:] + done.stderr
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
