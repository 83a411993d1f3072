"""apt, pip, npm and git in a guest with only the rules that they need, against servers that the tests make."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.process import run
from tests.vm.network_world import PUBLIC, World, network_world

#: The tools are the host's, which a guest gets as a volume: an image with all of them would be large.
_TOOLS = [f"/usr/bin/{name}" for name in ("apt-get", "dpkg-deb", "python3", "npm", "git")]
pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes the networks around the host"),
    pytest.mark.skipif(
        not all(map(os.path.exists, _TOOLS)), reason=f"this host does not have all of {_TOOLS}"
    ),
]
PORT = 8000


@pytest.fixture(scope="module")
def world(guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with network_world(tmp_path_factory.mktemp("world")) as made:
        yield made


def make_debian_source(directory: Path) -> None:
    """A source with the package ``hello-apt``."""
    control = directory / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    fields = "Package: hello-apt\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: test\n"
    control.write_text(fields)
    (directory / "deb").mkdir()
    package = directory / "deb/hello-apt_1.0_all.deb"
    run(["dpkg-deb", "--build", "--root-owner-group", directory / "tree", package])
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    entry = f"{fields}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    (directory / "deb/Packages.gz").write_bytes(gzip.compress(entry.encode()))


def make_index(directory: Path) -> None:
    """An index with the package ``hello-pip``, whose files are on another server."""
    wheel = io.BytesIO()
    files = {
        "hello_pip.py": "print('from pip')\n",
        "hello_pip-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: hello-pip\nVersion: 1.0\n",
        "hello_pip-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr("hello_pip-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in files))
    name = "hello_pip-1.0-py3-none-any.whl"
    (directory / "files").mkdir()
    (directory / "files" / name).write_bytes(wheel.getvalue())
    page = directory / "simple/hello-pip/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<!DOCTYPE html><a href="http://files.test:{PORT}/files/{name}">{name}</a>')


def make_registry(directory: Path) -> None:
    """A registry with the package ``hello-npm``."""
    data = io.BytesIO()
    manifest = {"name": "hello-npm", "version": "1.0.0"}
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in (("package.json", json.dumps(manifest)), ("index.js", "console.log('from npm')\n")):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    (directory / "npm").mkdir()
    (directory / "files/hello-npm-1.0.0.tgz").write_bytes(data.getvalue())
    dist: dict[str, Any] = {
        "tarball": f"http://npm.test:{PORT}/files/hello-npm-1.0.0.tgz",
        "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode(),
    }
    document = {
        "name": "hello-npm",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {**manifest, "dist": dist}},
    }
    (directory / "npm/hello-npm").write_text(json.dumps(document))


def make_repository(directory: Path) -> None:
    work = directory / "work"
    git: list[str | Path] = ["git", "-C", work, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    run(["git", "init", "--quiet", work])
    (work / "hello").write_text("from git\n")
    run([*git, "add", "hello"])
    run([*git, "commit", "--quiet", "-m", "hello"])
    run(["git", "clone", "--quiet", "--bare", work, directory / "hello.git"])
    run(["git", "-C", directory / "hello.git", "update-server-info"])


#: What a chroot with the host's programs needs.
_CHROOT = """
cd /h; mkdir -p etc/apt/apt.conf.d etc/apt/preferences.d var/lib/apt/lists/partial var/lib/dpkg
mkdir -p var/cache/apt/archives/partial var/log/apt tmp root proc dev
for dir in bin sbin lib lib64; do ln -s usr/$dir $dir; done
cp /etc/resolv.conf etc/; echo root:x:0:0::/root:/bin/sh > etc/passwd; touch var/lib/dpkg/status
mount -t proc proc proc; mount -o bind /dev dev
"""


@pytest.fixture(scope="module")
def tools(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox with the host's tools in ``/h``, and rules for the servers that the host's tools are configured for."""
    served = tmp_path_factory.mktemp("served")
    for make in (make_debian_source, make_index, make_registry, make_repository):
        make(served)
    world.serve_files(served, PUBLIC, PORT)
    own = tmp_path_factory.mktemp("host")
    (own / "sources.list").write_text(f"deb [trusted=yes] http://deb.test:{PORT}/deb ./\n")
    (own / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{own}/sources.list"; Dir::Etc::sourceparts "/dev/null";\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APT_CONFIG", str(own / "apt.conf"))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("PIP_INDEX_URL", f"http://index.test:{PORT}/simple")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
            patch.delenv(name, raising=False)
        patch.setenv("NPM_CONFIG_REGISTRY", f"http://npm.test:{PORT}/npm/")
        rules = ("packages", f"files.test:{PORT}", f"git.test:{PORT}/tcp")
        world.ballonet(
            *("run", "-d", "--name", "tools", "-m", "1G", "-v", "/usr:/h/usr:ro"),
            *("-v", f"{sysconfig.get_paths()['purelib']}:/h/site:ro"),
            *(word for rule in rules for word in ("--net-allow", rule)),
            "--idle",
        )
    world.guest("tools", _CHROOT)
    yield "tools"
    world.ballonet("rm", "--force", "tools")


def chrooted(world: World, script: str) -> str:
    return world.guest("tools", f"export HOME=/root; exec chroot /h /bin/sh -ec '{script}'")


def test_the_preset_has_the_servers_that_the_host_is_configured_for(world: World, tools: str) -> None:
    allowed: Any = world.inspect(tools)["running"]["net_allow"]  # type: ignore[index]
    servers = {rule["host"] for rule in allowed}
    assert {"deb.test", "index.test", "npm.test"} <= servers
    refused = world.guest(tools, f"echo hello | nc -w 5 {PUBLIC} 80", check=False)
    assert "Connection refused" in refused


def test_apt_gets_a_package(world: World, tools: str) -> None:
    world.guest(tools, f"echo 'deb [trusted=yes] http://deb.test:{PORT}/deb ./' > /h/etc/apt/sources.list")
    apt = "apt-get -o APT::Sandbox::User=root"
    said = chrooted(world, f"{apt} update; {apt} install --yes --download-only hello-apt")
    assert "hello-apt" in said
    assert chrooted(world, "dpkg-deb -f /var/cache/apt/archives/hello-apt_1.0_all.deb Version") == "1.0\n"


def test_pip_installs_from_an_index_and_its_file_server(world: World, tools: str) -> None:
    index = f"--index-url http://index.test:{PORT}/simple --trusted-host index.test --trusted-host files.test"
    environment = "export PYTHONPATH=/site PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1;"
    chrooted(world, f"{environment} python3 -m pip install --quiet --target /tmp/pip {index} hello-pip")
    assert chrooted(world, "PYTHONPATH=/tmp/pip python3 -m hello_pip") == "from pip\n"


def test_npm_installs_from_a_registry(world: World, tools: str) -> None:
    npm = f"npm --registry http://npm.test:{PORT}/npm/ --no-audit --no-fund --no-update-notifier"
    chrooted(world, f"mkdir /tmp/npm; cd /tmp/npm; {npm} install hello-npm")
    assert chrooted(world, "cd /tmp/npm; node node_modules/hello-npm/index.js") == "from npm\n"


def test_git_clones_over_http(world: World, tools: str) -> None:
    chrooted(world, f"git clone --quiet http://git.test:{PORT}/hello.git /tmp/git")
    assert world.guest(tools, "cat /h/tmp/git/hello") == "from git\n"
    refused = world.guest(
        tools, "chroot /h /usr/bin/git clone http://allowed.test/hello.git /tmp/no", check=False
    )
    assert "Could not resolve host" in refused
