"""A daemon's send queue: answers are laid out in 64 KiB chunks, one session each, and sealed when their turn comes.

Without a cap everything leaves at once. With one, what carries no data goes first (its sender would repeat itself if it
had to wait behind bulk), then sessions take turns by bytes (deficit round robin, in its surplus form:
who has sent too much waits until its share has caught up), foreground before background, at 0.9 of the uplink.

Sealing late keeps packet numbers in the order of leaving, which the client's loss detection relies on. The clock in a
header is the time the datagram was queued: so the wait for a capped uplink is part of the delay that clients measure
and keep short, while the `held` of an ECHO is the time before, disk and all.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from store.limits import (
    BUSY_MS_MAX,
    BUSY_MS_MIN,
    EGRESS_DEPTH_S,
    EGRESS_QUEUE_MAX,
    EGRESS_SHARE,
    GSO_SEGMENTS_MAX,
    SESSION_QUEUE_MAX,
)
from store.wire.header import DATA_CAPPED, HEADER, MAGIC, NONCE, TAG
from store.wire.seal import clock_us

if TYPE_CHECKING:
    from store.session.peer import Session

CHUNK: Final = 65_507  # bytes; one send with segmentation carries no more
_SPARE_CHUNKS: Final = 64  # kept for the next tick; more are given back to the allocator
_QUANTUM: Final = 8192  # bytes of a session's turn
_BACKGROUND_TURN: Final = 16  # background gets one turn in so many while foreground waits
_HEAD: Final = HEADER.size
_NEVER: Final = float("inf")

Sent = tuple[memoryview, int, Any]  # bytes, segment size (0: one datagram), address
Item = tuple[int, int, int, int, int, float]  # start, end, kind, where the ECHO goes (0: none), packet, arrival


class Chunk:
    """One buffer of datagrams to one address, still unsealed."""

    __slots__ = ("address", "buffer", "deadline", "fill", "items", "times", "view")

    def __init__(self) -> None:
        self.buffer = bytearray(CHUNK)
        self.view = memoryview(self.buffer)
        self.fill = 0
        self.items: list[Item] = []
        self.times: list[float] = []  # when they were queued, if the uplink is capped
        self.address: Any = None
        self.deadline = _NEVER  # after it nobody waits for any of this


class Egress:
    """Chunks waiting to be sent, of all sessions."""

    __slots__ = (
        "_background", "_chunk_max", "_filled", "_fresh", "_life", "_rate", "_ready", "_sent", "_spare", "_tokens",
        "_turn", "_urgent", "expired", "flags", "queued",
    )

    def __init__(self, now: float, life: int, uplink: float | None) -> None:
        """`uplink` in bytes per second is what the line to the clients carries; None: no cap."""
        self._life = life
        self._rate = None if uplink is None else uplink * EGRESS_SHARE
        # a capped line is not blocked for long by one chunk
        self._chunk_max = CHUNK if self._rate is None else max(int(self._rate * EGRESS_DEPTH_S), _QUANTUM)
        self._tokens = 0.0
        self._filled = now
        # sessions with chunks, in turn
        self._urgent: deque[Session] = deque()
        self._ready: deque[Session] = deque()
        self._background: deque[Session] = deque()
        self._spare: list[Chunk] = []
        self._sent: list[Chunk] = []  # given out by the last `take`
        self._fresh: list[Chunk] = []  # with items queued since the last `take`, if the uplink is capped
        self._turn = 0
        self.queued = 0  # bytes
        self.expired = 0  # datagrams dropped because nobody waits for them any more
        self.flags = 0 if uplink is None else DATA_CAPPED  # of every DATA

    def retry_after(self, session: "Session", size: int) -> int:
        """0: `size` more bytes may be queued. Else refuse, and tell the client to come back in so many ms."""
        queued = self.queued + size
        if self._rate is None:
            return 0 if queued <= EGRESS_QUEUE_MAX else BUSY_MS_MIN
        if queued <= EGRESS_QUEUE_MAX and session.queued + size <= SESSION_QUEUE_MAX:
            return 0
        return max(BUSY_MS_MIN, min(int(queued * 1000 / self._rate), BUSY_MS_MAX))

    def urgent(self, session: "Session", size: int, address: Any) -> Chunk:
        """As `chunk`, for what carries no data."""
        line = session.urgent
        if not line:
            self._urgent.append(session)
        elif line[-1].fill + size <= CHUNK and line[-1].address == address and len(line[-1].items) < GSO_SEGMENTS_MAX:
            return line[-1]
        return self._open(line, address, _NEVER)

    def chunk(self, session: "Session", size: int, address: Any, background: int, deadline: float) -> Chunk:
        """The chunk of this session and address that has `size` bytes and a segment free.

        It need not be sent after the latest `deadline` of those who share it.
        """
        line = session.background if background else session.chunks
        if line:
            last = line[-1]
            fits = last.fill + size <= CHUNK and last.fill < self._chunk_max
            if fits and last.address == address and len(last.items) < GSO_SEGMENTS_MAX:
                last.deadline = deadline if deadline > last.deadline else last.deadline
                return last
        else:
            (self._background if background else self._ready).append(session)
        return self._open(line, address, deadline)

    def _open(self, line: deque[Chunk], address: Any, deadline: float) -> Chunk:
        fresh = self._spare.pop() if self._spare else Chunk()
        fresh.address = address
        fresh.deadline = deadline
        line.append(fresh)
        return fresh

    def put(self, session: "Session", chunk: Chunk, item: Item) -> None:
        """Queue the datagram at [start, end) of `chunk`."""
        chunk.items.append(item)
        if self._rate is not None:
            self._fresh.append(chunk)
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
            for chunk in self._fresh:
                chunk.times.extend([now] * (len(chunk.items) - len(chunk.times)))
            self._fresh.clear()
            self._tokens = min(self._tokens + (now - self._filled) * self._rate, EGRESS_DEPTH_S * self._rate)
            self._filled = now
        sent: list[Sent] = []
        while self._rate is None or self._tokens > 0 or self._urgent:
            session, line, turns = self._next()
            if session is None:
                break
            chunk = line.popleft()
            self._sent.append(chunk)
            if line:
                turns.append(session)
            if chunk.deadline >= now:
                size = self._seal(session, chunk, now, sent)
                self._tokens -= size
            else:
                size = sum(item[1] - item[0] for item in chunk.items)
                self.expired += len(chunk.items)
            session.surplus += size
            session.queued -= size
            self.queued -= size
        return sent

    def deadline(self, now: float) -> float | None:
        """When `take` has something to give; None while nothing is queued."""
        if not self.queued:
            return None
        if self._rate is None or self._tokens > 0 or self._urgent:
            return now
        return self._filled - self._tokens / self._rate + 1e-4

    def forget(self, session: "Session") -> None:
        """Drop what is queued for a session that is being evicted."""
        for line, turns in self._lines(session):
            if line:
                turns.remove(session)
                self._sent.extend(line)
                line.clear()
        self.queued -= session.queued
        session.queued = 0

    def _lines(self, session: "Session") -> "tuple[tuple[deque[Chunk], deque[Session]], ...]":
        return (
            (session.urgent, self._urgent), (session.chunks, self._ready), (session.background, self._background)
        )

    def _next(self) -> "tuple[Session | None, deque[Chunk], deque[Session]]":
        if self._urgent:
            session = self._urgent.popleft()
            return session, session.urgent, self._urgent
        self._turn += 1
        ready, background = self._ready, self._background
        if background and (not ready or self._turn % _BACKGROUND_TURN == 0):
            session = background.popleft()
            return session, session.background, background
        if len(ready) == 1:
            ready[0].surplus = 0
        while ready:
            session = ready.popleft()
            if session.surplus < _QUANTUM:
                return session, session.chunks, ready
            session.surplus -= _QUANTUM
            ready.append(session)
        return None, deque(), ready

    def _recycle(self) -> None:
        spare = self._spare
        for chunk in self._sent:
            if len(spare) < _SPARE_CHUNKS:
                chunk.fill = 0
                chunk.items.clear()
                chunk.times.clear()
                spare.append(chunk)
        self._sent.clear()

    def _drop_empty(self) -> None:
        """Chunks that were opened for an answer which then was none."""
        for turns in (self._urgent, self._ready, self._background):
            while turns:
                for line, _ in self._lines(turns.popleft()):
                    self._spare.extend(line)
                    line.clear()

    def _seal(self, session: "Session", chunk: Chunk, now: float, sent: list[Sent]) -> int:
        """Seal a chunk's datagrams and cut them into trains of equal segments; how many bytes they are."""
        view, buffer, life, number, total = chunk.view, chunk.buffer, self._life, session.packet, 0
        pack, nonce, encrypt = HEADER.pack_into, NONCE.pack, session.cipher.encrypt_into
        address, identity = chunk.address, session.id
        times, clock, queued = iter(chunk.times) if chunk.times else None, clock_us(now), now
        first = last = segment = 0  # the train so far: where it begins and ends, its segment size; 0: closed
        for start, end, kind, echo, packet, arrived in chunk.items:
            size = end - start
            if times is not None:
                queued = next(times)
                clock = clock_us(queued)
            if echo:
                session.pack_echo(buffer, echo, packet, queued - arrived)
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
