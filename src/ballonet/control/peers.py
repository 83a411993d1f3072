"""The credentials of a peer, from the kernel, and its access rights."""

from __future__ import annotations

import enum
import errno
import os
import socket
import struct

from ballonet.base.dataclass import dataclass, field

#: ``struct ucred`` (unix(7), SO_PEERCRED): pid, uid, gid.
_UCRED = struct.Struct("iII")

#: ``SO_PEERGROUPS`` of the kernel's asm-generic/socket.h (x86 and Arm alike); the ``socket`` module has no constant
#: for it.
_SO_PEERGROUPS = 59

#: The largest buffer that ``getsockopt`` of Python accepts: 256 group ids.
_GROUPS_BYTES = 1024


class Access(enum.Enum):
    """What a peer may do."""

    FULL = "full"
    READ = "read"
    NONE = "none"


@dataclass(frozen=True)
class Peer:
    """Credentials at the time of ``connect``; they can neither be forged nor changed later."""

    pid: int
    uid: int
    gids: frozenset[int]

    def __str__(self) -> str:
        return f"uid {self.uid} (pid {self.pid})"


@dataclass(frozen=True)
class AccessPolicy:
    """Access rights. The owner and root have full access; the sets add others. The widest right applies."""

    owner_uid: int = field(default_factory=os.geteuid)
    allow_users: frozenset[int] = frozenset()
    allow_groups: frozenset[int] = frozenset()
    read_only_users: frozenset[int] = frozenset()
    read_only_groups: frozenset[int] = frozenset()

    def access(self, peer: Peer) -> Access:
        """What ``peer`` may do."""
        if peer.uid in (0, self.owner_uid) or peer.uid in self.allow_users or peer.gids & self.allow_groups:
            return Access.FULL
        if peer.uid in self.read_only_users or peer.gids & self.read_only_groups:
            return Access.READ
        return Access.NONE

    def socket_mode(self) -> int:
        """The mode of the socket's file: 0600, or 0666 if other users have access.

        Mode bits cannot express a list of users, and giving the file to a group requires membership. So anyone who can
        reach the directory may connect, and the credentials are checked before a byte is read.
        """
        others = self.allow_users | self.allow_groups | self.read_only_users | self.read_only_groups
        return 0o666 if others else 0o600


def peer_of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket, with its supplementary groups.

    The groups come from the socket (SO_PEERGROUPS), not from ``/proc/PID``: the pid may have been reused meanwhile. A
    peer in more than 256 groups counts only as a member of its primary group, which gives it less access, never more.

    :raises OSError: the kernel does not provide the credentials.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(credentials)
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):
            raise
        packed = b""
    groups = struct.unpack(f"{len(packed) // 4}I", packed)
    return Peer(pid, uid, frozenset((gid, *groups)))
