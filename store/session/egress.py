"""A daemon's send queue: answers are laid out in 64 KiB chunks, one session each, and sealed when their turn comes.

Sealing late keeps packet numbers in the order of leaving and the clock in the header true, which the client's delay
and loss detection rely on. Without a cap everything leaves at once; with one, sessions take turns by bytes (deficit
round robin with a quantum of one chunk), foreground before background, at 0.9 of the uplink.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from store.limits import (
    BUSY_MS_MAX,
    BUSY_MS_MIN,
    EGRESS_DEPTH_S,
    EGRESS_QUEUE_MAX,
    EGRESS_QUEUE_S,
    EGRESS_SHARE,
    GSO_SEGMENTS_MAX,
    SESSION_QUEUE_MAX,
)
from store.wire.header import HEADER, MAGIC, NONCE, TAG
from store.wire.seal import clock_us

if TYPE_CHECKING:
    from store.session.peer import Session

CHUNK: Final = 65_507  # bytes; one send with segmentation carries no more
_SPARE_CHUNKS: Final = 64  # kept for the next tick; more are given back to the allocator
_BACKGROUND_TURN: Final = 16  # background gets one turn in so many while foreground waits
_HEAD: Final = HEADER.size

Sent = tuple[memoryview, int, Any]  # bytes, segment size (0: one datagram), address
Item = tuple[int, int, int, int, int, float]  # start, end, kind, where the ECHO goes (0: none), packet, arrival


class Chunk:
    """One buffer of datagrams to one address, still unsealed."""

    __slots__ = ("address", "buffer", "fill", "items", "view")

    def __init__(self) -> None:
        self.buffer = bytearray(CHUNK)
        self.view = memoryview(self.buffer)
        self.fill = 0
        self.items: list[Item] = []
        self.address: Any = None


class Egress:
    """Chunks waiting to be sent, of all sessions."""

    __slots__ = (
        "_background", "_filled", "_life", "_limit", "_rate", "_ready", "_sent", "_spare", "_tokens", "_turn", "queued",
    )

    def __init__(self, now: float, life: int, uplink: float | None) -> None:
        """`uplink` in bytes per second is what the line to the clients carries; None: no cap."""
        self._life = life
        self._rate = None if uplink is None else uplink * EGRESS_SHARE
        self._limit = EGRESS_QUEUE_MAX if self._rate is None else max(int(self._rate * EGRESS_QUEUE_S), CHUNK)
        self._tokens = 0.0
        self._filled = now
        self._ready: deque[Session] = deque()  # sessions with foreground chunks, in turn
        self._background: deque[Session] = deque()
        self._spare: list[Chunk] = []
        self._sent: list[Chunk] = []  # given out by the last `take`
        self._turn = 0
        self.queued = 0  # bytes

    def retry_after(self, session: "Session", size: int) -> int:
        """0: `size` more bytes may be queued. Else refuse, and tell the client to come back in so many ms."""
        queued = self.queued + size
        if self._rate is None:
            return 0 if queued <= self._limit else BUSY_MS_MIN
        if queued <= self._limit and session.queued + size <= SESSION_QUEUE_MAX:
            return 0
        return max(BUSY_MS_MIN, min(int(queued * 1000 / self._rate), BUSY_MS_MAX))

    def chunk(self, session: "Session", size: int, address: Any, background: int) -> Chunk:
        """The chunk of this session and address that has `size` bytes and a segment free."""
        line = session.background if background else session.chunks
        if line:
            last = line[-1]
            if last.fill + size <= CHUNK and last.address == address and len(last.items) < GSO_SEGMENTS_MAX:
                return last
        else:
            (self._background if background else self._ready).append(session)
        fresh = self._spare.pop() if self._spare else Chunk()
        fresh.address = address
        line.append(fresh)
        return fresh

    def put(self, session: "Session", chunk: Chunk, item: Item) -> None:
        """Queue the datagram at [start, end) of `chunk`."""
        chunk.items.append(item)
        size = item[1] - item[0]
        session.queued += size
        self.queued += size

    def take(self, now: float) -> list[Sent]:
        """Seal and give out what may leave now. The views are valid until the next call."""
        self._recycle()
        if not self.queued:
            self._drop_empty()
            return []
        if self._rate is not None:
            self._tokens = min(self._tokens + (now - self._filled) * self._rate, EGRESS_DEPTH_S * self._rate)
            self._filled = now
        sent: list[Sent] = []
        clock = clock_us(now)
        while self._rate is None or self._tokens > 0:
            session, line, turns = self._next()
            if session is None:
                break
            chunk = line.popleft()
            self._sent.append(chunk)
            if line:
                turns.append(session)
            size = self._seal(session, chunk, clock, now, sent)
            session.queued -= size
            self.queued -= size
            self._tokens -= size
        return sent

    def deadline(self, now: float) -> float | None:
        """When `take` has something to give; None while nothing is queued."""
        if not self.queued:
            return None
        if self._rate is None or self._tokens > 0:
            return now
        return self._filled - self._tokens / self._rate + 1e-4

    def forget(self, session: "Session") -> None:
        """Drop what is queued for a session that is being evicted."""
        for line, turns in ((session.chunks, self._ready), (session.background, self._background)):
            if line:
                turns.remove(session)
                self._sent.extend(line)
                line.clear()
        self.queued -= session.queued
        session.queued = 0

    def _next(self) -> "tuple[Session | None, deque[Chunk], deque[Session]]":
        self._turn += 1
        ready, background = self._ready, self._background
        if background and (not ready or self._turn % _BACKGROUND_TURN == 0):
            session = background.popleft()
            return session, session.background, background
        if ready:
            session = ready.popleft()
            return session, session.chunks, ready
        return None, deque(), ready

    def _recycle(self) -> None:
        spare = self._spare
        for chunk in self._sent:
            if len(spare) < _SPARE_CHUNKS:
                chunk.fill = 0
                chunk.items.clear()
                spare.append(chunk)
        self._sent.clear()

    def _drop_empty(self) -> None:
        """Chunks that were opened for an answer which then was none."""
        for turns in (self._ready, self._background):
            while turns:
                session = turns.popleft()
                line = session.background if turns is self._background else session.chunks
                self._spare.extend(line)
                line.clear()

    def _seal(self, session: "Session", chunk: Chunk, clock: int, now: float, sent: list[Sent]) -> int:
        """Seal a chunk's datagrams and cut them into trains of equal segments; how many bytes they are."""
        view, buffer, life, number, total = chunk.view, chunk.buffer, self._life, session.packet, 0
        pack, nonce, encrypt = HEADER.pack_into, NONCE.pack, session.cipher.encrypt_into
        address, identity = chunk.address, session.id
        first = last = segment = 0  # the train so far: where it begins and ends, its segment size; 0: closed
        for start, end, kind, echo, packet, arrived in chunk.items:
            size = end - start
            if echo:
                session.pack_echo(buffer, echo, packet, now - arrived)
            pack(buffer, start, MAGIC, kind, size, clock, identity, number, life)
            body = start + _HEAD
            encrypt(nonce(life, number), view[body : end - TAG], view[start:body], view[body:end])
            number += 1
            total += size
            if start != last or size > segment:
                if last > first:
                    sent.append((view[first:last], segment if last - first > segment else 0, address))
                first, segment = start, size
            last = end
            if size < segment:
                sent.append((view[first:last], segment, address))
                first, segment = end, 0
        if last > first:
            sent.append((view[first:last], segment if last - first > segment else 0, address))
        session.packet = number
        return total
