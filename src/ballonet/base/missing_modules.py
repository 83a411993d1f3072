"""Errors for Python modules that are not installed, with the package or the extra of ballonet that has them."""

from __future__ import annotations

import sys
from pathlib import Path

from ballonet.base.errors import HostError

#: PyPI names of Python modules, where the two differ.
_PACKAGES = {"qemu": "qemu.qmp", "prometheus_client": "prometheus-client"}
#: Debian's packages of modules, where those of every supported release will do.
_DEBIAN_PACKAGES = {"lz4": "python3-lz4", "zstandard": "python3-zstandard"}
#: The extras that bring a module, each with all that its commands need.
_EXTRAS = {
    "matplotlib": "plot",
    "mcp": "mcp",
    "mcp_types": "mcp",
    "msgspec": "serve",
    "numpy": "cluster",
    "prometheus_client": "metrics",
    "ray": "cluster",
    "starlette": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
}


def require_module(name: str, what: str) -> None:
    """Check that a module is installed, without loading it.

    :param what: what cannot be done without it, as a clause.
    :raises HostError: it is not.
    """
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise missing_module(ModuleNotFoundError(f"No module named {name!r}", name=name), what)


def missing_module(error: ImportError, what: str) -> HostError:
    """The error for a Python module that is missing.

    :param what: what cannot be done without it, as a clause.
    """
    name = (error.name or "").partition(".")[0]
    if name in sys.stdlib_module_names:
        return HostError(
            f"{what}: this Python was built without its module {name}", hint="use another Python"
        )
    package = _PACKAGES.get(name, name)
    return HostError(
        f"{what}: the Python package {package} is not installed, or its installation is broken ({error})",
        hint=_install_hint(name, package),
    )


def _install_hint(name: str, package: str) -> str:
    import sysconfig

    # pip refuses to install into a Python that belongs to the distribution (PEP 668).
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix != sys.base_prefix or not marker.exists():
        wanted = f"'ballonet[{_EXTRAS[name]}]'" if name in _EXTRAS else package
        return f"pip install {wanted}, into the environment of {sys.executable}"
    if name in _DEBIAN_PACKAGES:
        return f"apt-get install {_DEBIAN_PACKAGES[name]}"
    return f"install ballonet into a virtual environment: {sys.executable} does not take pip's packages"
