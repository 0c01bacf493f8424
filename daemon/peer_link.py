"""TCP links between daemons: mutual TLS, length-prefixed frames, bounded buffers.

Every daemon dials each peer twice: one connection carries records, acknowledgements and messages, the other only
beats, so that a lease never waits behind a megabyte of data. A connection carries frames in both directions, but a
daemon sends only on the connections it dialled: two daemons so hold four. What is queued on a broken connection is
gone; the replication core sends again what was not acknowledged.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, cast

import structlog

from daemon.peer_codec import BadFrame, Part
from store.crypto.identity import role_of
from store.ids import DeviceId
from store.limits import KIB, MIB, OBJECT_MAX

log = structlog.get_logger()

FRAME: Final = struct.Struct("<IB3x")  # bytes after this header, type
FRAME_MAX: Final = OBJECT_MAX + MIB
RECORDS_FRAME: Final = MIB  # records are cut into frames of about this size; a single larger record has one to itself
WRITE_MAX: Final = 60 * KIB  # larger writes cost uvloop's TLS more than twice as much per byte
RECEIVE_START: Final = 256 * KIB
BACKLOG_MAX: Final = 64 * MIB  # a peer this far behind is disconnected; it is caught up from the log
REDIAL_MIN_S: Final = 0.2
REDIAL_MAX_S: Final = 3.0


class FrameType(IntEnum):
    HELLO = 0  # device id: who dialled
    RECORDS = 1
    ACKS = 2
    BEATS = 3
    BEAT_OKS = 4
    MESSAGE = 5  # anything rare, msgpack


FrameHandler = Callable[[DeviceId, int, memoryview], None]


class Framing(asyncio.BufferedProtocol):
    """Cuts the stream into frames and hands out views of them; a view is valid during the call only."""

    def __init__(self) -> None:
        self._buffer = bytearray(RECEIVE_START)
        self._view = memoryview(self._buffer)
        self._low = self._high = 0
        self._given_up = False  # nothing of the stream can be believed any more, though more of it may still arrive
        self.transport: asyncio.Transport | None = None

    def frame(self, kind: int, body: memoryview) -> None:
        raise NotImplementedError

    def batch_done(self) -> None:
        """All frames of one receive have been handed out."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's TLS transports are no subclass of asyncio.Transport, though they have its methods
        self.transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._high :]

    def buffer_updated(self, size: int) -> None:
        if self._given_up:
            return
        low, high, view = self._low, self._high + size, self._view
        while high - low >= FRAME.size:
            length, kind = FRAME.unpack_from(view, low)
            if length > FRAME_MAX:
                log.error("peer sent a frame beyond the limit", length=length)
                self.abort()
                return
            end = low + FRAME.size + length
            if end > high:
                break
            try:
                self.frame(kind, view[low + FRAME.size : end])
            except BadFrame as error:
                log.error("peer sent what cannot be read", error=str(error))
                self.abort()
                return
            if self._given_up:
                return
            low = end
        self._low, self._high = low, high
        self.batch_done()
        self._make_room()  # not before: what was received is written to the journal from this buffer

    def _make_room(self) -> None:
        """Keep room for the rest of the frame that has begun, moving or growing only when it does not fit."""
        low, high = self._low, self._high
        if low == high:
            self._low = self._high = 0
            return
        need = FRAME.size
        if high - low >= FRAME.size:
            need += FRAME.unpack_from(self._view, low)[0]
        if low + need > len(self._buffer) or len(self._buffer) - high < 64 * KIB:
            rest = bytes(self._view[low:high])
            if need + 64 * KIB > len(self._buffer):
                self._buffer = bytearray(need + 64 * KIB)
                self._view = memoryview(self._buffer)
            self._view[: len(rest)] = rest
            self._low, self._high = 0, len(rest)

    def abort(self) -> None:
        self._given_up = True
        if self.transport is not None:
            self.transport.abort()

    def send(self, kind: int, parts: list[Part]) -> int:
        """Queue one frame; returns its size, 0 if it was dropped. A link whose peer does not read is cut off."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return 0
        if transport.get_write_buffer_size() > BACKLOG_MAX:
            log.warning("a peer does not keep up; its connection is dropped")
            transport.abort()
            return 0
        length = sum(map(len, parts))
        head = FRAME.pack(length, kind)
        if length <= WRITE_MAX:
            transport.write(b"".join([head, *parts]))
            return length
        small: list[Part] = [head]
        waiting = len(head)
        for part in parts:
            if waiting + len(part) <= WRITE_MAX:
                small.append(part)
                waiting += len(part)
                continue
            transport.write(b"".join(small))
            small, waiting, view = [], 0, memoryview(part)
            for start in range(0, len(view), WRITE_MAX):
                transport.write(view[start : start + WRITE_MAX])
        if small:
            transport.write(b"".join(small))
        return length


def speaks_for(connection: Framing, device: DeviceId) -> bool:
    """Whether the other side's certificate is a daemon's, and of this device if it is bound to one."""
    assert connection.transport is not None
    role = role_of(connection.transport.get_extra_info("peercert") or {})
    return len(device) == 16 and role is not None and role.is_daemon and role.may_serve(device)


class Accepted(Framing):
    """A connection that a peer dialled: frames come in, nothing goes out."""

    def __init__(self, peers: "PeerListener") -> None:
        super().__init__()
        self._peers = peers
        self._device: DeviceId | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._peers.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.connections.discard(self)

    def frame(self, kind: int, body: memoryview) -> None:
        if self._device is not None:
            self._peers.handle(self._device, kind, body)
        elif kind == FrameType.HELLO and self._peers.admits(self, DeviceId(bytes(body))):
            self._device = DeviceId(bytes(body))
        else:
            self.abort()

    def batch_done(self) -> None:
        self._peers.batch_done()


class PeerListener:
    """Accepts peers whose certificate the cluster's CA signed and, where it names a device, names the right one."""

    def __init__(
        self,
        handle: FrameHandler,
        batch_done: Callable[[], None],
    ) -> None:
        self.handle, self.batch_done = handle, batch_done
        self.connections: set[Accepted] = set()
        self.refused = 0
        self._server: asyncio.Server | None = None

    def admits(self, connection: Accepted, device: DeviceId) -> bool:
        if not speaks_for(connection, device):
            self.refused += 1
            log.warning("peer refused: its certificate is not of that device", claimed=device.hex())
            return False
        return True

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Returns the port (useful when 0 was asked for)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Accepted(self), host, port, ssl=context)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()


