"""An outer machine that runs: a sandbox with the project in it, in which tests run.

The results come back one by one while the tests run: see :mod:`tests.machines.inside.report`.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ballonet.base.errors import BallonetError, GuestChannelError, GuestError
from ballonet.guest.bundle import prepare_guest
from ballonet.guest.initramfs import DEFAULT_MODULES
from ballonet.guest.modules import INDEX_FILES, ModuleTree
from ballonet.sync import Sandbox
from tests.machines.catalogue import ROOT, Machine
from tests.machines.image import obtain_image, obtain_python_packages
from tests.machines.inner import InnerRun, NotHereError, Place, Result
from tests.machines.project import project_files

#: Where the project and its Python packages are inside.
PROJECT, PACKAGES = "/ballonet", "/packages"
_PYTHONPATH = f"{PROJECT}/src:{PROJECT}:{PACKAGES}"
_KVM_MODULES = ("kvm_amd", "kvm_intel")
#: What sandboxes with every kind of device need, and those of the outer machine.
_NETWORK_MODULES = (
    *("tun", "nf_tables", "nft_ct", "nft_nat", "nft_masq", "nft_chain_nat", "nft_reject_inet"),
    *("nft_limit", "nft_log", "nft_connlimit", "nfnetlink_log", "nf_conntrack_netlink"),
)
_GUEST_MODULES = (
    *(*DEFAULT_MODULES, "virtio_blk", "virtio_net", "virtiofs", "erofs", "overlay"),
    *_NETWORK_MODULES,
)
_SETUP_S = 300
_CANNOT = 77
_LOG_TAIL = 20_000


class OuterMachine:
    """A booted machine. :meth:`close` ends it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        #: How long it took to boot, and until it was ready (seconds).
        self.boot_s = self.ready_s = 0.0
        self._box: Sandbox
        self._run: InnerRun | None = None
        self._ending = contextlib.ExitStack()

    def start(self) -> None:
        """Boot, bring the project in and set up.

        :raises NotHereError: it cannot run on this host.
        """
        try:
            image, packages = obtain_image(self.machine), obtain_python_packages(self.machine)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise NotHereError(f"its image cannot be made here: {_last_line(error)}") from error
        started = time.monotonic()
        self._box = Sandbox.create(
            f"machine-{self.machine.name}",
            image=image,
            memory=self.machine.memory,
            cpus=self.machine.cpus,
            balloon=False,
        )
        self._ending.callback(self._box.close)
        self.boot_s = time.monotonic() - started
        self._bring(packages, PACKAGES)
        self._unpack(_tar((path, f"{PROJECT}/{path.relative_to(ROOT)}") for path in project_files()))
        self._unpack(_kernel())
        # For every user, and for services.
        self._box.fs.write("/usr/lib/python3/dist-packages/ballonet.pth", f"{PROJECT}/src\n{PACKAGES}\n")
        try:
            done = self._box.shell(f"set -e\n{self.machine.script}", timeout=_SETUP_S)
        except GuestChannelError as error:
            end = self._box.wait()
            raise GuestError(f"the machine ended during its script: {end.reason}: {end.detail}") from error
        if done.returncode == _CANNOT:
            raise NotHereError(_last(done.stdout))
        assert done.returncode == 0, f"the machine's script failed: {done.stderr.decode()}"
        self.ready_s = time.monotonic() - started

    def close(self) -> None:
        self._ending.close()

    def begin(self, tests: Sequence[str]) -> None:
        """Run these tests inside; :meth:`result` waits for each."""
        place = Place(PROJECT, "python3", {"PYTHONPATH": _PYTHONPATH, "HOME": "/root", "LANG": "C.UTF-8"})
        self._run = InnerRun(self._box.exec_stream, self.machine, tests, place)
        self._ending.callback(self._run.stop)

    def result(self, test: str, timeout_s: float) -> Result:
        """How ``test`` ended, all its parameters together."""
        assert self._run is not None
        return self._run.result(test, timeout_s)

    def log(self) -> str:
        """What pytest wrote inside, and the end of the machine's kernel log."""
        said = "" if self._run is None else self._run.log()
        try:
            kernel = self._box.exec(["dmesg"], timeout=60).stdout.decode(errors="replace")
        except BallonetError as error:
            kernel = f"the machine does not answer: {error}"
        return f"{said[-_LOG_TAIL:]}\n--- dmesg ---\n{kernel[-_LOG_TAIL // 4 :]}"

    def facts(self) -> Mapping[str, str]:
        """The versions of what the tests ran with."""
        script = '. /etc/os-release; echo "$PRETTY_NAME"; uname -r; python3 -V'
        script += "; qemu-system-x86_64 --version || echo none"
        system, kernel, python, qemu, *_ = self._box.shell(script, timeout=60).stdout.decode().splitlines()
        return {
            "system": system,
            "kernel": kernel,
            "python": python.removeprefix("Python "),
            "qemu": qemu.removeprefix("QEMU emulator version ").partition(" ")[0],
        }

    def _bring(self, directory: Path, to: str) -> None:
        self._box.fs.copy_in(directory, to)

    def _unpack(self, tar: bytes) -> None:
        self._box.fs.unpack_stream(iter([tar]), "/")


def _kernel() -> bytes:
    """The kernel that the machine itself runs, with the modules for its guests and for KVM."""
    guest = prepare_guest()
    tree = ModuleTree(guest.modules_dir, guest.release)
    modules = [module.path for module in tree.resolve([*_GUEST_MODULES, *_KVM_MODULES])]
    lists = [guest.modules_dir / name for name in (*INDEX_FILES, "modules.order", "modules.builtin.modinfo")]
    inside = f"/lib/modules/{guest.release}"
    files = [
        (path, f"{inside}/{path.relative_to(guest.modules_dir)}")
        for path in (*modules, *lists)
        if path.is_file() and path.name != "modules.dep"  # depmod makes it, for those that are there
    ]
    return _tar([*files, (guest.vmlinuz, f"/boot/vmlinuz-{guest.release}")])


def _tar(files: Iterator[tuple[Path, str]] | Sequence[tuple[Path, str]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, name in files:
            member = tar.gettarinfo(path, name.lstrip("/"))
            member.uid = member.gid = 0
            with path.open("rb") as file:
                tar.addfile(member, file)
    return out.getvalue()


def _last_line(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    said = error.stderr or ""
    return _last(said if isinstance(said, bytes) else said.encode()) or str(error)


def _last(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
