"""UDP sockets as both ends of the transport need them: large buffers, don't-fragment set, offloads where there are any.

Linux numbers that Python does not name stand here once.
"""

import contextlib
import socket
from typing import Final

from store.addresses import Address

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103  # Linux 4.18: one send, many datagrams
UDP_GRO: Final = 104  # Linux 5.0: one receive, many datagrams
IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_PROBE: Final = 3  # set DF and ignore the kernel's path MTU: finding it is the protocol's duty
BEYOND_LIMIT: Final = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}  # SO_RCVBUFFORCE, SO_SNDBUFFORCE: needs root
SUPER_BUFFER: Final = 65_536  # the most that one receive gives


def open_udp(address: Address, buffers: int) -> socket.socket:
    """A socket bound to `address`, unconnected, blocking until told otherwise. Raises OSError."""
    family = family_of(address)
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        for option, force in BEYOND_LIMIT.items():
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, buffers)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, option, buffers)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        with contextlib.suppress(OSError):  # older kernels: datagrams come one by one
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def family_of(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def segmentation_works(sock: socket.socket) -> bool:
    """Whether the kernel cuts a send into datagrams."""
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True
