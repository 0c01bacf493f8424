"""The client's end of one transport session with one daemon, without I/O.

The shell calls `receive` for every buffer it drained from the socket, then `transmit` once and sends what it gives,
takes `completions`, and calls `tick` (then `transmit`) when `deadline` has passed. See store/wire/PROTOCOL.md.
"""

from typing import Final

from store.crypto.keys import derive_session_key
from store.errors import Status
from store.limits import BURST_MAX, LIVES_KEPT, REQUESTS_IN_FLIGHT
from store.session.credit import Credit
from store.wire.cut import range_within
from store.wire.header import (
    DATA,
    DATA_ECHO,
    DATA_HOLE,
    ECHO,
    FRAGMENT,
    HEADER,
    HOLE,
    NONCE,
    RANGE,
    TAG,
    TICKET_LENGTH,
    TICKETED,
    Flag,
    Kind,
    Malformed,
    Op,
)
from store.wire.message import OVERHEAD, STAMP_AT, pack_request, parse_reply, parse_retry
from store.wire.ranges import Ranges
from store.wire.replay import ReplayWindow
from store.wire.seal import InvalidTag, cipher, clock_us, datagrams, seal

_WINDOW: Final = 1 << 20
_RETRY_S: Final = 0.3
Sent = tuple[memoryview, int]


class Completion:
    """The end of a request. With BUSY, `length` is the number of milliseconds after which to try again."""

    __slots__ = ("data", "length", "number", "object_size", "order", "status", "verifier", "version")

    def __init__(
        self, number: int, status: Status, order: int = 0, verifier: int = 0, version: int = 0, object_size: int = 0,
        data: bytes = b"", length: int = 0,
    ) -> None:
        self.number = number
        self.status = status
        self.order = order
        self.verifier = verifier
        self.version = version
        self.object_size = object_size
        self.data = data  # of LIST and REDIRECT
        self.length = length  # bytes read


class _Asked:
    __slots__ = (
        "asked",
        "deadline",
        "due",
        "fields",
        "flags",
        "got",
        "head",
        "into",
        "length",
        "message",
        "name",
        "number",
        "offset",
        "size",
        "tries",
        "version",
    )


