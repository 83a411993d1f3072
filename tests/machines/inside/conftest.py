"""Inside a machine: the fixtures of the VM tests."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tests.vm.conftest import ballonet, guest, run_directory

__all__ = ["ballonet", "guest", "run_directory"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Async tests share one loop with the VMs' fixtures."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and inspect.iscoroutinefunction(getattr(item, "function", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
