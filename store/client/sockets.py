"""A client's UDP socket: unconnected, large buffers, don't-fragment set, offloads where the kernel has them."""

import contextlib
import errno
import socket
from typing import Final

from store.addresses import Address
from store.limits import CLIENT_SOCKET_BUFFER

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3  # set DF and ignore the kernel's path MTU: finding it is the protocol's duty
_FORCE: Final = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}  # SO_RCVBUFFORCE, SO_SNDBUFFORCE: beyond rmem_max, as root
_LOST: Final = frozenset(
    {errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EPERM, errno.ENOBUFS}
)

SUPER_BUFFER: Final = 65_536  # the most that one receive gives


def open_socket(family: int) -> socket.socket:
    """A bound UDP socket; blocking until told otherwise. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        for option, force in _FORCE.items():
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, CLIENT_SOCKET_BUFFER)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, option, CLIENT_SOCKET_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        with contextlib.suppress(OSError):  # before Linux 5.0 datagrams come one by one
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
    except OSError:
        sock.close()
        raise
    return sock


def family_of(address: Address) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


class Sender:
    """Sends buffers of one or more datagrams. What the network refuses is lost, as on the way: it will be repeated."""

    __slots__ = ("_segments", "_sock", "lost")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._segments = _segmentation_works(sock)
        self.lost = 0

    def send(self, view: memoryview, segment: int, address: Address) -> None:
        """`segment`: cut the view into datagrams of that many bytes; 0: it is one. Raises OSError for defects."""
        try:
            if segment == 0 or len(view) <= segment:
                self._sock.sendto(view, address)
            elif self._segments:
                control = ((_SOL_UDP, _UDP_SEGMENT, segment.to_bytes(2, "little")),)
                self._sock.sendmsg((view,), control, 0, address)
            else:
                for start in range(0, len(view), segment):
                    self._sock.sendto(view[start : start + segment], address)
        except BlockingIOError:
            self.lost += 1
        except OSError as error:
            if error.errno == errno.EIO and self._segments:  # no checksum offload on this device: the kernel refuses
                self._segments = False
                self.send(view, segment, address)
            elif error.errno in _LOST:
                self.lost += 1
            else:
                raise


def _segmentation_works(sock: socket.socket) -> bool:
    """Whether this kernel cuts a send into segments (UDP_SEGMENT, Linux 4.18); ENOPROTOOPT if not."""
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True
