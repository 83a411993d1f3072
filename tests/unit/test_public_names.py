"""What a program imports from ballonet: there, documented, and loaded only when it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import ballonet


@pytest.mark.parametrize("name", sorted(set(ballonet.__all__) - {"__version__"}))
def test_what_a_program_holds_is_exported(name: str) -> None:
    found = getattr(ballonet, name)
    assert found.__doc__
    assert name in dir(ballonet)


def test_the_two_faces_are_told_apart() -> None:
    from ballonet import AsyncSandbox, Sandbox
    from ballonet.sandbox import Sandbox as OfAsyncio
    from ballonet.sync import Sandbox as Without

    assert (Sandbox, AsyncSandbox) == (Without, OfAsyncio)


@pytest.mark.parametrize(
    ("public", "name", "place"),
    [
        ("ballonet.errors", "BallonetError", "ballonet.base.errors"),
        ("ballonet.errors", "CommandTimeoutError", "ballonet.base.errors"),
        ("ballonet.sandbox", "Balloon", "ballonet.sdk.sandbox"),
        ("ballonet.sandbox", "ExecResult", "ballonet.sdk.sandbox"),
        ("ballonet.sync", "Sandbox", "ballonet.sdk.sync"),
        ("ballonet.builder", "SandboxBuilder", "ballonet.sdk.builder"),
        ("ballonet.config", "SandboxConfig", "ballonet.settings.config"),
    ],
)
def test_public_modules_have_what_their_places_have(public: str, name: str, place: str) -> None:
    assert getattr(importlib.import_module(public), name) is getattr(importlib.import_module(place), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Sandbux'"):
        ballonet.Sandbux  # noqa: B018  # asked for by its name


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, ballonet; print(*sorted(name for name in sys.modules if name.startswith('ballonet')))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ballonet", "ballonet.version"]
