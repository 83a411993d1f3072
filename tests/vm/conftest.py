"""Real virtual machines, shared where tests do not disturb each other."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from ballonet.base.errors import UnknownImageError
from ballonet.base.paths import cache_dir, exclusive
from ballonet.control.client import Client
from ballonet.guest.bundle import GuestBundle, prepare_guest
from ballonet.images.store import ImageStore
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig

if TYPE_CHECKING:
    from tests.serve_client import ServerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here boots VMs, and async tests share one loop with the VMs' fixtures."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if inspect.iscoroutinefunction(getattr(item, "function", None)):
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def guest() -> GuestBundle:
    return prepare_guest()


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory of the tests' own; empty again when they have passed."""
    directory = tmp_path_factory.mktemp("run")
    os.environ["BALLONET_RUN_DIR"] = str(directory)
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    # Images are kept between runs: a Debian root takes half a minute to build.
    os.environ["XDG_DATA_HOME"] = str(cache_dir() / "test-data")
    yield directory
    del os.environ["BALLONET_RUN_DIR"], os.environ["XDG_STATE_HOME"], os.environ["XDG_DATA_HOME"]
    assert list(directory.iterdir()) == []


@pytest.fixture(scope="session")
def debian_image(run_directory: Path) -> str:
    """An image of a real Debian with Python and pip."""
    name = "ballonet-test/debian-python:1"
    with exclusive(cache_dir() / "test-data.lock"):
        try:
            ImageStore.open().find(name)
        except UnknownImageError:
            words = ["image", "build-debian", "--tag", name, "--include", "python3,python3-pip"]
            subprocess.run([sys.executable, "-P", "-m", "ballonet", *words], check=True, timeout=280)
    return name


@pytest.fixture(scope="session")
def code_image(run_directory: Path) -> str:
    """An image for code sessions: Debian with Python, IPython and matplotlib."""
    name = "ballonet-test/debian-code:1"
    with exclusive(cache_dir() / "test-data.lock"):
        try:
            ImageStore.open().find(name)
        except UnknownImageError:
            words = ["image", "build-debian", "--tag", name, "--with", "code"]
            subprocess.run([sys.executable, "-P", "-m", "ballonet", *words], check=True, timeout=850)
    return name


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sandbox(guest: GuestBundle, run_directory: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of 1024 / 512 / 256 MiB for all tests of a file that leave it usable."""
    config = SandboxConfig(name="shared", memory_mib=1024, balloon_initial_mib=512, balloon_min_mib=256)
    async with await Sandbox.create(config) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    """A client of the shared sandbox's control socket; the target is back at the ceiling before each test."""
    assert sandbox.control_socket is not None
    async with await Client.connect(sandbox.control_socket) as connected:
        reply = await connected.set(1024, wait=True, timeout_s=120)
        assert reply.state == "applied"
        yield connected


@pytest.fixture(scope="module")
def server(
    guest: object, run_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """``ballonet serve`` for all tests of a file."""
    from tests.serve_client import ServerProcess  # not at once: outer machines have no httpx

    with ServerProcess(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture
def ballonet(guest: GuestBundle, run_directory: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line, and return what it did. Nothing may be left behind when it ends."""

    def call(*words: str, stdin: str = "", timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        before = sorted(run_directory.rglob("*"))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ballonet", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert sorted(run_directory.rglob("*")) == before
        return done

    return call
