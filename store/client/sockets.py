"""A client's UDP socket: unconnected, large buffers, don't-fragment set, offloads where the kernel has them."""

import errno
import socket
from typing import Final

from store.addresses import Address
from store.limits import CLIENT_SOCKET_BUFFER
from store.udp import SOL_UDP, UDP_SEGMENT, open_udp, segmentation_works

_LOST: Final = frozenset(
    {errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EPERM, errno.ENOBUFS}
)


def open_socket(family: int) -> socket.socket:
    """A bound socket of this address family; blocking until told otherwise. Raises OSError."""
    return open_udp(("::" if family == socket.AF_INET6 else "0.0.0.0", 0), CLIENT_SOCKET_BUFFER)


class Sender:
    """Sends buffers of one or more datagrams. What the network refuses is lost, as on the way: it will be repeated."""

    __slots__ = ("_segments", "_sock", "lost")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._segments = segmentation_works(sock)
        self.lost = 0

    def send(self, view: memoryview, segment: int, address: Address) -> None:
        """`segment`: cut the view into datagrams of that many bytes; 0: it is one. Raises OSError for defects."""
        try:
            if segment == 0 or len(view) <= segment:
                self._sock.sendto(view, address)
            elif self._segments:
                control = ((SOL_UDP, UDP_SEGMENT, segment.to_bytes(2, "little")),)
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
