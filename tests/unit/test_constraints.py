"""The versions of packages that ``constraints.txt`` pins."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

PINS = Path(__file__).parents[2] / "constraints.txt"
#: The Python of Debian 12, on which a fresh clone has to set itself up.
DEBIAN_12 = "3.11.2"


def _key(name: str) -> str:
    """The name in the form in which names are compared (Python packaging: name normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_pinned_is_installed_and_runs_on_the_python_of_debian_12() -> None:
    pins = dict(line.split("==") for line in PINS.read_text().split())
    pinned = {_key(name): version for name, version in pins.items()}
    installed = {_key(found.name): found for found in distributions()}
    others = {
        name: found.metadata["Requires-Python"]
        for name, found in installed.items()
        if name in pinned and DEBIAN_12 not in SpecifierSet(found.metadata["Requires-Python"] or "")
    }
    assert others == {}, f"these versions do not install on Python {DEBIAN_12}"
    for name, found in installed.items():
        assert found.version == pinned.get(name, found.version), f"{name} is not the version that is pinned"
