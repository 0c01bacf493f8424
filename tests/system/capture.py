"""What crosses the loopback interface while a test runs, read from a packet socket."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ETH_P_ALL = 3
ETHERNET = 14
UDP, TCP = 17, 6
KEPT_MAX = 64 << 20  # bytes; a test that sends more sees its newest traffic missing, and says so
PACKET_OUTGOING = 4


class Datagram(NamedTuple):
    source: int
    port: int  # destination
    payload: bytes


class Capture:
    """IPv4 packets on `lo`, each once; `stop` before looking."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.1)
        self.packets: list[bytes] = []
        self._kept = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                data, address = self._socket.recvfrom(1 << 17)
                if address[2] != PACKET_OUTGOING and self._kept < KEPT_MAX:
                    self.packets.append(data)
                    self._kept += len(data)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()
        assert self._kept < KEPT_MAX, "more traffic than the capture keeps"

    def contains(self, text: bytes) -> bool:
        return any(text in packet for packet in self.packets)

    def datagrams_to(self, ports: set[int]) -> list[Datagram]:
        """UDP payloads sent to one of these ports."""
        found = []
        for packet in self.packets:
            header = (packet[ETHERNET] & 15) * 4
            if packet[ETHERNET] >> 4 != 4 or packet[ETHERNET + 9] != UDP:
                continue
            start = ETHERNET + header
            source, port = struct.unpack_from("!HH", packet, start)
            if port in ports:
                found.append(Datagram(source, port, packet[start + 8 :]))
        return found


@contextlib.contextmanager
def capturing() -> Iterator[Capture]:
    try:
        capture = Capture()
    except PermissionError:
        pytest.skip("a packet socket needs root")
    try:
        yield capture
    finally:
        capture.stop()
