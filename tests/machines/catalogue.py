"""The machines: what is installed on each, how it is set up, and which tests run inside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
INSIDE = "tests/machines/inside"

#: For --net user.
NETWORK_PACKAGES = ("slirp4netns", "nftables", "dnsmasq-base")
#: What ballonet needs on Debian, with e2fsprogs for disks and procps for the tests.
BALLONET_PACKAGES = (
    "python3",
    "qemu-system-x86",
    "busybox-static",
    "e2fsprogs",
    "kmod",
    "procps",
    *NETWORK_PACKAGES,
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A host that runs as a guest, or this host with something else.

    :param kind: ``guest``; ``engine``: this host with the QEMU of the Debian release ``suite``; ``limited``: this host
        with no more than ``memory``; ``root``: a Debian root on this host, with a bundle of the last commit to clone,
        ``/ballonet.bundle``. ``engine`` and ``limited`` have no script.
    :param packages: Debian packages of its image or root.
    :param selections: which tests run inside: files, directories or ``FILE::TEST``, relative to the repository.
    :param test_s: how long a test may take inside (seconds).
    :param enter: words before a command that bring it to where the tests run.
    :param script: a shell script that makes it ready, as root. Exit status 77: this machine cannot be had here; the
        last line that it writes says why.
    """

    name: str
    packages: tuple[str, ...] = ()
    selections: tuple[str, ...]
    script: str = ""
    kind: Literal["guest", "engine", "limited", "root"] = "guest"
    enter: tuple[str, ...] = ()
    suite: str = "bookworm"
    python: str = "3.11"
    memory: str = "3G"
    # With more, QEMU 7.2's emulation now and then loses a race with the kernel's patching of its own code: a panic.
    cpus: int = 1
    test_s: int = 840

    def tests(self) -> list[str]:
        """The tests that run inside, as ``FILE::TEST``; read from the files, without importing them."""
        return [test for selection in self.selections for test in _tests_of(selection)]


_LOAD_KVM = """
depmod
if grep -qw svm /proc/cpuinfo; then
    modprobe kvm-amd nested=0
elif grep -qw vmx /proc/cpuinfo; then
    modprobe kvm-intel nested=0
else
    echo "the processor of a guest has neither svm nor vmx here"
    exit 77
fi
test -c /dev/kvm
"""
#: For the networks of the guests inside; on a host, udev or the program that opens it does that.
_LOAD_TUN = "modprobe tun\n"
_MOUNT_CGROUP2 = """
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
"""
_KVM_HOST = _LOAD_KVM + _LOAD_TUN + _MOUNT_CGROUP2

KVM = Machine(
    name="kvm",
    packages=(*BALLONET_PACKAGES, "qemu-system-common"),
    selections=(
        f"{INSIDE}/kvm",
        "tests/vm/test_exec.py::test_bytes_of_every_value_pass_both_ways",
        "tests/vm/test_balloon.py::test_statistics_are_the_guests_own",
        "tests/vm/test_relief.py::test_a_guest_that_refuses_is_held_by_the_hard_cap_while_its_neighbour_goes_on",
        "tests/vm/test_network.py::test_a_published_port_leads_into_the_guest_from_loopback_only",
        "tests/vm/test_templates.py::test_guests_of_one_template_are_their_own",
    ),
    script=_KVM_HOST,
)

