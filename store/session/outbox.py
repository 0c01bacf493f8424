"""What a client sends in one go: datagrams packed and sealed in place, cut into trains of equal segments."""

from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from store.limits import GSO_SEGMENTS_MAX
from store.wire.header import HEADER, MAGIC, NONCE, TAG, TICKET_LENGTH, TICKETED
from store.wire.seal import clock_us

_CHUNK: Final = 65_507  # one send with segmentation carries no more
_HEAD: Final = HEADER.size
_PLAIN: Final = _HEAD + TAG
_SPARE: Final = 8  # buffers kept between ticks

Sent = tuple[memoryview, int]  # bytes, segment size (0: one datagram)


class Outbox:
    """The send side of a session: cipher, packet numbers, ticket, stamp, and the buffers of this tick.

    `place` finds room for a datagram; its plaintext goes to `buffer[body:]`; `post` seals it.
    """

    __slots__ = (
        "_clock", "_encrypt", "_fill", "_first", "_last", "_segment", "_segments", "_session", "_spare", "_start",
        "_used", "attach", "body", "buffer", "number", "packet", "sent", "size", "stamp", "ticket", "view",
    )

    def __init__(self, cipher: AESGCM, session: int, ticket: bytes) -> None:
        self._encrypt = cipher.encrypt_into
        self._session = session
        self.ticket = TICKET_LENGTH.pack(len(ticket)) + ticket
        self.attach = True  # put the ticket in: the daemon may not know the session
        self.stamp = 0  # proof of this end's address, 0: none yet
        self.packet = 0  # number of the next datagram; never used twice
        self.number = 0  # of the newest request
        self.size = 1400  # the largest datagram that may be sent or asked for
        self.buffer = bytearray(_CHUNK)
        self.view = memoryview(self.buffer)
        self.body = 0
        self.sent: list[Sent] = []
        self._spare: list[bytearray] = []
        self._used: list[bytearray] = []
        self._clock = 0
        self._fill = self._start = 0
        self._first = self._last = self._segment = self._segments = 0

    def next_number(self) -> int:
        """A number for a request; 0 is none."""
        self.number = self.number % 0xFFFF_FFFF + 1
        return self.number

    @property
    def overhead(self) -> int:
        """Bytes around the plaintext of the next datagram."""
        return _HEAD + TAG + (len(self.ticket) if self.attach else 0)

    def begin(self, now: float) -> None:
        """Start a tick: what was given out by the last one is used again."""
        self._clock = clock_us(now)
        self.sent = []
        if self._used:
            self._spare = self._used[:_SPARE]
            self._used = []
        self._fill = self._first = self._last = self._segment = self._segments = 0

    def place(self, length: int) -> int:
        """Room for a datagram with up to `length` bytes of plaintext; where that begins in `buffer`."""
        start = self._fill
        if start + length + _PLAIN > _CHUNK or self.attach:
            return self._place_ticket(length)
        self._start = start
        body = self.body = start + _HEAD
        return body

    def _place_ticket(self, length: int) -> int:
        if self._fill + length + self.overhead > _CHUNK:
            self._next_chunk()
        start = self._start = self._fill
        body = start + _HEAD
        if self.attach:
            end = body + len(self.ticket)
            self.buffer[body:end] = self.ticket
            body = end
        self.body = body
        return body

    def _next_chunk(self) -> None:
        self._close_train()
        self._used.append(self.buffer)
        self.buffer = self._spare.pop() if self._spare else bytearray(_CHUNK)
        self.view = memoryview(self.buffer)
        self._fill = self._first = self._last = 0

    def post(self, kind: int, length: int) -> int:
        """Seal the placed datagram, whose plaintext took `length` bytes; its size."""
        start, body, view, packet = self._start, self.body, self.view, self.packet
        end = body + length + TAG
        size = end - start
        if self.attach:
            kind |= TICKETED
        HEADER.pack_into(view, start, MAGIC, kind, size, self._clock, self._session, packet, 0)
        self._encrypt(NONCE.pack(0, packet), view[body : end - TAG], view[start:body], view[body:end])
        self.packet = packet + 1
        self._fill = end
        if size > self._segment or self._segments == GSO_SEGMENTS_MAX:
            self._close_train()
            self._first, self._segment = start, size
        self._last = end
        self._segments += 1
        if size < self._segment:
            self._close_train()
        return size

    def _close_train(self) -> None:
        first, last = self._first, self._last
        if last > first:
            self.sent.append((self.view[first:last], self._segment if self._segments > 1 else 0))
        self._first = last
        self._segment = self._segments = 0

    def finish(self) -> list[Sent]:
        """All of this tick's buffers."""
        self._close_train()
        return self.sent