class Endpoint:
    def __init__(
        self, now: float, session_id: int, ticket: bytes, ticket_key: bytes, credit: Credit, *, mtu_hint: int = 65_535,
    ) -> None:
        self._id = session_id
        self._cipher = cipher(derive_session_key(ticket_key, session_id))
        self._ticket = TICKET_LENGTH.pack(len(ticket)) + ticket
        self._attach = True
        self._life = 0
        self._lives: list[int] = []
        self._window = ReplayWindow(0)
        self._packet = 0
        self._stamp = 0
        self._number = 0
        self._size = 1400 if mtu_hint < 60_028 else 60_000
        self._credit = credit
        self._queue: list[tuple[_Asked, int, int]] = []
        self._open: dict[int, _Asked] = {}
        self._bursts: dict[int, tuple[_Asked, int, int]] = {}
        self._done: list[Completion] = []
        self._scratch = memoryview(bytearray(65_536))
        self._now = now

    # ---- asking

    def request(
        self, now: float, op: int, group: int, name: bytes, *, order: int = 0, sequence: int = 0, floor: int = 0,
        scope: int = 0, generation: int = 0, offset: int = 0, size: int = 0, payload: bytes | memoryview = b"",
        flags: int = 0, deadline: float,
    ) -> int:
        """Send any request but READ; the number its `Completion` will have. `deadline`: seconds, on the clock of `now`.

        `payload` must stay unchanged until then. Raises OverflowError with `REQUESTS_IN_FLIGHT` in progress.
        """
        asked = self._new(now, deadline, flags)
        span = sequence - floor if op >= Op.WRITE else self._size
        asked.message = bytes(
            pack_request(
                op, flags, asked.number, group, name, left=max(1, int((deadline - now) * 1000)), order=order,
                sequence=sequence, scope=scope, generation=generation, offset=offset, size=size, span=span, ack_delay=1,
            )
        ) + bytes(payload)
        asked.into = None
        self._queue.append((asked, 0, len(asked.message)))
        return asked.number

    def read(
        self, now: float, group: int, name: bytes, offset: int, length: int, into: memoryview, *, order: int = 0,
        scope: int = 0, generation: int = 0, flags: int = 0, deadline: float,
    ) -> int:
        """Read [offset, offset + length) of an object into `into`; the number its `Completion` will have.

        Holes are filled with zeros. `Completion.length` bytes were read: fewer than asked where the object ends.
        With UNTORN all of it is of one version, else the completion is CONFLICT.
        """
        asked = self._new(now, deadline, flags)
        asked.fields = (group, name, order, scope, generation)
        asked.into = into
        asked.offset, asked.length = offset, length
        asked.got = Ranges()
        asked.version = asked.size = -1
        asked.asked = 0
        self._queue.append((asked, 0, length))
        return asked.number

    def _new(self, now: float, deadline: float, flags: int) -> _Asked:
        if len(self._open) >= REQUESTS_IN_FLIGHT:
            raise OverflowError("too many requests in flight to one daemon: wait for some to complete")
        self._number = self._number % 0xFFFF_FFFF + 1
        asked = _Asked()
        asked.number, asked.deadline, asked.flags, asked.tries = self._number, deadline, flags, 0
        asked.due = now + _RETRY_S
        self._open[self._number] = asked
        return asked

    def cancel(self, number: int) -> None:
        """Forget a request: nothing is written into its buffer from now on, and it does not complete."""
        self._open.pop(number, None)

    def completions(self) -> list[Completion]:
        """Requests that ended since the last call."""
        done, self._done = self._done, []
        return done

    # ---- sending

    def transmit(self, now: float) -> list[Sent]:
        """What to send now: (bytes, segment size or 0 for one datagram). Valid until the next call."""
        sent: list[Sent] = []
        queue, self._queue = self._queue, []
        for asked, start, end in queue:
            if asked.number not in self._open:
                continue
            if asked.into is not None:
                self._ask(now, asked, start, end, sent)
            else:
                self._write(now, asked, start, end, sent)
        return sent

    def _emit(self, now: float, kind: int, body: bytes | memoryview, sent: list[Sent]) -> None:
        ticket = self._ticket if self._attach else b""
        size = HEADER.size + len(ticket) + len(body) + TAG
        buffer = memoryview(bytearray(size))
        at = HEADER.size + len(ticket)
        buffer[HEADER.size : at] = ticket
        buffer[at : at + len(body)] = body
        kind |= TICKETED if ticket else 0
        seal(self._cipher, buffer, 0, at, size, kind, clock_us(now), self._id, self._packet, 0)
        self._packet += 1
        sent.append((buffer, 0))

    def _write(self, now: float, asked: _Asked, start: int, end: int, sent: list[Sent]) -> None:
        message = bytearray(asked.message)
        message[STAMP_AT : STAMP_AT + 8] = self._stamp.to_bytes(8, "little")
        room = self._size - OVERHEAD - (len(self._ticket) if self._attach else 0)
        if len(message) <= room:
            self._emit(now, Kind.REQUEST, message, sent)
            return
        if not self._stamp:
            self._emit(now, Kind.PROBE, bytes(1000), sent)
            return
        room -= FRAGMENT.size
        for at in range(start, end, room):
            piece = message[at : at + room]
            self._emit(now, Kind.FRAGMENT, FRAGMENT.pack(asked.number, at, len(message)) + piece, sent)

    def _ask(self, now: float, asked: _Asked, start: int, end: int, sent: list[Sent]) -> None:
        group, name, order, scope, generation = asked.fields
        at = start
        while at < end or at == start:
            length = min(end - at, range_within(BURST_MAX, self._size)) if end > at else 1
            self._number = self._number % 0xFFFF_FFFF + 1
            head = pack_request(
                Op.READ, asked.flags, self._number, group, name, left=max(1, int((asked.deadline - now) * 1000)),
                order=order, sequence=0, scope=scope, generation=generation, offset=0, size=0, span=self._size,
                ack_delay=0,
            )
            head[STAMP_AT : STAMP_AT + 8] = self._stamp.to_bytes(8, "little")
            self._bursts[self._number] = (asked, asked.offset + at, length)
            self._emit(now, Kind.REQUEST, head + RANGE.pack(asked.offset + at, length), sent)
            at += length

    # ---- receiving

    def receive(self, now: float, view: memoryview) -> None:
        """Take one received buffer. What does not authenticate, or was seen before, is ignored."""
        for start, kind, end, _clock, identity, packet, life in datagrams(view):
            if identity != self._id or not life:
                continue
            if life == self._life and self._window.has(packet):
                continue
            size = end - start - OVERHEAD
            body = self._scratch[:size]
            try:
                self._cipher.decrypt_into(
                    NONCE.pack(life, packet), view[start + HEADER.size : end], view[start : start + HEADER.size], body
                )
            except InvalidTag:
                continue
            if life != self._life and not self._reborn(now, life, packet):
                continue
            self._attach = False
            self._window.add(packet)
            try:
                self._dispatch(now, kind, body)
            except Malformed:
                continue

    def _reborn(self, now: float, life: int, packet: int) -> bool:
        if life in self._lives:
            return False
        first = self._life == 0
        self._lives = [*self._lives[1 - LIVES_KEPT :], life]
        self._life = life
        self._window = ReplayWindow(packet)
        if not first:
            self._resend(now)
            self._attach = True
        return True

    def _dispatch(self, now: float, kind: int, body: memoryview) -> None:
        if kind == Kind.DATA:
            self._data(body)
        elif kind == Kind.REPLY:
            self._reply(body)
        elif kind == Kind.RETRY:
            self._stamp = parse_retry(body)
            self._resend(now)

    def _resend(self, now: float) -> None:
        for asked in self._open.values():
            asked.due = now

    def _reply(self, body: memoryview) -> None:
        number, code, order, verifier, version, stamp, size, data = parse_reply(body)
        if stamp:
            self._stamp = stamp
        burst = self._bursts.pop(number, None)
        asked = self._open.pop(burst[0].number if burst else number, None)
        if asked is None:
            return
        status = Status(code)
        length = size if status is Status.BUSY else 0
        self._done.append(Completion(asked.number, status, order, verifier, version, size, bytes(data), length))

    def _data(self, body: memoryview) -> None:
        if len(body) < DATA.size:
            raise Malformed("shorter than a DATA")
        _, flags, _, number, offset, size, order, verifier, version = DATA.unpack_from(body)
        burst = self._bursts.get(number)
        at = DATA.size + (ECHO.size if flags & DATA_ECHO else 0)
        if burst is None or burst[0].number not in self._open or len(body) < at:
            return
        asked = burst[0]
        into = asked.into
        assert into is not None
        if asked.version not in (-1, version) and asked.flags & Flag.UNTORN:
            del self._open[asked.number]
            self._done.append(Completion(asked.number, Status.CONFLICT, order, verifier, version, size))
            return
        asked.version, asked.size = version, size
        start = offset - asked.offset
        if flags & DATA_HOLE:
            length = HOLE.unpack_from(body, at)[0]
            if not 0 <= start <= start + length <= asked.length:
                raise Malformed("a hole outside of what was asked")
            into[start : start + length] = bytes(length)
        else:
            length = len(body) - at
            if not 0 <= start <= start + length <= asked.length and length:
                raise Malformed("data outside of what was asked")
            into[start : start + length] = body[at:]
        if length:
            asked.got.add(start, start + length)
        want = max(0, min(asked.length, size - asked.offset))
        if asked.got.total >= want:
            del self._open[asked.number]
            self._done.append(Completion(asked.number, Status.OK, order, verifier, version, size, b"", want))

    # ---- time

    def tick(self, now: float) -> None:
        """Give up what is past its deadline, send again what got no answer. Then call `transmit`."""
        for asked in list(self._open.values()):
            if now >= asked.deadline:
                del self._open[asked.number]
                self._done.append(Completion(asked.number, Status.TIMEOUT))
            elif now >= asked.due:
                asked.tries += 1
                asked.due = now + _RETRY_S * (1 << min(asked.tries, 4))
                if asked.tries > 1:
                    self._attach = True
                if asked.into is None:
                    self._queue.append((asked, 0, len(asked.message)))
                else:
                    end = asked.length if asked.size < 0 else max(0, min(asked.length, asked.size - asked.offset))
                    self._queue.extend((asked, a, b) for a, b in asked.got.missing(0, end) or [(0, asked.length)])

    def deadline(self) -> float | None:
        """When `tick` and `transmit` want to be called next; None: nothing is in progress."""
        return min((min(asked.due, asked.deadline) for asked in self._open.values()), default=None)
