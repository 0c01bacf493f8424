"""The daemon's end of all its clients' transport sessions, without I/O.

One tick of the shell: `receive` for every buffer that the socket gave, take `requests`, answer them (`reply`, or
`begin_data` and `end_data`), `transmit` what is ready, `release` the arena. Requests whose answers come later (after
a sync, from a thread) are answered in a later tick. See store/wire/PROTOCOL.md.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from store.crypto.keys import derive_session_key, derive_ticket_key
from store.crypto.ticket import Ticket, TicketInvalid, open_ticket
from store.errors import Status
from store.limits import (
    ACK_EVERY,
    AMPLIFICATION_MAX,
    ASSEMBLY_IDLE_S,
    BUSY_MS_MIN,
    DATAGRAM_MAX,
    MIB,
    TICKETS_CACHED,
    TRANSPORT_SESSIONS,
)
from store.session.assembly import ACK_DELAY_AT, MESSAGE_MAX, Assembly, WriteMemory
from store.session.counters import ServiceCounters
from store.session.data import DataSlots
from store.session.egress import Egress, Sent
from store.session.peer import Session
from store.session.stamp import make_stamp, stamp_epoch, stamp_is_right
from store.wire.cut import answer_size
from store.wire.header import (
    FRAGMENT,
    HEADER,
    NONCE,
    PROBE_ACK,
    REPLY,
    REQUEST,
    RETRY,
    TAG,
    TICKET_LENGTH,
    TICKETED,
    Kind,
    Malformed,
    Op,
)
from store.wire.message import HEADROOM, Request, named_rightly, parse_probe, parse_request
from store.wire.replay import pack_ack
from store.wire.seal import CLOCK_MASK, InvalidTag, cipher, datagrams, ticket_end

ARENA: Final = 2 * MIB  # decrypted requests of one tick; a tick drains less
_SWEEP_S: Final = 1.0
_PENDING_S: Final = 120.0  # a fragmented request the shell has not answered by then no longer holds memory
_REPLY_AT: Final = HEADER.size
_BASIC_REPLY: Final = HEADER.size + REPLY.size + TAG

Known = tuple[Ticket, bytes, bytes]  # ticket, its key, the secret it was derived from


class Keyring(Protocol):
    """The daemon's secrets by key epoch."""

    def secret(self, key_epoch: int) -> bytes | None: ...


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
        self._keyring = keyring
        self._first_packet = first_packet  # above every number any forgotten session used
        self._sessions: dict[int, Session] = {}
        self._tickets: dict[bytes, Known] = {}  # proved ones
        self._met: tuple[bytes, Known]  # the ticket of the session being opened
        self._memory = WriteMemory()
        self._egress = Egress(now, life, uplink)
        self._slots = DataSlots(self._egress)
        self._owing: dict[Session, None] = {}  # sessions with something unacknowledged
        self._ack_now: dict[Session, None] = {}
        self._assembling: dict[Session, None] = {}
        self._sweep = now + _SWEEP_S
        self._epoch = 0
        self._arena = memoryview(bytearray(ARENA))
        self._at = 0
        self._scratch = memoryview(bytearray(65_536))

    # ---- receiving

    def receive(self, now: float, wall: float, view: memoryview, address: Any) -> None:
        """Take one received buffer (one datagram, or several coalesced) from `address`.

        `wall` is the time in unix seconds, for tickets and stamps. Whole requests are appended to `requests`. What
        does not authenticate is counted and never answered.
        """
        counters, sessions, nonce = self.counters, self._sessions, NONCE.pack
        counters.bytes_in += len(view)
        self._epoch = stamp_epoch(wall)
        for start, kind, end, clock, identity, packet, life in datagrams(view):
            counters.datagrams_in += 1
            body = ticket_end(view, start, kind, end) if kind & TICKETED else start + 28
            if life or body < 0:
                counters.malformed += 1
                continue
            session = sessions.get(identity)
            if session is None:
                session = self._meet(view, start, body, identity, packet)
                if session is None:
                    counters.unauthenticated += 1
                    continue
            elif session.window.has(packet):
                counters.replays += 1
                continue
            size = end - body - TAG
            if self._at + HEADROOM + size > ARENA:
                self.retire()
            at = self._at + HEADROOM
            try:
                session.cipher.decrypt_into(
                    nonce(0, packet), view[body:end], view[start:body], self._arena[at : at + size]
                )
            except InvalidTag:
                counters.unauthenticated += 1
                continue
            if session.used < 0:
                self._admit_session(session)
            gap = session.window.add(packet)
            session.used = now
            if packet >= session.window.top:
                session.top_clock, session.top_at = clock, now
            what = kind & ~TICKETED
            if what == Kind.REQUEST:
                self._request(now, wall, session, address, packet, size, end - start, gap)
            elif what == Kind.FRAGMENT:
                self._fragment(now, wall, session, address, packet, size, gap)
            elif what == Kind.PROBE:
                self._probe(session, address, packet, size, end - start)
            else:
                counters.malformed += 1

    def _request(
        self, now: float, wall: float, session: Session, address: Any, packet: int, size: int, wire: int, gap: bool
    ) -> None:
        body = self._arena[self._at : self._at + HEADROOM + size]
        request = Request()
        try:
            parse_request(request, body, now)
        except Malformed:
            self.counters.malformed += 1
            return
        request.session = session
        request.address = address
        request.packet = packet
        request.serial = session.serial
        request.budget = DATAGRAM_MAX
        if address != session.address and not self._proved(session, address, request, wire):
            return
        if request.op != Op.READ:
            self._owe(now, session, request.ack_delay * 0.001, gap)
        if self._allowed(wall, session, request):
            if request.op >= Op.WRITE:
                self._at += HEADROOM + size
            self.requests.append(request)

    def _proved(self, session: Session, address: Any, request: Request, wire: int) -> bool:
        """Whether a request from an address other than the session's may be handled; if not, RETRY is sent.

        A right stamp proves the address. In a session that has proved none yet, a request is handled without if its
        answer stays below three times its own length; after that an unproved address gets nothing but RETRY.
        """
        if request.stamp and stamp_is_right(request.stamp, session.secret, session.id, address, self._epoch):
            session.address = address
            return True
        budget = AMPLIFICATION_MAX * wire - _BASIC_REPLY  # an ACK may go there too
        if session.address is None and request.op != Op.LIST and self._answer_size(request) <= budget:
            request.budget = budget
            return True
        self._retry(session, address)
        return False

    @staticmethod
    def _answer_size(request: Request) -> int:
        return sum(answer_size(length, request.fragment) for _, length in request.ranges)

    def _allowed(self, wall: float, session: Session, request: Request) -> bool:
        """Judge ticket, name and operation; what is refused here is answered here."""
        if wall >= session.expires:
            self.counters.expired += 1
            self.reply(request, Status.EXPIRED)
            return False
        pool, op = request.group >> 16, request.op
        if pool << 8 | op not in session.free_rights:
            if session.ticket.allows(pool, op, b""):
                session.free_rights.add(pool << 8 | op)
            elif not self._known(op):
                self.reply(request, Status.UNSUPPORTED)
                return False
            elif not session.ticket.allows(pool, op, request.name):
                self.counters.denied += 1
                self.reply(request, Status.DENIED)
                return False
        if not named_rightly(request):
            self.reply(request, Status.INVALID)
            return False
        self.counters.requests += 1
        return True

    @staticmethod
    def _known(op: int) -> bool:
        return op in Op._value2member_map_

    def _fragment(
        self, now: float, wall: float, session: Session, address: Any, packet: int, size: int, gap: bool
    ) -> None:
        if address != session.address:
            self._retry(session, address)
            return
        data = self._arena[self._at + HEADROOM : self._at + HEADROOM + size]
        if size <= FRAGMENT.size:
            self.counters.malformed += 1
            return
        number, offset, total = FRAGMENT.unpack_from(data)
        if not REQUEST.size < total <= MESSAGE_MAX or offset + size - FRAGMENT.size > total:
            self.counters.malformed += 1
            return
        assembly = session.assemblies.get(number)
        if assembly is None:
            assembly = self._begin(now, session, number, offset, total)
            if assembly is None:
                self._owe(now, session, 0.0, True)
                return
        elif assembly.total != total:
            self.counters.malformed += 1
            return
        new = assembly.put(offset, data[FRAGMENT.size :], now)
        delay = assembly.buffer[HEADROOM + ACK_DELAY_AT] * 0.001 if offset == 0 else session.ack_delay
        self._owe(now, session, delay, gap or not new or assembly.whole)
        if assembly.whole:
            self._assembled(now, wall, session, address, packet, number, assembly)

    def _begin(self, now: float, session: Session, number: int, offset: int, total: int) -> Assembly | None:
        """A place for a fragmented request, or None if it is known already or there is no memory."""
        if number in session.pending:
            return None
        answer = session.answers.get(number)
        if answer is not None:
            self._put_reply(session, session.address, number, answer, b"", 0)
            return None
        if not self._memory.grant(total, len(session.assemblies) + len(session.pending)):
            self.counters.busy += 1
            self._put_reply(session, session.address, number, (Status.BUSY, 0, 0, 0, BUSY_MS_MIN), b"", 0)
            return None
        assembly = session.assemblies[number] = Assembly(total, now)
        self._assembling[session] = None
        return assembly

    def _assembled(
        self, now: float, wall: float, session: Session, address: Any, packet: int, number: int, assembly: Assembly
    ) -> None:
        del session.assemblies[number]
        request = Request()
        try:
            parse_request(request, memoryview(assembly.buffer), now)
        except Malformed:
            self.counters.malformed += 1
            self._memory.release(assembly.total)
            return
        session.pending[number] = assembly.total
        request.number = number
        request.session = session
        request.address = address
        request.packet = packet
        request.serial = session.serial
        request.budget = DATAGRAM_MAX
        if self._allowed(wall, session, request):
            self.requests.append(request)

    def _probe(self, session: Session, address: Any, packet: int, size: int, wire: int) -> None:
        data = self._arena[self._at + HEADROOM : self._at + HEADROOM + size]
        try:
            stamp, wanted = parse_probe(data)
        except Malformed:
            self.counters.malformed += 1
            return
        if stamp and stamp_is_right(stamp, session.secret, session.id, address, self._epoch):
            session.address = address
        elif address != session.address:
            self._retry(session, address)
            return
        self._slots.small(session, address, Kind.PROBE_ACK, PROBE_ACK.pack(packet, wire), wanted)

    def _retry(self, session: Session, address: Any) -> None:
        """Ask an address to prove itself: shorter than anything it answers."""
        self.counters.retries += 1
        stamp = make_stamp(session.secret, session.id, address, self._epoch)
        self._slots.small(session, address, Kind.RETRY, RETRY.pack(stamp), 0)

    # ---- sessions

    def _meet(self, view: memoryview, start: int, body: int, identity: int, packet: int) -> Session | None:
        """A session for a datagram of an unknown one, from its ticket; it counts only once the datagram has opened."""
        if body == start + HEADER.size:
            return None
        data = bytes(view[start + HEADER.size + TICKET_LENGTH.size : body])
        found = self._tickets.get(data) or self._ticket(data)
        if found is None:
            return None
        ticket, key, secret = found
        self._met = (data, found)
        session = Session(
            identity, cipher(derive_session_key(key, identity)), ticket, secret, self._first_packet, packet
        )
        session.used = -1.0
        return session

    def _ticket(self, data: bytes) -> Known | None:
        try:
            ticket = open_ticket(data)
        except TicketInvalid:
            return None
        secret = self._keyring.secret(ticket.key_epoch)
        if secret is None:
            return None
        return ticket, derive_ticket_key(secret, data), secret

    def _admit_session(self, session: Session) -> None:
        """The first datagram of a session has proved the ticket's key: keep the session."""
        if len(self._sessions) >= TRANSPORT_SESSIONS:
            self._evict()
        self._sessions[session.id] = session
        self.counters.sessions_opened += 1
        data, found = self._met
        if len(self._tickets) >= TICKETS_CACHED:
            del self._tickets[next(iter(self._tickets))]
        self._tickets[data] = found

    def _evict(self) -> None:
        """Forget the sessions longest unused, an eighth of all; their clients' tickets bring them back."""
        idle = sorted(self._sessions.values(), key=lambda session: session.used)[: TRANSPORT_SESSIONS // 8]
        for session in idle:
            self._first_packet = max(self._first_packet, session.packet)
            self._egress.forget(session)
            self._drop_assemblies(session)
            for size in session.pending.values():
                self._memory.release(size)
            session.pending.clear()
            for table in (self._owing, self._ack_now, self._assembling):
                table.pop(session, None)
            del self._sessions[session.id]
            self.counters.sessions_evicted += 1

    # ---- acknowledging

    def _owe(self, now: float, session: Session, delay: float, at_once: bool) -> None:
        session.unacked += 1
        if at_once or session.unacked >= ACK_EVERY:
            self._ack_now[session] = None
        elif session.ack_due is None:
            session.ack_delay = delay
            session.ack_due = now + delay
            self._owing[session] = None

    def _put_acks(self, now: float) -> None:
        if self._owing:
            due = [session for session in self._owing if session.ack_due is not None and session.ack_due <= now]
            for session in due:
                self._ack_now[session] = None
        for session in self._ack_now:
            if session.address is not None:
                clock = session.top_clock + int((now - session.top_at) * 1e6) & CLOCK_MASK
                ack = pack_ack(session.window, clock, self._memory.window())
                self._slots.small(session, session.address, Kind.ACK, ack, 0)
                self.counters.acks += 1
            session.unacked = 0
            session.ack_due = None
            self._owing.pop(session, None)
        self._ack_now.clear()

    # ---- answering

    def reply(
        self, request: Request, status: int, *, order: int = 0, verifier: int = 0, version: int = 0,
        object_size: int = 0, data: bytes | memoryview = b"",
    ) -> None:
        """End a request. With BUSY, `object_size` is the number of milliseconds after which to try again.

        `data` must fit the datagram that the client wants (`request.budget` and `request.fragment`).
        """
        session = request.session
        answer = (int(status), order, verifier, version, object_size)
        reserved = session.pending.pop(request.number, None) if session.pending else None
        if reserved is not None:
            self._memory.release(reserved)
            if status != Status.BUSY:
                session.keep_answer(request.number, answer)
        elif session.unacked:
            session.unacked -= 1
            if not session.unacked:
                session.ack_due = None
                self._owing.pop(session, None)
        address = session.address if request.budget == DATAGRAM_MAX else request.address
        if len(data) + _BASIC_REPLY > request.budget:
            self._retry(session, request.address)
            return
        self._put_reply(session, address, request.number, answer, data, request.flags & 2)

    def _put_reply(
        self, session: Session, address: Any, number: int, answer: tuple[int, int, int, int, int],
        data: bytes | memoryview, background: int,
    ) -> None:
        if session.stamp_epoch != self._epoch or session.stamp_address != address:
            session.stamp = make_stamp(session.secret, session.id, address, self._epoch)
            session.stamp_address, session.stamp_epoch = address, self._epoch
        size = _BASIC_REPLY + len(data)
        chunk = self._egress.chunk(session, size, address, background)
        start = chunk.fill
        status, order, verifier, version, object_size = answer
        REPLY.pack_into(
            chunk.buffer, start + _REPLY_AT, status, 0, len(data), number, order, verifier, version, session.stamp,
            object_size,
        )
        end = chunk.fill = start + size
        if data:
            chunk.buffer[start + _REPLY_AT + REPLY.size : end - TAG] = data
        self._egress.put(session, chunk, (start, end, Kind.REPLY, 0, 0, 0.0))

    def begin_data(self, request: Request) -> list[tuple[int, list[memoryview]]] | None:
        """Where to read the answer of a READ into: for each range its offset and writable views, in order.

        Views of a range are as long together as the range. None: the queue is full and BUSY was answered. Follow
        with `end_data`, or with `cancel_data` and, then or later, a `reply` or another `begin_data`.
        """
        retry = self._egress.retry_after(request.session, self._answer_size(request))
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

        What lies beyond `object_size` is not sent. `holes` are (offset, length) in the object: datagrams wholly
        inside of one travel as its length only; partly covered ones must have been filled with zeros.
        """
        self._slots.end(order, verifier, version, object_size, holes)

    def cancel_data(self) -> None:
        """Take back the last `begin_data`: its views will not be sent."""
        self._slots.cancel()

    # ---- sending and time

    @property
    def ready(self) -> int:
        """Bytes waiting for `transmit`; a shell that answers many reads sends whenever this passes 60 KiB."""
        return self._egress.queued

    def transmit(self, now: float) -> list[Sent]:
        """Sealed buffers to send: (bytes, segment size or 0 for one datagram, address). Valid until the next call."""
        if self._ack_now or self._owing:
            self._put_acks(now)
        sent = self._egress.take(now)
        if sent:
            counters = self.counters
            for view, segment, _ in sent:
                counters.bytes_out += len(view)
                counters.datagrams_out += -(-len(view) // segment) if segment else 1
        return sent

    def tick(self, now: float, wall: float) -> None:
        """Drop what was given up by its sender. Call when `deadline` has passed; then `transmit`."""
        self._epoch = stamp_epoch(wall)
        if now >= self._sweep:
            self._sweep = now + _SWEEP_S
            for session in list(self._assembling):
                self._sweep_session(now, session)

    def deadline(self, now: float) -> float | None:
        """When `tick` and `transmit` want to be called next; None: only after something was received."""
        times = [session.ack_due for session in self._owing if session.ack_due is not None]
        if self._assembling:
            times.append(self._sweep)
        queue = self._egress.deadline(now)
        if queue is not None:
            times.append(queue)
        return min(times) if times else None

    def _sweep_session(self, now: float, session: Session) -> None:
        for number, assembly in list(session.assemblies.items()):
            if now - assembly.heard > ASSEMBLY_IDLE_S:
                del session.assemblies[number]
                self._memory.release(assembly.total)
                self.counters.assemblies_dropped += 1
                if session.address is not None:
                    answer = (int(Status.BUSY), 0, 0, 0, BUSY_MS_MIN)
                    self._put_reply(session, session.address, number, answer, b"", 0)
        if not session.assemblies:
            del self._assembling[session]

    def _drop_assemblies(self, session: Session) -> None:
        for assembly in session.assemblies.values():
            self._memory.release(assembly.total)
            self.counters.assemblies_dropped += 1
        session.assemblies.clear()

    def release(self) -> None:
        """The views of all requests taken so far are no longer needed: reuse the arena."""
        self._at = 0

    def retire(self) -> None:
        """Views of requests taken so far stay good as long as they are held: go on in a new arena."""
        self._arena = memoryview(bytearray(ARENA))
        self._at = 0
