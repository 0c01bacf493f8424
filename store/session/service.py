"""The daemon's end of all its clients' transport sessions, without I/O.

One tick of the shell: `receive` for every buffer that the socket gave, take `requests`, answer them (`reply`, or
`begin_data` and `end_data`), `transmit` and send what it gives, `release` the arena. Requests whose answers come later
(after a sync, from a thread) are answered in a later tick. See TRANSPORT.md and store/wire/PROTOCOL.md.
"""

from collections.abc import Sequence
from typing import Any, Final

from store.errors import Status
from store.limits import AMPLIFICATION_MAX, BUSY_MS_MIN, DATAGRAM_MAX, MIB, NAME_MAX
from store.session.acks import Acks
from store.session.assembly import Assemblies, Assembly, Refusal
from store.session.counters import ServiceCounters
from store.session.data import DataSlots
from store.session.egress import Egress, Sent
from store.session.peer import Answer, Session
from store.session.sessions import Keyring, Sessions
from store.session.stamp import make_stamp, stamp_epoch, stamp_is_right
from store.wire.header import (
    HEADER,
    NONCE,
    PROBE,
    PROBE_ACK,
    REPLY,
    REQUEST,
    RETRY,
    TAG,
    TICKET_LENGTH,
    TICKETED,
    Flag,
    Kind,
    Malformed,
    Op,
)
from store.wire.message import HEADROOM, OVERHEAD, STAMP, STAMP_AT, Request, named_rightly, parse_probe, parse_request
from store.wire.replay import pack_ack
from store.wire.seal import CLOCK_MASK, InvalidTag, datagrams, ticket_end

ARENA: Final = 2 * MIB  # decrypted requests of one tick
SWEEP_S: Final = 1.0  # between looks at requests that are half received
_HEAD: Final = HEADER.size
_BASIC_REPLY: Final = OVERHEAD + REPLY.size
_REQUEST, _FRAGMENT, _PROBE = int(Kind.REQUEST), int(Kind.FRAGMENT), int(Kind.PROBE)
_READ, _LIST, _FIRST_MUTATION = int(Op.READ), int(Op.LIST), int(Op.WRITE)
_BACKGROUND: Final = int(Flag.BACKGROUND)
_OPS: Final = frozenset(int(op) for op in Op)
_BUSY: Final[Answer] = (int(Status.BUSY), 0, 0, 0, BUSY_MS_MIN)


