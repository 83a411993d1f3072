"""Network namespaces for programs that this process starts, made and entered between fork and exec.

A namespace lives as long as a process is in it or a descriptor refers to it: nothing is left when those are gone. Root
makes a network namespace only; other users make a user namespace as well, in which they are root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError
from ballonet.host import netlink
from ballonet.host.bandwidth import open_links
from ballonet.host.conntrack import open_table

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # sched.h
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16s24s")  # linux/if.h
# linux/sockios.h
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFHWADDR = (
    0x8914,
    0x8916,
    0x891C,
    0x8922,
    0x8924,
)
_IFF_UP = 1
LOOPBACK, _DNS = "127.0.0.1", 53
_ARPHRD_ETHER = 1  # linux/if_arp.h
#: QEMU's own network begins its hardware addresses with these bytes, before the IPv4 address.
_HARDWARE_PREFIX = b"\x52\x55"
_TUN = "/dev/net/tun"
_CAP_DAC_OVERRIDE, _CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN, _MOST_CAPABILITIES = (
    1,
    10,
    12,
    64,
)  # linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2  # linux/prctl.h
_NOBODY = 65534
_IPV6 = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"

_HINTS = {
    "unshare": "network namespaces need root, or user namespaces for other users (user.max_user_namespaces, "
    "kernel.apparmor_restrict_unprivileged_userns); 'isolated' and 'none' work without",
    _TUN: "the guest's network needs /dev/net/tun, readable and writable for this user (as udev makes it), and in "
    "containers a device of that name",
    "/proc/sys": "the network settings of a namespace cannot be changed: is /proc/sys read-only, as in a container?",
}


@dataclass(frozen=True)
class Interface:
    """The interface in a namespace whose other end is a guest's."""

    name: str
    #: Its addresses, the first with the length of its network's prefix.
    addresses: tuple[str, ...]
    prefix: int
    mtu: int


