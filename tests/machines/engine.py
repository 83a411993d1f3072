"""QEMU of another Debian release, to run on this host: unpacked into the cache, with its own libraries, not installed.

``python -m tests.machines.engine SUITE`` prints the path of the program, which is a value for ``BALLONET_QEMU``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from ballonet.base.paths import cache_dir, exclusive, private_dir
from tests.machines.image import digest, run, sources_of

#: Increase it when the same packages are to give another directory.
_VERSION = 1
_PROGRAM = "usr/bin/qemu-system-x86_64"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_FIRMWARE = ("usr/share/qemu", "usr/share/seabios")
_PATCHELF = "usr/bin/patchelf"
#: Where QEMU looks for its modules: compiled in, and this host's own QEMU has its modules there. A module of another
#: build ends the program.
_MODULES = b"\0/usr/lib/x86_64-linux-gnu/qemu\0"


def obtain_engine(suite: str) -> Path:
    """The program of that release's QEMU, which is fetched if the cache does not have it.

    :raises CalledProcessError: its packages cannot be fetched; ``stderr`` says why.
    """
    recipe = [_VERSION, suite, sources_of(suite)]
    places = private_dir(cache_dir() / "machines")
    final = places / f"qemu-{suite}-{digest(recipe)}"
    with exclusive(places / "lock"):
        if not final.is_dir():
            for old in places.glob(f"qemu-{suite}-*"):
                shutil.rmtree(old)
            making = places / f"qemu-{suite}-making"
            making.mkdir()
            _unpack(suite, making)
            _make_runnable(making, final)
            making.rename(final)
    return final / "qemu"


def _unpack(suite: str, to: Path) -> None:
    archive = to / "root.tar"
    argv = ["mmdebstrap", "--variant=extract", "--mode=chrootless", "--format=tar"]
    argv += ["--include=qemu-system-x86,patchelf", suite, str(archive)]
    run([*argv, *sources_of(suite)])
    wanted = [f"./{name}" for name in (_PROGRAM, _LIBRARIES, _PATCHELF, *_FIRMWARE)]
    run(["tar", "-x", "--no-same-owner", "-f", str(archive), "-C", str(to), *wanted])
    archive.unlink()


def _make_runnable(root: Path, final: Path) -> None:
    """Make the program, which is in ``root`` now, use what will be in ``final``, and nothing of this host."""
    program, loader, libraries = root / _PROGRAM, root / _LOADER, root / _LIBRARIES
    argv = [str(loader), "--library-path", str(libraries), str(root / _PATCHELF)]
    argv += [
        "--set-interpreter",
        str(final / _LOADER),
        "--force-rpath",
        "--set-rpath",
        str(final / _LIBRARIES),
    ]
    run([*argv, str(program)])
    code = program.read_bytes()
    program.write_bytes(code.replace(_MODULES, b"\0/nonexistent".ljust(len(_MODULES), b"\0")))
    words = [str(final / _PROGRAM)]
    for directory in _FIRMWARE:
        words += ["-L", str(final / directory)]
    script = root / "qemu"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.machines.engine", description=__doc__)
    parser.add_argument("suite", help="a Debian release, for example trixie")
    suite = parser.parse_args().suite
    try:
        print(obtain_engine(suite))
    except subprocess.CalledProcessError as error:
        parser.exit(1, f"{error}\n{error.stderr}{os.linesep}")


if __name__ == "__main__":
    main()
