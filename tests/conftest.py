"""For all tests: signals mean to us, and to the programs that we start, what they mean to a person at a terminal; and
no test asserts a time, Hypothesis's deadline included."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest
from build_tools.generate import MODULES
from build_tools.python_source import file_of

SRC = Path(__file__).parents[1] / "src"

hypothesis.settings.register_profile("any machine, however busy", deadline=None)
hypothesis.settings.load_profile("any machine, however busy")


#: Files whose tests take minutes. They begin first, so that no worker is left with one when the others have ended.
LONGEST = ("test_chaos.py", "test_serve_schema.py", "test_pool.py", "test_package_tools.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_configure() -> None:
    """Say which generated modules are missing, and let signals have their usual meaning."""
    if missing := [module for module in MODULES if not file_of(SRC, module).is_file()]:
        raise pytest.UsageError(f"{', '.join(missing)}: not generated yet; run python hatch_build.py")
    _restore_signals()
    os.environ["BALLONET_CONFIG"] = ""  # not that of the user who runs the tests


def _restore_signals() -> None:
    """Whoever started us in the background may have had these ignored, and programs inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