class Service:
    """All transport sessions of one daemon."""

    def __init__(
        self, now: float, keyring: Keyring, life: int, first_packet: int, *, uplink: float | None = None,
        counters: ServiceCounters | None = None,
    ) -> None:
        """`life`: random, not 0, new in every process. `first_packet`: the wall clock in microseconds at start.

        Together they keep nonces apart across restarts. `uplink`: bytes per second to the clients, None: no cap.
        """
        if not 0 < life < 1 << 32:
            raise ValueError("a daemon's life is a random number of 32 bits other than 0")
        self.requests: list[Request] = []
        self.counters = ServiceCounters() if counters is None else counters
        self._sessions = Sessions(keyring, first_packet)
        self._egress = Egress(now, life, uplink)
        self._slots = DataSlots(self._egress)
        self._acks = Acks()
        self._assemblies = Assemblies()
        self._sweep = now + SWEEP_S
        self._epoch = 0  # of stamps
        self._arena = memoryview(bytearray(ARENA))
        self._at = 0  # where the next request's body goes

    # ---- receiving

    def receive(self, now: float, wall: float, view: memoryview, address: Any) -> None:
        """Take one received buffer (one datagram, or several coalesced) from `address`.

        `wall` is the time in unix seconds, for tickets and stamps. Whole requests are appended to `requests`. What
        does not authenticate is counted and never answered.
        """
        counters, known, nonce = self.counters, self._sessions.known, NONCE.pack
        counters.bytes_in += len(view)
        self._epoch = stamp_epoch(wall)
        for start, kind, end, clock, identity, packet, life in datagrams(view):
            counters.datagrams_in += 1
            body = start + _HEAD
            if kind & TICKETED:
                kind, body = kind ^ TICKETED, ticket_end(view, start, kind, end)  # noqa: PLW2901
            if life or body < 0:
                counters.malformed += 1
                continue
            session = known.get(identity)
            if session is None:
                session = self._meet(view, start, body, identity, packet)
                if session is None:
                    counters.unauthenticated += 1
                    continue
            elif packet <= session.window.top and session.window.has(packet):
                counters.replays += 1
                continue
            size = end - body - TAG
            at = self._at + HEADROOM
            if at + size > ARENA:
                self.retire()
                at = HEADROOM
            try:
                session.cipher.decrypt_into(
                    nonce(0, packet), view[body:end], view[start:body], self._arena[at : at + size]
                )
            except InvalidTag:
                counters.unauthenticated += 1
                continue
            budget = DATAGRAM_MAX
            if address != session.address:
                budget = self._prove(session, address, kind, at, size, end - start)
                if not budget:
                    continue
            session.used = now
            gap = session.window.add(packet)
            if packet == session.window.top:
                session.top_clock, session.top_at = clock, now
            try:
                if kind == _REQUEST:
                    self._request(now, wall, session, address, packet, at + size, budget, gap)
                else:
                    self._other(now, wall, session, address, kind, packet, at, size, end - start, gap)
            except Malformed:
                counters.malformed += 1

    def _other(
        self, now: float, wall: float, session: Session, address: Any, kind: int, packet: int, at: int, size: int,
        wire: int, gap: bool,
    ) -> None:
        data = self._arena[at : at + size]
        if kind == _FRAGMENT:
            self._fragment(now, wall, session, address, packet, data, gap)
        elif kind == _PROBE:
            self._probe(session, address, packet, data, wire)
        else:
            raise Malformed("a kind of datagram that clients do not send")

    def _meet(self, view: memoryview, start: int, body: int, identity: int, packet: int) -> Session | None:
        """A session for a datagram of an unknown one, if it carries a ticket."""
        ticket = bytes(view[start + _HEAD + TICKET_LENGTH.size : body])
        return self._sessions.meet(identity, ticket, packet) if ticket else None

    def _admit(self, session: Session) -> None:
        """The first datagram of a session has opened: keep the session, forget old ones if there are too many."""
        for old in self._sessions.surplus():
            self._egress.forget(old)
            self._acks.forget(old)
            self.counters.assemblies_dropped += self._assemblies.forget(old)
            self.counters.sessions_evicted += 1
        session.used = 0.0
        self._sessions.admit(session)
        self.counters.sessions_opened += 1

    def _prove(self, session: Session, address: Any, kind: int, at: int, size: int, wire: int) -> int:
        """Judge a datagram from an address other than the session's: the bytes that may be answered, 0: refused.

        A right stamp proves the address. In a session that has proved none yet, a request is handled without, if its
        answer stays below three times its own length; everything else gets a RETRY and nothing more, and is not noted
        in the replay window, for an ACK would say it was taken.
        """
        if session.used < 0:
            self._admit(session)
        stamp = 0
        if kind == _REQUEST and size >= REQUEST.size:
            stamp = STAMP.unpack_from(self._arena, at + STAMP_AT)[0]
        elif kind == _PROBE and size >= PROBE.size:
            stamp = STAMP.unpack_from(self._arena, at)[0]
        if stamp and stamp_is_right(stamp, session.secret, session.id, address, self._epoch):
            session.address = address
            return DATAGRAM_MAX
        if kind == _REQUEST and session.address is None:
            return AMPLIFICATION_MAX * wire - _BASIC_REPLY  # an ACK may go there too
        self._retry(session, address)
        return 0

    def _request(
        self, now: float, wall: float, session: Session, address: Any, packet: int, end: int, budget: int, gap: bool
    ) -> None:
        request = Request()
        parse_request(request, self._arena[self._at : end], now)
        request.session = session
        request.address = address
        request.packet = packet
        request.serial = session.serial
        request.budget = budget
        op = request.op
        if budget < DATAGRAM_MAX and (op == _LIST or (op == _READ and request.wire > budget)):
            self._retry(session, address)
            return
        if op != _READ:
            self._acks.owe(now, session, request.ack_delay * 0.001, gap)
        if self._allowed(wall, session, request):
            if op >= _FIRST_MUTATION:
                self._at = end
            self.requests.append(request)

    def _allowed(self, wall: float, session: Session, request: Request) -> bool:
        """Judge ticket, operation and name; what is refused here is answered here."""
        pool, op = request.group >> 16, request.op
        if pool << 8 | op in session.free_rights and wall < session.expires and 0 < len(request.name) <= NAME_MAX:
            self.counters.requests += 1
            return True
        status = Status.OK
        if wall >= session.expires:
            self.counters.expired += 1
            status = Status.EXPIRED
        elif pool << 8 | op not in session.free_rights:
            if session.ticket.allows(pool, op, b""):
                session.free_rights.add(pool << 8 | op)
            elif op not in _OPS:
                status = Status.UNSUPPORTED
            elif not session.ticket.allows(pool, op, request.name):
                self.counters.denied += 1
                status = Status.DENIED
        if status is Status.OK:
            if named_rightly(request):
                self.counters.requests += 1
                return True
            status = Status.INVALID
        self.reply(request, status)
        return False

    def _fragment(
        self, now: float, wall: float, session: Session, address: Any, packet: int, data: memoryview, gap: bool
    ) -> None:
        taken = self._assemblies.take(now, session, data)
        if not isinstance(taken, Assembly):
            refusal, number = taken
            self._acks.owe(now, session, 0.0, True)
            if refusal is Refusal.ANSWERED:
                self._put_reply(session, address, number, session.answers[number], b"", 0)
            elif refusal is Refusal.NO_MEMORY:
                self.counters.busy += 1
                self._put_reply(session, address, number, _BUSY, b"", 0)
            return
        delay = self._assemblies.delay
        whole = taken.whole
        at_once = gap or whole or self._assemblies.duplicate
        self._acks.owe(now, session, session.ack_delay if delay is None else delay, at_once)
        if whole:
            request = Request()
            parse_request(request, self._assemblies.finish(now, session, taken), now)
            request.number = taken.number
            request.session = session
            request.address = address
            request.packet = packet
            request.serial = session.serial
            request.budget = DATAGRAM_MAX
            if self._allowed(wall, session, request):
                self.requests.append(request)

    def _probe(self, session: Session, address: Any, packet: int, data: memoryview, wire: int) -> None:
        _, wanted = parse_probe(data)
        self._slots.small(session, address, Kind.PROBE_ACK, PROBE_ACK.pack(packet, wire), min(wanted, wire))

    def _retry(self, session: Session, address: Any) -> None:
        """Ask an address to prove itself: shorter than anything it answers."""
        self.counters.retries += 1
        stamp = make_stamp(session.secret, session.id, address, self._epoch)
        self._slots.small(session, address, Kind.RETRY, RETRY.pack(stamp), 0)

    # ---- answering

    def reply(
        self, request: Request, status: int, *, order: int = 0, verifier: int = 0, version: int = 0,
        object_size: int = 0, data: bytes | memoryview = b"",
    ) -> None:
        """End a request. With BUSY, `object_size` is the number of milliseconds after which to try again.

        `data` is at most `room(request)` bytes.
        """
        session = request.session
        answer = (int(status), order, verifier, version, object_size)
        if session.pending and self._assemblies.answered(session, request.number):
            if status != Status.BUSY:
                session.keep_answer(request.number, answer)
        elif request.op != _READ:
            self._acks.answered(session)
        address = session.address if request.budget == DATAGRAM_MAX else request.address
        if len(data) + _BASIC_REPLY > request.budget:
            self._retry(session, request.address)
            return
        self._put_reply(session, address, request.number, answer, data, request.flags & _BACKGROUND)

    @staticmethod
    def room(request: Request) -> int:
        """How many bytes of data a REPLY to this LIST, STAT or READ can carry."""
        return max(0, min(request.fragment, DATAGRAM_MAX) - _BASIC_REPLY)

    def _put_reply(
        self, session: Session, address: Any, number: int, answer: Answer, data: bytes | memoryview, background: int
    ) -> None:
        if session.stamp_epoch != self._epoch or session.stamp_address != address:
            session.stamp = make_stamp(session.secret, session.id, address, self._epoch)
            session.stamp_address, session.stamp_epoch = address, self._epoch
        self._slots.reply(session, address, number, answer, data, background)

    def begin_data(self, request: Request) -> list[tuple[int, list[memoryview]]] | None:
        """Where to read the answer of a READ into: for each range its offset and writable views, in order.

        Views of a range are as long together as the range. None: the queue is full and BUSY was answered. Follow
        with `end_data`, or with `cancel_data` and, then or later, a `reply` or another `begin_data`.
        """
        retry = self._egress.retry_after(request.session, request.wire)
        if retry:
            self.counters.busy += 1
            self.reply(request, Status.BUSY, object_size=retry)
            return None
        return self._slots.begin(request)

    def end_data(
        self, *, order: int, verifier: int, version: int, object_size: int,
        holes: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Answer the READ of the last `begin_data` with what now stands in its views.

        What lies beyond `object_size` is not sent. `holes` are (offset, length) in the object: a range wholly inside
        of one travels as its length only; where a hole covers part of a range, the views must have been zeroed.
        """
        self._slots.end(order, verifier, version, object_size, holes)

    def cancel_data(self) -> None:
        """Take back the last `begin_data`: its views will not be sent."""
        self._slots.cancel()

    def defer(self, now: float, request: Request) -> None:
        """A READ will take a while (a cold disk, a suspended group): tell its client that it was received, so that
        it is not asked for again."""
        self._acks.owe(now, request.session, request.session.ack_delay, False)

    # ---- sending and time

    @property
    def ready(self) -> int:
        """Bytes waiting for `transmit`; a shell that answers many reads sends whenever this passes 60 KiB."""
        return self._egress.queued

    def transmit(self, now: float) -> list[Sent]:
        """Sealed buffers to send: (bytes, segment size or 0 for one datagram, address). Valid until the next call."""
        if self._acks.waiting():
            self._put_acks(now)
        sent = self._egress.take(now)
        if self._egress.expired:
            self.counters.expired_deadlines += self._egress.expired
            self._egress.expired = 0
        if sent:
            counters = self.counters
            for view, segment, _ in sent:
                counters.bytes_out += len(view)
                counters.datagrams_out += -(-len(view) // segment) if segment else 1
        return sent

    def _put_acks(self, now: float) -> None:
        for session in self._acks.take(now):
            if session.address is None:
                continue
            clock = session.top_clock + int((now - session.top_at) * 1e6) & CLOCK_MASK
            ack = pack_ack(session.window, clock, self._assemblies.window())
            self._slots.small(session, session.address, Kind.ACK, ack, 0)
            self.counters.acks += 1

    def tick(self, now: float, wall: float) -> None:
        """Drop what was given up by its sender. Call when `deadline` has passed; then `transmit`."""
        self._epoch = stamp_epoch(wall)
        if now < self._sweep:
            return
        self._sweep = now + SWEEP_S
        for session, number in self._assemblies.stale(now):
            self.counters.assemblies_dropped += 1
            if session.address is not None:
                self._put_reply(session, session.address, number, _BUSY, b"", 0)

    def deadline(self, now: float) -> float | None:
        """When `tick` and `transmit` want to be called next; None: only after something was received."""
        deadline = self._acks.deadline()
        queue = self._egress.deadline(now)
        if queue is not None and (deadline is None or queue < deadline):
            deadline = queue
        if self._assemblies.waiting() and (deadline is None or self._sweep < deadline):
            deadline = self._sweep
        return deadline

    def release(self) -> None:
        """The views of all requests taken so far are no longer needed: reuse the arena."""
        self._at = 0

    def retire(self) -> None:
        """Views of requests taken so far stay good as long as they are held: go on in a new arena."""
        self._arena = memoryview(bytearray(ARENA))
        self._at = 0
