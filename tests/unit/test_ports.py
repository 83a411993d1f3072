"""Published ports, before there is a guest."""

import socket

import pytest

from ballonet.base.errors import BindError
from ballonet.machine.ports import check_ports_free
from ballonet.vmm.attach import Port
from ballonet.vmm.qemu.ports import chosen_ports

#: What QEMU 7.2 says to "info usernet", with a connection under way.
USERNET = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   17       127.0.0.1 44444       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1 33333       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]  12       127.0.0.1  8080       10.0.2.15    80     0     0
  UDP[HOST_FORWARD]  11               * 35353       10.0.2.15    53     0     0
"""


def test_the_ports_that_the_host_chose_are_found() -> None:
    asked = (Port(8080, 80), Port(0, 80), Port(0, 53, "0.0.0.0", "udp"))
    chosen = chosen_ports(asked, USERNET)
    assert chosen == (Port(8080, 80), Port(33333, 80), Port(35353, 53, "0.0.0.0", "udp"))


@pytest.mark.parametrize("kind, protocol", [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
def test_a_port_in_use_is_refused_with_its_number(kind: socket.SocketKind, protocol: str) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            BindError, match=f"127.0.0.1:{port}/{protocol} cannot be published: Address already"
        ):
            check_ports_free([Port(port, 80, protocol=protocol)])
    check_ports_free([Port(port, 80, protocol=protocol)])


def test_an_address_that_is_not_the_hosts_is_refused() -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.1:0/tcp cannot be published"):
        check_ports_free([Port(0, 80, "192.0.2.1")])