class Namespace:
    """A network namespace in which packets are forwarded, with the interface of a guest. Made by the child of
    :meth:`in_child`; then call :meth:`receive`, and :meth:`close` at the end."""

    def __init__(self, interface: Interface, log_group: int) -> None:
        self._interface = interface
        self._log_group = log_group
        self._near, self._far = socket.socketpair()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._net = self._user = self.guest_end = -1
        #: Receives what the packet filter logs (nfnetlink_log).
        self.log: socket.socket | None = None
        #: Reads the connection table.
        self.table: socket.socket | None = None
        #: Changes its interfaces (rtnetlink).
        self.links: socket.socket | None = None
        #: Receives what the guest sends to the port for names of the interface's last address, and talks to a name
        #: server on the namespace's loopback.
        self.queries: socket.socket | None = None
        self.name_server: socket.socket | None = None

    def in_child(self) -> None:
        """Make the namespace, and enter it. If it fails, the child reports that to :meth:`receive`, and exits."""
        step = "unshare"
        try:
            unshare(self._libc)
            step = _TUN
            tap = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
            request = _ifreq(self._interface.name, struct.pack("H", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
            fcntl.ioctl(tap, _TUNSETIFF, request)
            step = "/proc/sys"
            for which in ("all", "default"):
                with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                    _write(_IPV6.format(which), "1")
            _write("/proc/sys/net/ipv4/ip_forward", "1")
            step = "its interface"
            self._configure()
            step = "the log of its packet filter"
            log, table, links = _open_log(self._log_group), open_table(), open_links()
            queries, server = self._open_name_sockets()
            net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            user = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            sockets = [each.fileno() for each in (log, table, links, queries, server)]
            socket.send_fds(self._far, [b"made"], [tap, net, user, *sockets])
        except OSError as error:
            self._far.send(f"{error.errno or 0} {step}".encode())
            os._exit(1)

    def receive(self) -> Self:
        """Take over what the child has made.

        :raises HostError: it has failed.
        """
        self._far.close()
        said, fds, _, _ = socket.recv_fds(self._near, 256, 8)
        if said != b"made":
            number, _, step = said.decode().partition(" ")
            cause = os.strerror(int(number)) if number.isdecimal() else "it ended"
            raise HostError(
                f"no network can be made for the guest: {step or 'its process'}: {cause}",
                hint=_HINTS.get(step),
            )
        self.guest_end, self._net, self._user, *sockets = fds
        self.log, self.table, self.links, self.queries, self.name_server = (
            socket.socket(fileno=fd) for fd in sockets
        )
        for each in (self.log, self.queries, self.name_server):
            each.setblocking(False)
        return self

    @property
    def path(self) -> str:
        """Its path, for a program that inherits :attr:`descriptor`."""
        return f"/proc/self/fd/{self._net}"

    @property
    def descriptor(self) -> int:
        return self._net

    def enter_user(self) -> None:
        """For a child between fork and exec: become root of the namespace's user namespace, if it has one."""
        if self._has_user_namespace():
            self._setns(self._user, _CLONE_NEWUSER)

    def enter(self) -> None:
        """For a child between fork and exec: enter it, as root of its user namespace."""
        self.enter_user()
        self._setns(self._net, _CLONE_NEWNET)

    def enter_as_server(self) -> None:
        """For a child between fork and exec: enter it as a user without rights on the host, who may use its ports and
        its packet filter."""
        if self._has_user_namespace():
            self.enter()
            return
        self._setns(self._net, _CLONE_NEWNET)
        if os.geteuid() == 0:
            _become_nobody(self._libc, _CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN)

    def _has_user_namespace(self) -> bool:
        return os.stat(f"/proc/self/fd/{self._user}").st_ino != os.stat("/proc/self/ns/user").st_ino  # noqa: PTH116

    def close_guest_end(self) -> None:
        """Close the guest's end: the engine has a copy."""
        fd, self.guest_end = self.guest_end, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        self.close_guest_end()
        for fd in (self._net, self._user):
            if fd >= 0:
                os.close(fd)
        self._net = self._user = -1
        self._near.close()
        self._far.close()
        for each in (self.log, self.table, self.links, self.queries, self.name_server):
            if each is not None:
                each.close()

    def _setns(self, fd: int, kind: int) -> None:
        if self._libc.setns(fd, kind) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def _open_name_sockets(self) -> tuple[socket.socket, socket.socket]:
        queries = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        queries.bind((self._interface.addresses[-1], _DNS))
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.connect((LOOPBACK, _DNS))
        return queries, server

    def _configure(self) -> None:
        of = self._interface
        mask = ((0xFFFFFFFF << (32 - of.prefix)) & 0xFFFFFFFF).to_bytes(4)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, _ifreq("lo", struct.pack("H", _IFF_UP)))
            # Always the same one: a restored guest remembers it, and would lose packets for seconds.
            hardware = _HARDWARE_PREFIX + socket.inet_aton(of.addresses[0])
            request = _ifreq(of.name, struct.pack("=H6s", _ARPHRD_ETHER, hardware))
            fcntl.ioctl(control, _SIOCSIFHWADDR, request)
            fcntl.ioctl(control, _SIOCSIFMTU, _ifreq(of.name, struct.pack("i", of.mtu)))
            for number, address in enumerate(of.addresses):
                label = f"{of.name}:{number}" if number else of.name
                fcntl.ioctl(control, _SIOCSIFADDR, _ifreq(label, _sockaddr(socket.inet_aton(address))))
                fcntl.ioctl(control, _SIOCSIFNETMASK, _ifreq(label, _sockaddr(mask)))
            fcntl.ioctl(control, _SIOCSIFFLAGS, _ifreq(of.name, struct.pack("H", _IFF_UP)))


def empty_network() -> Callable[[], None]:
    """A function to be called in a child between fork and exec. It loses the network, and root loses what would let it
    enter another network namespace: of the capabilities, only CAP_DAC_OVERRIDE is left. What it inherits goes on
    working."""
    libc = ctypes.CDLL(None, use_errno=True)
    drop = drop_capabilities()

    def in_child() -> None:
        unshare(libc, as_root=False)
        drop()

    return in_child


def drop_capabilities(*, network: bool = False) -> Callable[[], None]:
    """A function to be called in a child between fork and exec. Of root's capabilities, what it executes has only
    CAP_DAC_OVERRIDE, for files of others, and with ``network`` CAP_NET_BIND_SERVICE."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = {_CAP_DAC_OVERRIDE} | ({_CAP_NET_BIND_SERVICE} if network else set())

    def in_child() -> None:
        for capability in set(range(_MOST_CAPABILITIES)) - kept:
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers without a capability

    return in_child


def unshare(libc: ctypes.CDLL, *, as_root: bool = True) -> None:
    """Enter a new network namespace, if necessary with a user namespace.

    :param as_root: be root in the new user namespace; otherwise no capability is left after an exec.
    :raises OSError: this user may not.
    """
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    if ctypes.get_errno() != errno.EPERM:
        raise OSError(ctypes.get_errno(), "unshare")
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{0 if as_root else user} {user} 1")
    _write("/proc/self/gid_map", f"{0 if as_root else group} {group} 1")


def _become_nobody(libc: ctypes.CDLL, *capabilities: int) -> None:
    """Change to the user nobody, who keeps only these capabilities, in the programs that it executes as well
    (capabilities(7))."""
    bits = sum(1 << number for number in capabilities)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", bits, bits, bits, 0, 0, 0)
    _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _check(libc.capset(header, data))
    for number in capabilities:
        _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def _ifreq(name: str, value: bytes) -> bytes:
    return _IFREQ.pack(name.encode(), value)


def _sockaddr(address: bytes) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address)


def _open_log(group: int) -> socket.socket:
    """A socket that receives what the packet filter logs to ``group`` (linux/netfilter/nfnetlink_log.h)."""
    nfulnl_msg_config, nfula_cfg_cmd, bind = 0x0401, 1, 1
    log = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETLINK_NETFILTER)
    body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + struct.pack("=HHBxxx", 5, nfula_cfg_cmd, bind)
    log.send(netlink.request(nfulnl_msg_config, netlink.ACK, body))
    _, answer = next(netlink.messages(log.recv(4096)))
    if error := netlink.error_of(answer):
        raise OSError(error, "bind")
    return log