# systemd is the first process of its own process, mount and cgroup namespaces; the agent stays the kernel's.
# alice lingers and may use KVM, carol may use KVM and does not linger, bob may not.
_START_SYSTEMD = """
for user in alice bob carol; do useradd --create-home --shell /bin/bash $user; done
usermod -aG kvm alice
usermod -aG kvm carol
mkdir -p /var/lib/systemd/linger /outer /sys/fs/cgroup/machine
touch /var/lib/systemd/linger/alice
echo +cpu +memory +pids >/sys/fs/cgroup/cgroup.subtree_control
cat >/outer/start <<'END'
read -r pid rest </proc/self/stat
echo $pid >/outer/init.pid
until [ -e /outer/go ]; do sleep 0.1; done
umount /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
exec env -i container=ballonet PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
END
sh -c 'echo $$ >/sys/fs/cgroup/machine/cgroup.procs
exec setsid unshare --fork --pid --mount --cgroup sh /outer/start' >/outer/log 2>&1 </dev/null &
until [ -s /outer/init.pid ]; do sleep 0.1; done
pid=$(cat /outer/init.pid)
# A group with processes in it cannot give its controllers to others: the one that waits for systemd leaves it.
cut -d" " -f4 /proc/$pid/stat >/sys/fs/cgroup/cgroup.procs
touch /outer/go
for second in $(seq 200); do
    if nsenter -t "$pid" -m -p -C systemctl is-active -q multi-user.target 2>/outer/not-yet; then
        exit 0
    fi
    sleep 1
done
cat /outer/log >&2
exit 1
"""
_ENTER_SYSTEMD = (
    'exec nsenter -t $(cat /outer/init.pid) -m -p -C systemd-run -q --pipe --wait --collect -- "$@"'
)

SYSTEMD = Machine(
    name="systemd",
    packages=(
        *BALLONET_PACKAGES,
        *("systemd", "systemd-sysv", "libpam-systemd", "dbus", "dbus-user-session", "udev", "passwd"),
    ),
    selections=(f"{INSIDE}/systemd",),
    script=_KVM_HOST + _START_SYSTEMD,
    enter=("sh", "-c", _ENTER_SYSTEMD, "enter"),
)

_USER_OF_KVM = """
useradd --create-home --shell /bin/bash alice
chmod 666 /dev/kvm
"""

TRIXIE = Machine(
    name="trixie",
    suite="trixie",
    python="3.13",
    packages=(*BALLONET_PACKAGES, "virtiofsd", "passwd"),
    selections=(
        f"{INSIDE}/trixie",
        "tests/vm/test_exec.py::test_bytes_of_every_value_pass_both_ways",
        "tests/vm/test_network.py::test_a_published_port_leads_into_the_guest_from_loopback_only",
        "tests/vm/test_templates.py::test_guests_of_one_template_are_their_own",
    ),
    script=_KVM_HOST + _USER_OF_KVM,
)

#: Debian 13's engine without a guest around it: what depends on the engine is tested at the speed of the VM suite.
QEMU10 = Machine(
    name="qemu10",
    kind="engine",
    suite="trixie",
    selections=(
        f"{INSIDE}/qemu10",
        "tests/vm/test_exec.py",
        "tests/vm/test_balloon.py",
        "tests/vm/test_templates.py",
        "tests/vm/test_restore.py",
        "tests/vm/test_network.py",
        "tests/vm/test_relief.py",
        "tests/vm/test_resource_limits.py",
        "tests/vm/test_volumes.py",
        "tests/vm/test_firmware.py",
    ),
    test_s=600,
)

_USER_WITH_SUDO = """
useradd --create-home --shell /bin/bash alice
echo "alice ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/alice
"""

FRESH = Machine(
    name="fresh",
    kind="root",
    packages=("python3", "make", "git", "sudo", "ca-certificates", "passwd"),
    selections=(f"{INSIDE}/fresh",),
    script=_USER_WITH_SUDO,
    test_s=2400,
)

SMALL = Machine(name="small", kind="limited", selections=(f"{INSIDE}/small",))

#: The longest first: two run at a time.
MACHINES = {machine.name: machine for machine in (FRESH, KVM, SYSTEMD, TRIXIE, QEMU10, SMALL)}


def _tests_of(selection: str) -> Iterator[str]:
    path, _, test = selection.partition("::")
    if test:
        yield selection
        return
    place = ROOT / path
    for file in sorted(place.glob("test_*.py")) if place.is_dir() else [place]:
        tree = ast.parse(file.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield f"{file.relative_to(ROOT)}::{node.name}"
