"""A daemon of daemons.py on a real socket, in a thread, reachable as one without a master is: by its access file."""

import secrets
import select
import socket
import threading
import time
from pathlib import Path

import msgspec

from store import direct
from store.addresses import Address
from tests.client.daemons import Groups, cluster, storage_map

GROUPS = 8


class LiveDaemon:
    """Serves from `start` to `stop`. `state` may be changed by a test under `lock`."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self.lock = threading.Lock()
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self.address: Address = self._sock.getsockname()
        self.state: Groups
        self.state, (self.daemon,), _ = cluster(time.monotonic(), [self.address], GROUPS)
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._running = True

    def start(self) -> "LiveDaemon":
        self._publish()
        self._thread.start()
        return self

    def renew_secret(self) -> None:
        """As after a restart of the process: nothing of what clients hold is any good."""
        with self.lock:
            self.daemon.secret = secrets.token_bytes(32)
            self.daemon.start(time.monotonic(), 2)
            self._publish()

    def _publish(self) -> None:
        described = storage_map(self.state, [self.daemon], pool_name=direct.POOL)
        access = direct.Access(
            direct.VERSION, self.address, self.daemon.device, 1, self.daemon.secret,
            msgspec.msgpack.encode(described), 1,
        )  # fmt: skip
        direct.publish(access, self._runtime)

    def stop(self) -> None:
        self._running = False
        self._waker.send(b"x")
        self._thread.join()
        self._sock.close()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while self._running:
            service = self.daemon.service
            at = service.deadline(time.monotonic())
            poll.poll(1000 if at is None else max(0.0, at - time.monotonic()) * 1000)
            with self.lock:
                self._drain()
                now = time.monotonic()
                service = self.daemon.service
                if self.daemon.alive:
                    self.daemon.serve(now)
                    service.tick(now, time.time())
                    self.daemon.flush(now, self._send)

    def _drain(self) -> None:
        for _ in range(64):
            try:
                data, address = self._sock.recvfrom(65536)
            except BlockingIOError:
                return
            if self.daemon.alive:
                self.daemon.service.receive(time.monotonic(), time.time(), memoryview(bytearray(data)), address)

    def _send(self, view: memoryview, segment: int, address: object) -> None:
        assert isinstance(address, tuple)
        for start in range(0, len(view), segment or len(view)):
            self._sock.sendto(view[start : start + (segment or len(view))], address)
