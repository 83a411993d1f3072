"""The page of the HTTP server: its files as they are served, its pure modules, and how its libraries are fetched."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from build_tools import page_files as fetched

from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import create
from ballonet.pilot import lock
from ballonet.pilot.journal import Journal
from ballonet.serve import page_files
from ballonet.serve.app import application
from ballonet.serve.gate import Counter, Gate
from ballonet.serve.services import Limits, Services
from ballonet.settings.config import SandboxConfig

PAGE = page_files.DIRECTORY
ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    services = Services(tmp_path, Limits())
    gate = Gate(application(services), Counter(9), None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://x") as client:
        yield client
    await services.close()


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page with libraries, whether they are built or not."""
    place = tmp_path / "page"
    shutil.copytree(PAGE, place, ignore=shutil.ignore_patterns("vendor"))
    (place / "vendor").mkdir()
    for name in page_files.LIBRARIES:
        (place / "vendor" / name).write_text("// a library")
    monkeypatch.setattr(page_files, "DIRECTORY", place)


@pytest.mark.usefixtures("libraries")
async def test_the_page_is_served_with_a_strict_policy(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"]) == ("'none'", "'self'")
    assert policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert page.headers["x-frame-options"] == "DENY" and page.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in page.headers
    again = await http.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await http.head("/")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", page.headers["etag"])


@pytest.mark.usefixtures("libraries")
async def test_everything_that_the_page_names_is_served(http: httpx.AsyncClient) -> None:
    names = re.findall(r'(?:href|src)="(page/[^"]+)"', (PAGE / "index.html").read_text())
    for module in PAGE.glob("*.js"):
        names += [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', module.read_text())]
    assert "page/main.js" in names and "page/vendor/xterm.js" in names
    for name in set(names):
        found = await http.get(f"/{name}")
        expected = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[Path(name).suffix]
        assert found.status_code == 200 and found.headers["content-type"].startswith(expected), name


async def test_other_files_are_not_served(http: httpx.AsyncClient) -> None:
    for path in (
        "../app.py",
        "vendor/../../app.py",
        "vendor/VERSIONS",
        ".hidden.js",
        "x\0.js",
        "vendor/",
        "",
    ):
        assert page_files.read_file(path) is None, path
    for address in ("/page/", "/page/..%2fapp.py", "/page/nothing.js", "/page/vendor/VERSIONS"):
        found = await http.get(address)
        assert (found.status_code, found.json()["code"]) == (404, "not-found"), address
    assert (await http.post("/")).status_code == 405


async def test_missing_libraries_are_told_and_the_rest_works(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_files, "DIRECTORY", tmp_path)
    page = await http.get("/")
    assert page.status_code == 503
    assert "python hatch_build.py" in page.text and "uplot.js" in page.text
    assert (await http.get("/v1/health")).json() == {"status": "ok"}


async def test_decisions_of_the_autopilot_are_read(
    http: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Registry.open() as registry:
        create(registry, SandboxConfig(name="box", memory_mib=160))
    assert (await http.get("/v1/sandboxes/box/decisions")).json() == []
    entry = {"sandbox": "box", "target_mib": 128, "old_mib": 160, "reason": "idle", "inputs": {"a": 1}}
    journal = Journal(lock.pilot_dir())
    for at in (1.0, 2.0):
        journal.add(at, [entry, {**entry, "sandbox": "other"}])
    found = (await http.get("/v1/sandboxes/box/decisions")).json()
    assert found == [{"at": at, **entry} for at in (1.0, 2.0)]
    assert (await http.get("/v1/sandboxes/box/decisions?last=1")).json() == found[1:]
    assert (await http.get("/v1/sandboxes/box/decisions?last=0")).status_code == 400
    assert (await http.get("/v1/sandboxes/nobody/decisions")).status_code == 404
    status = {"running": False, "policy": None, "paused_since": None, "last": None}
    assert (await http.get("/v1/autopilot")).json() == status
    with lock.PilotLock.acquire("ballonet"):
        assert (await http.get("/v1/autopilot")).json() == {**status, "running": True, "policy": "ballonet"}


def test_the_page_names_no_other_server_and_has_no_inline_script() -> None:
    for path in PAGE.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text()
            assert len(text.splitlines()) <= 400, path
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), (
                path
            )
    index = (PAGE / "index.html").read_text()
    assert re.findall(r"<script[^>]*></script>", index) == [
        '<script type="module" src="page/main.js"></script>'
    ]
    assert not re.search(r"<script[^>]*>[^<]|<style|\son\w+=|\sstyle=", index)


def test_the_pages_libraries_are_those_that_the_build_fetches() -> None:
    names = {name for package in fetched.PACKAGES for name in package.files.values()}
    assert set(page_files.LIBRARIES) <= names
    assert ROOT / fetched.PAGE_FILES == PAGE / "vendor"


def node() -> str | None:
    """Node.js: of the system, or of the Python package."""
    npm = fetched.find_npm()
    return shutil.which("node") or (npm[0] if npm is not None and len(npm) > 1 else None)


@pytest.mark.skipif(node() is None, reason=f"there is no Node.js: pip install '{fetched.NPM_PACKAGE}'")
def test_the_pages_pure_modules() -> None:
    program = node()
    assert program is not None
    script = Path(__file__).with_name("page_modules.mjs")
    done = subprocess.run([program, script, PAGE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all passed\n"), done.stderr


# How the libraries are fetched.


@pytest.fixture
def package(tmp_path: Path) -> fetched.Package:
    """A package with one file, in an archive that :func:`npm` copies."""
    (tmp_path / "lib.js").write_text("export {};")
    with tarfile.open(tmp_path / "lib.tgz", "w:gz") as archive:
        archive.add(tmp_path / "lib.js", "package/dist/lib.js")
    digest = hashlib.sha512((tmp_path / "lib.tgz").read_bytes()).hexdigest()
    return fetched.Package("lib", "1.0.0", digest, {"dist/lib.js": "lib.js"})


def npm(tmp_path: Path, script: str | None = None) -> list[str]:
    """A program in the place of npm: it notes its arguments, and gives the archive."""
    copy = "shutil.copy(here / 'lib.tgz', sys.argv[sys.argv.index('--pack-destination') + 1])"
    lines = [
        "import json, pathlib, shutil, sys",
        "here = pathlib.Path(__file__).parent",
        "(here / 'calls').open('a').write(json.dumps(sys.argv[1:]) + '\\n')",
        copy if script is None else script,
    ]
    (tmp_path / "npm.py").write_text("\n".join(lines))
    return [sys.executable, str(tmp_path / "npm.py")]


def test_a_package_is_fetched_once_and_a_lost_file_again(tmp_path: Path, package: fetched.Package) -> None:
    place = tmp_path / "vendor"
    for _ in range(2):
        assert fetched.fetch(place, [package], npm(tmp_path)) == [place / "lib.js"]
    (call,) = (tmp_path / "calls").read_text().splitlines()
    words = json.loads(call)
    assert (words[0], words[-1]) == ("pack", "lib@1.0.0") and "--ignore-scripts" in words
    assert (place / "lib.js").read_text() == "export {};"
    (place / "lib.js").unlink()
    fetched.fetch(place, [package], npm(tmp_path))
    assert (place / "lib.js").is_file()
    newer = package._replace(version="1.0.1")
    assert not fetched.is_current(place, [newer])


def test_a_package_with_another_content_is_refused(tmp_path: Path, package: fetched.Package) -> None:
    wrong = package._replace(sha512="0" * 128)
    with pytest.raises(
        fetched.PageFilesError, match=r"lib@1.0.0 is not the expected package: its SHA-512 is"
    ):
        fetched.fetch(tmp_path / "vendor", [wrong], npm(tmp_path))
    assert not (tmp_path / "vendor").exists()


def test_what_npm_says_is_told(tmp_path: Path, package: fetched.Package) -> None:
    failing = npm(tmp_path, "sys.exit('no network')")
    with pytest.raises(fetched.PageFilesError, match=r"(?s)BALLONET_WITHOUT_PAGE=1.*no network"):
        fetched.fetch(tmp_path / "vendor", [package], failing)
    with pytest.raises(fetched.PageFilesError, match="cannot be run: No such file"):
        fetched.fetch(tmp_path / "vendor", [package], [str(tmp_path / "absent")])


def test_without_npm_it_is_said_what_to_install(
    tmp_path: Path, package: fetched.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "find_npm", lambda: None)
    with pytest.raises(fetched.PageFilesError, match=r"npm is needed to fetch lib: install npm"):
        fetched.fetch(tmp_path / "vendor", [package])
