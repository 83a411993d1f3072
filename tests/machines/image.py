"""What an outer machine is made from: its image and the Python packages for its tests, kept in the cache.

Both are named by a digest of what goes into them, so that a change makes them anew and nothing else does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ballonet.base.errors import UnknownImageError
from ballonet.base.paths import cache_dir, exclusive, private_dir
from ballonet.images.debian_root import _sources
from ballonet.images.store import ImageStore
from tests.machines.catalogue import ROOT, Machine

#: Increase it when the same recipe is to give another image.
_VERSION = 1
_BUILD_S = 1200
#: What the tests inside import. Their versions are those of constraints.txt.
_PYTHON_PACKAGES = (
    *("argcomplete", "lz4", "qemu.qmp", "zstandard"),
    *("hypothesis", "pytest", "pytest-asyncio", "pytest-timeout"),
)


def data_home() -> Path:
    """Where the images of tests are kept between runs (``XDG_DATA_HOME``)."""
    return cache_dir() / "test-data"


def obtain_image(machine: Machine) -> str:
    """The reference of the machine's image, which is built if the cache does not have it.

    :raises CalledProcessError: it cannot be built; ``stderr`` says why.
    """
    repository = f"ballonet-machine/{machine.name}"
    sources = {Path(path).name: text for path, text in sources_of(machine.suite).items()}
    recipe = [_VERSION, machine.suite, sorted(machine.packages), sources]
    reference = f"{repository}:{digest(recipe)}"
    with exclusive(cache_dir() / "test-data.lock"):
        store = ImageStore.open()
        try:
            store.find(reference)
        except UnknownImageError:
            words = ["image", "build-debian", "--suite", machine.suite, "--tag", reference]
            words += ["--include", ",".join(machine.packages)]
            run([sys.executable, "-P", "-m", "ballonet", *words])
            old = [name for image in store.list() for name in image.names if f"{repository}:" in name]
            for name in old:
                if not name.endswith(reference):
                    run([sys.executable, "-P", "-m", "ballonet", "image", "rm", name])
    return reference


def obtain_python_packages(machine: Machine) -> Path:
    """A directory with the Python packages for the tests inside, for the machine's version of Python.

    :raises CalledProcessError: pip failed; ``stderr`` says why.
    """
    constraints = ROOT / "constraints.txt"
    recipe = [_VERSION, machine.python, _PYTHON_PACKAGES, constraints.read_text()]
    places = private_dir(cache_dir() / "machines")
    final = places / f"python{machine.python}-{digest(recipe)}"
    with exclusive(places / "lock"):
        if not final.is_dir():
            for old in places.glob(f"python{machine.python}-*"):
                shutil.rmtree(old)
            making = places / f"python{machine.python}-making"
            argv = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(making)]
            argv += ["--python-version", machine.python, "--only-binary=:all:", "-c", str(constraints)]
            run([*argv, *_PYTHON_PACKAGES])
            making.rename(final)
    return final


def sources_of(suite: str) -> dict[str, str]:
    """The host's package sources for a Debian release: the content of each file by its path."""
    return {path: Path(path).read_text() for path in _sources(suite)}


def digest(recipe: object) -> str:
    """A name for what is made by that recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def run(argv: list[str]) -> None:
    """Run a program that fetches or unpacks packages.

    :raises CalledProcessError: it failed; ``stderr`` says why.
    """
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=_BUILD_S, env=os.environ.copy())
