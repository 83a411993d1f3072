"""Every test here pulls from a real registry on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.images.store import ImageStore
from tests.registry.server import Registry
from tests.unit.oci import Layout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.registry)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    if shutil.which("apt-get") is None:
        pytest.skip("the registry comes from a Debian package, and there is no apt")
    (tmp_path / "registry").mkdir()
    running = Registry(tmp_path / "registry")
    yield running
    running.stop()


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")
