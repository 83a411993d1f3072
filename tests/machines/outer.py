"""An outer machine that runs: a sandbox with the project in it, in which tests run.

The results come back one by one while the tests run: see :mod:`tests.machines.inside.report`.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import shlex
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_tools.generate import MODULES
from build_tools.python_source import file_of

from ballonet.base.errors import BallonetError, GuestChannelError, GuestError
from ballonet.guest.bundle import guest_program, prepare_guest
from ballonet.guest.initramfs import DEFAULT_MODULES
from ballonet.guest.modules import INDEX_FILES, ModuleTree
from ballonet.sync import Sandbox
from tests.machines.catalogue import ROOT, Machine
from tests.machines.image import obtain_image, obtain_python_packages
from tests.machines.network import host_files

#: Where the project and its Python packages are inside.
PROJECT, PACKAGES = "/ballonet", "/packages"
_KVM_MODULES = ("kvm_amd", "kvm_intel")
#: What sandboxes with every kind of device need, and those of the outer machine.
_NETWORK_MODULES = (
    *("tun", "nf_tables", "nft_ct", "nft_nat", "nft_masq", "nft_chain_nat", "nft_reject_inet"),
    *("nft_limit", "nft_log", "nft_connlimit", "nfnetlink_log"),
)
_GUEST_MODULES = (
    *(*DEFAULT_MODULES, "virtio_blk", "virtio_net", "virtiofs", "erofs", "overlay"),
    *_NETWORK_MODULES,
)
_SETUP_S = 300
_CANNOT = 77
_LOG_TAIL = 20_000
_PYTEST = (
    *("python3", "-m", "pytest", "-p", "tests.machines.inside.report", "-p", "no:cacheprovider"),
    *("-v", "--color=no"),
)


class NotHereError(Exception):
    """This host cannot run the machine; the message says why."""


@dataclass(frozen=True)
class Result:
    """How a test ended inside: ``passed``, ``failed`` or ``skipped``, with pytest's own text."""

    outcome: str
    text: str
    seconds: float


class OuterMachine:
    """A booted machine. :meth:`close` ends it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        #: How long it took to boot, and until it was ready (seconds).
        self.boot_s = self.ready_s = 0.0
        self._box: Sandbox
        self._run: _Run | None = None
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
            net=self.machine.net,
        )
        self._ending.callback(self._box.close)
        self.boot_s = time.monotonic() - started
        self._bring(packages, PACKAGES)
        self._unpack(_project())
        self._unpack(_kernel())
        if self.machine.installed:
            # For every user, and for services.
            lines = f"{PROJECT}/src\n{PACKAGES}\n"
            self._box.fs.write("/usr/lib/python3/dist-packages/ballonet.pth", lines)
        else:
            self._box.fs.write("/ballonet.bundle", _bundle())
        if self.machine.net == "user":
            for path, content in host_files().items():
                self._box.fs.write(path, content, parents=True)
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
        self._run = _Run(self._box, self.machine, tests)
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


class _Run:
    """One pytest inside."""

    def __init__(self, box: Sandbox, machine: Machine, tests: Sequence[str]) -> None:
        # The VM suite and the tests for machines have a pytest each: their shared fixtures are not the same.
        groups = [[test for test in tests if test.startswith("tests/vm/") is vm] for vm in (False, True)]
        env = {
            "BALLONET_MACHINE": machine.name,
            "PYTHONPATH": f"{PROJECT}/src:{PROJECT}:{PACKAGES}",
            "HOME": "/root",
            "LANG": "C.UTF-8",
        }
        # Results have descriptor 3, which is the stream of standard output; all else goes to standard error.
        script = "\n".join(
            [f"exec 3>&1 1>&2; cd {PROJECT}"]
            + [shlex.join([*_PYTEST, f"--timeout={machine.test_s}", *group]) for group in groups if group]
        )
        words = ["env", *(f"{name}={value}" for name, value in env.items()), "sh", "-c", script]
        self._process = box.exec_stream([*machine.enter, *words])
        self._log = bytearray()
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._collected: list[str] = []
        self._results: dict[str, Result] = {}
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def result(self, test: str, timeout_s: float) -> Result:
        ends = time.monotonic() + timeout_s
        while not self._is_done(test):
            try:
                line = self._lines.get(timeout=max(0, ends - time.monotonic()))
            except queue.Empty:
                return Result("failed", f"no result within {timeout_s:g} s", timeout_s)
            if line is None:
                self._ended = True
            elif "collected" in line:
                self._collected += line["collected"]
            else:
                self._results[line["test"]] = Result(line["outcome"], line["text"], line["seconds"])
        if broken := self._results.get(test.partition("::")[0]):
            return broken  # the file cannot be imported
        found = [result for name, result in self._results.items() if _is_of(name, test)]
        if not found or len(found) < sum(_is_of(name, test) for name in self._collected):
            return Result("failed", "pytest ended inside before this test did", 0)
        worst = next((r for o in ("failed", "skipped") for r in found if r.outcome == o), found[0])
        return Result(worst.outcome, worst.text, sum(result.seconds for result in found))

    def _is_done(self, test: str) -> bool:
        wanted = [name for name in self._collected if _is_of(name, test)]
        return self._ended or (bool(wanted) and all(name in self._results for name in wanted))

    def log(self) -> str:
        return self._log.decode(errors="replace")

    def stop(self) -> None:
        with contextlib.suppress(BallonetError):  # the machine may have ended
            self._process.kill()
        self._reader.join(30)

    def _read(self) -> None:
        rest = b""
        try:
            for stream, piece in self._process.events():
                if stream == "stderr":
                    self._log += piece
                    continue
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._lines.put(json.loads(line))
        except BallonetError as error:  # the machine ended: whoever waits for a result is told
            self._log += f"\n{error}\n".encode()
        finally:
            self._lines.put(None)


def _is_of(name: str, test: str) -> bool:
    return name == test or name.startswith(f"{test}[")


def _project() -> bytes:
    """The files of the repository as they are now, and what is built from them: the guest's programs, and modules."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    agent = guest_program("agent")
    paths = [ROOT / name for name in listed] + list(agent.parent.iterdir())
    paths += [file_of(ROOT / "src", module) for module in MODULES]
    return _tar((path, f"{PROJECT}/{path.relative_to(ROOT)}") for path in paths if path.is_file())


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


def _bundle() -> bytes:
    """The last commit, to clone from."""
    argv = ["git", "bundle", "create", "-q", "-", "HEAD"]
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout


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
