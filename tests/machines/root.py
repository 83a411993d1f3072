"""A Debian root of its own on this host, as a machine for tests: what an emulated guest would need hours for.

It has its own files, users, processes and mounts; its kernel, devices and network are this host's.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from os import geteuid
from pathlib import Path

from ballonet.base.paths import cache_dir, exclusive, private_dir
from tests.machines.catalogue import ROOT, Machine
from tests.machines.host import HostMachine, HostProcess
from tests.machines.image import digest, obtain_python_packages, run, sources_of
from tests.machines.inner import InnerRun, NotHereError, Place
from tests.machines.network import host_files
from tests.machines.project import project_files

#: Increase it when the same packages are to give another root.
_VERSION = 1
#: In namespaces of its own, which end with the program that made them.
_ENTER = """
set -e
cd "$0"
mount --bind . .
cd "$0"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
exec env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . "$@"
"""
_PROJECT, _PACKAGES = "ballonet", "packages"


class RootMachine(HostMachine):
    """As :class:`~tests.machines.outer.OuterMachine`, without a guest around it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._root = Path()

    def start(self) -> None:
        """Unpack the root, bring the project in and set up.

        :raises NotHereError: it cannot be made here.
        """
        if geteuid() != 0:
            raise NotHereError("only root can give it a root directory of its own")
        try:
            archive, packages = obtain_root(self.machine), obtain_python_packages(self.machine)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or "").strip() or str(error)
            raise NotHereError(f"its packages cannot be fetched here: {said.splitlines()[-1]}") from error
        self._root = Path(tempfile.mkdtemp(prefix=f"ballonet-{self.machine.name}-"))
        self._root.chmod(0o755)
        run(["tar", "-x", "--numeric-owner", "-p", "-f", str(archive), "-C", str(self._root)])
        for source in project_files():
            target = self._root / _PROJECT / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        shutil.copytree(packages, self._root / _PACKAGES)
        # The last commit, to clone from.
        bundle = ["git", "bundle", "create", "-q", str(self._root / "ballonet.bundle"), "HEAD"]
        subprocess.run(bundle, cwd=ROOT, check=True)
        for path, content in host_files().items():
            target = self._root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for path in ("/etc/hosts", "/etc/resolv.conf"):
            shutil.copy(path, self._root / path.lstrip("/"))
        self._in_root("sh", "-c", f"set -e\n{self.machine.script}")

    def close(self) -> None:
        super().close()
        if self._root != Path():
            # It has no mounts: they were those of namespaces that have ended.
            shutil.rmtree(self._root)

    def begin(self, tests: Sequence[str]) -> None:
        """Run these tests; :meth:`result` waits for each."""
        place = Place(
            f"/{_PROJECT}",
            "python3",
            {"PYTHONPATH": f"/{_PROJECT}/src:/{_PROJECT}:/{_PACKAGES}", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._run = InnerRun(lambda words: HostProcess(self._entered(words)), self.machine, tests, place)

    def facts(self) -> Mapping[str, str]:
        """The versions of what the tests run with."""
        said = self._in_root("sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"; python3 -V')
        system, python = said.splitlines()
        return {
            "system": system,
            "kernel": platform.release(),
            "python": python.removeprefix("Python "),
            "qemu": "none",
        }

    def _entered(self, words: Sequence[str]) -> list[str]:
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        return ["unshare", *namespaces, "sh", "-c", _ENTER, str(self._root), *words]

    def _in_root(self, *words: str) -> str:
        done = subprocess.run(self._entered(words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


def obtain_root(machine: Machine) -> Path:
    """An archive of the machine's root, which is made if the cache does not have it.

    :raises CalledProcessError: its packages cannot be fetched; ``stderr`` says why.
    """
    recipe = [_VERSION, machine.suite, sorted(machine.packages), sources_of(machine.suite)]
    places = private_dir(cache_dir() / "machines")
    final = places / f"root-{machine.name}-{digest(recipe)}.tar"
    with exclusive(places / "lock"):
        if not final.exists():
            for old in places.glob(f"root-{machine.name}-*.tar"):
                old.unlink()
            making = places / f"root-{machine.name}-making"
            argv = ["mmdebstrap", "--variant=minbase", "--format=tar"]
            argv += [f"--include={','.join(machine.packages)}", machine.suite, str(making)]
            run([*argv, *sources_of(machine.suite)])
            making.rename(final)
    return final
