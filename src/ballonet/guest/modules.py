"""Kernel modules on the host: the files that a list of module names needs, in load order, and their contents.

Reads the files of kmod's ``depmod`` (modules.dep(5)) and of the kernel's build (``modules.builtin``,
Documentation/kbuild/kbuild.rst). In a tree without ``modules.dep``, such as a package that was unpacked but not
installed, dependencies are read from each module (its ``.modinfo`` section).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError, os_hint
from ballonet.base.missing_modules import missing_module
from ballonet.guest.elf import Elf

_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")

#: The index files that determine the result of :meth:`ModuleTree.resolve`.
INDEX_FILES = ("modules.dep", "modules.builtin")


@dataclass(frozen=True)
class Module:
    """One module file. ``relative`` is its path below ``/lib/modules/RELEASE`` in the guest, uncompressed."""

    name: str
    path: Path
    relative: str


def canonical(name: str) -> str:
    """The canonical spelling of a module's name: for the kernel, ``-`` and ``_`` are the same."""
    return name.replace("-", "_")


class ModuleTree:
    """The modules of one kernel release.

    :param directory: the release's directory, such as ``/lib/modules/6.12.9-cloud-amd64``.
    :raises HostError: the directory cannot be read, or has no list of built-in modules.
    """

    def __init__(self, directory: Path, release: str) -> None:
        self._directory = directory
        self._release = release
        self._builtin = {_module_name(line) for line in self._lines("modules.builtin")}
        self._dependencies: dict[str, list[str]] | None = None
        self._files: dict[str, str] = {}
        if (directory / "modules.dep").exists():
            self._dependencies = {}
            for line in self._lines("modules.dep"):
                path, _, needed = line.partition(":")
                self._files[_module_name(path)] = path
                # modules.dep(5) lists them in reverse order: the last one must be loaded first.
                self._dependencies[_module_name(path)] = [
                    _module_name(word) for word in reversed(needed.split())
                ]
        else:
            self._files = {_module_name(path): path for path in _walk(directory)}

    def resolve(self, names: Iterable[str]) -> list[Module]:
        """The modules to load for ``names``: dependencies first, each once, without built-in ones.

        :raises HostError: the kernel has no module with one of the names.
        """
        ordered: list[Module] = []
        begun = set(self._builtin)  # also breaks cycles, which only damaged data has
        for name in names:
            self._add(canonical(name), None, begun, ordered)
        return ordered

    def _add(self, name: str, wanted_by: str | None, begun: set[str], ordered: list[Module]) -> None:
        if name in begun:
            return
        begun.add(name)
        relative = self._files.get(name)
        if relative is None:
            why = f", which {wanted_by} depends on" if wanted_by else ""
            raise HostError(
                f"kernel {self._release} has no module {name}{why} (searched {self._directory})",
                hint="use another kernel, or install the package with the modules of this kernel",
            )
        path = self._directory / relative
        for dependency in self._dependencies_of(name, path):
            self._add(dependency, name, begun, ordered)
        plain = relative[: relative.index(".ko") + 3]
        if plain.startswith("/") or ".." in PurePosixPath(plain).parts:
            plain = f"external/{name}.ko"  # an absolute path, from an old version of depmod
        ordered.append(Module(name, path, plain))

    def _dependencies_of(self, name: str, path: Path) -> list[str]:
        if self._dependencies is not None:
            return self._dependencies[name]
        information = Elf(read_module(path), str(path)).section(".modinfo") or b""
        for entry in information.split(b"\0"):
            key, _, value = entry.partition(b"=")
            if key == b"depends":
                return [canonical(word) for word in value.decode("ascii", "replace").split(",") if word]
        return []

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._directory / name).read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise HostError(
                f"the modules of kernel {self._release} cannot be listed: {self._directory / name}: {error.strerror}",
                hint=os_hint(error, self._directory),
            ) from error


def read_module(path: Path) -> bytes:
    """The content of a module file, uncompressed (``.ko``, ``.ko.xz``, ``.ko.gz``, ``.ko.zst``).

    :raises HostError: it cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HostError(
            f"module {path} cannot be read: {error.strerror}", hint=os_hint(error, path)
        ) from error
    try:
        return _decompress(content, path.suffix)
    except ImportError as error:
        raise missing_module(error, f"module {path} cannot be unpacked") from error
    except Exception as error:  # each library has its own error class, and is imported only when it is used
        raise HostError(f"module {path} is damaged: {error}") from error


def _decompress(content: bytes, suffix: str) -> bytes:
    if suffix == ".xz":
        import lzma

        return lzma.decompress(content, lzma.FORMAT_XZ)
    if suffix == ".gz":
        import gzip

        return gzip.decompress(content)
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content


def _walk(directory: Path) -> Iterable[str]:
    for parent, _, names in os.walk(directory):
        for name in names:
            if name.endswith(_SUFFIXES):
                yield os.path.relpath(os.path.join(parent, name), directory)  # noqa: PTH118 # hundreds of them


def _module_name(path: str) -> str:
    return canonical(path.rpartition("/")[2].partition(".ko")[0])