class Dialled(Framing):
    """A connection this daemon dialled: frames go out; nothing is expected back."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__()
        self._lost = lost

    def frame(self, kind: int, body: memoryview) -> None:
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._lost()


class PeerLink:
    """The outgoing connection of one channel to one peer; dials again, with back-off, as long as it is wanted."""

    def __init__(
        self,
        me: DeviceId,
        peer: DeviceId,
        address: Callable[[], tuple[str, int] | None],
        context: ssl.SSLContext,
        lost: Callable[[], None],
    ) -> None:
        """`address` is asked before every dial: peers move. None: not known now."""
        self._me, self._peer, self._address, self._context = me, peer, address, context
        self._on_lost = lost
        self._connection: Dialled | None = None
        self._broken = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._dial_for_ever())

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.transport is not None

    def send(self, kind: int, parts: list[Part]) -> int:
        """Lost silently when there is no connection: the core repeats what matters."""
        return 0 if self._connection is None else self._connection.send(kind, parts)

    async def _dial_for_ever(self) -> None:
        loop, delay = asyncio.get_running_loop(), REDIAL_MIN_S
        while True:
            address = self._address()
            if address is not None:
                try:
                    _, connection = await asyncio.wait_for(
                        loop.create_connection(lambda: Dialled(self._lost), *address, ssl=self._context), REDIAL_MAX_S
                    )
                except (OSError, ssl.SSLError, TimeoutError) as error:
                    log.debug("peer cannot be reached", address=address, error=str(error))
                else:
                    if speaks_for(connection, self._peer):
                        self._broken.clear()
                        connection.send(FrameType.HELLO, [self._me])
                        self._connection, delay = connection, REDIAL_MIN_S
                        await self._broken.wait()
                    else:  # addresses go stale: another daemon may answer where this one used to
                        log.warning("another device answers at a peer's address", expected=self._peer.hex())
                        connection.abort()
            await asyncio.sleep(delay)
            delay = min(2 * delay, REDIAL_MAX_S)

    def _lost(self) -> None:
        self._connection = None
        self._broken.set()
        self._on_lost()

    def close(self) -> None:
        self._task.cancel()
        if self._connection is not None:
            self._connection.abort()
