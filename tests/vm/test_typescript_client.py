"""The TypeScript client with a real server and real sandboxes: it is built, and its tests and examples run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ballonet.base.paths import cache_dir, exclusive
from ballonet.serve.operations import OPENAPI_FILE
from tests.node import node_environment
from tests.serve_client import ServerProcess, new_token

pytestmark = pytest.mark.extended

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
EXAMPLES = {
    "quickstart": r"Linux\nhello\ntarget 192 MiB: settled\n",
    "output": r"(stdout: 1\n)(stdout: )?2\n(stdout: )?3\nstatus 3\n",
    "terminal": r"[^$]*30 90\n[^$]*status 6\n",
    "watch": r"(target \d+ MiB\n)*target 200 MiB\n",
}


def run(words: list[str], directory: Path, environment: dict[str, str], timeout_s: float = 280) -> str:
    try:
        done = subprocess.run(
            words,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{words} did not end:\n{error.stdout!r}\n{error.stderr!r}") from None
    assert done.returncode == 0, f"{words}:\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return node_environment(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def package(node: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that is built. What it needs of npm is installed once, in the cache."""
    wanted = (CLIENT / "package.json").read_bytes()
    installed = cache_dir() / f"test-npm-{hashlib.sha256(wanted).hexdigest()[:16]}"
    with exclusive(cache_dir() / "test-npm.lock"):
        if not (installed / "done").exists():
            shutil.rmtree(installed, ignore_errors=True)
            installed.mkdir(parents=True)
            for name in ("package.json", ".npmrc"):
                shutil.copy(CLIENT / name, installed)
            words = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=6"]
            run(["npm", "install", *words, "--maxsockets=4"], installed, node, 900)
            (installed / "done").touch()
    # The layout of the repository: the build reads the OpenAPI document.
    root = tmp_path_factory.mktemp("typescript")
    copy = root / "clients" / "typescript"
    left_out = shutil.ignore_patterns("node_modules", "dist", "build", "generated")
    shutil.copytree(CLIENT, copy, ignore=left_out)
    document = root / "src" / "ballonet" / "serve" / OPENAPI_FILE.name
    document.parent.mkdir(parents=True)
    shutil.copy(OPENAPI_FILE, document)
    (copy / "node_modules").symlink_to(installed / "node_modules")
    run(["npm", "run", "build"], copy, node)
    run(["npm", "run", "examples"], copy, node)
    return copy


@pytest.fixture(scope="module")
def connected(node: dict[str, str], server: ServerProcess) -> dict[str, str]:
    return {
        **node,
        "BALLONET_SOCKET": str(server.socket),
        "BALLONET_URL": server.address,
        "BALLONET_TOKEN": new_token("--scope", "use"),
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_client_does_what_its_own_tests_say(package: Path, connected: dict[str, str]) -> None:
    words = ["node", "--test", "--test-reporter=spec", "build/test/client.test.js"]
    said = run(words, package, connected, 1200)
    assert re.search(r"fail 0\b", said) and not re.search(r"(pass|tests) 0\b", said), said


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_does_what_it_says(package: Path, connected: dict[str, str], name: str) -> None:
    said = run(["node", f"build/examples/{name}.js"], package, connected)
    assert re.fullmatch(EXAMPLES[name], said), said


def test_each_example_runs_and_the_readme_has_only_examples(package: Path) -> None:
    found = {path.stem: path.read_text() for path in (CLIENT / "examples").glob("*.ts")}
    assert found.keys() - {"connection"} == EXAMPLES.keys()
    blocks = re.findall(r"```ts\n(.*?)```", (CLIENT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        assert any(
            "\n".join(lines) in "\n".join(line.strip() for line in text.splitlines() if line.strip())
            for text in found.values()
        ), f"no example has this:\n{block}"


def test_only_the_part_for_node_uses_what_browsers_do_not_have(package: Path, node: dict[str, str]) -> None:
    """The package has its declarations, and only ballonet/node uses what browsers do not have."""
    packed = json.loads(run(["npm", "pack", "--dry-run", "--json", "--ignore-scripts"], package, node))
    files = {each["path"] for each in packed[0]["files"]}
    assert {"README.md", "package.json", "dist/index.js", "dist/index.d.ts", "dist/node.js"} <= files
    assert not [path for path in files if path.startswith(("src/", "test/", "examples/", "build/"))]
    for path in (package / "dist").rglob("*.js"):
        uses = re.search(r"from \"(node:|undici)|\bprocess\.|\bBuffer\b|\brequire\(", path.read_text())
        assert bool(uses) == (path.name == "node.js"), path.name
