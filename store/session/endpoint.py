"""The client's end of one transport session with one daemon, without I/O.

One tick of the shell: `receive` for every buffer that the socket gave, `completions`, new `request`s and `read`s, then
`transmit` once, and send what it gives. When `deadline` has passed: `tick`, then the same. See TRANSPORT.md.
"""

from typing import Any, Final

from store.crypto.keys import derive_session_key
from store.errors import Status
from store.limits import LIVES_KEPT, NAME_MAX, OBJECT_MAX, REQUESTS_IN_FLIGHT
from store.session.completion import Completion
from store.session.credit import Credit
from store.session.estimate import OneWayDelay, Smoothed
from store.session.loss import Path
from store.session.mtu import PathMtu
from store.session.mutation import Mutation
from store.session.outbox import Outbox, Sent
from store.session.read import Read
from store.session.reader import Reader
from store.session.writer import Writer
from store.wire.header import HEADER, NONCE, PROBE, Kind, Malformed, Op
from store.wire.message import OVERHEAD, pack_request, parse_probe_ack, parse_reply, parse_retry
from store.wire.replay import ReplayWindow, parse_ack
from store.wire.seal import CLOCK_MASK, InvalidTag, cipher, clock_us, datagrams

__all__ = ["Completion", "Endpoint"]

GREETING: Final = 1200  # bytes of the first PROBE: a path that carries less is of no use
PROBES_KEPT: Final = 4
SUSPICION_TIMEOUTS: Final = 2
RESIZE_FLUSHES: Final = 64  # after so many the datagram size is judged anew by the rate
LOOPBACK_MTU: Final = 65_536
_DATA: Final = int(Kind.DATA)
_NEVER: Final = float("inf")


class Endpoint:
    """One session. Use from one thread, together with the other endpoints that share its `Credit`."""

    def __init__(
        self, now: float, session_id: int, ticket: bytes, ticket_key: bytes, credit: Credit, *,
        mtu_hint: int = LOOPBACK_MTU,
    ) -> None:
        """`session_id`: 64 random bits, never used before with this ticket. `mtu_hint`: MTU of the local interface."""
        self._id = session_id
        self._cipher = cipher(derive_session_key(ticket_key, session_id))
        self._outbox = Outbox(self._cipher, session_id, ticket)
        self._mtu = PathMtu(now, mtu_hint)
        self._outbox.size = self._mtu.size
        self._done: list[Completion] = []
        self._reader = Reader(self._outbox, credit, self._mtu, self._done)
        self._writer = Writer(self._outbox, self._mtu, self._done)
        self._life = 0  # of the daemon's process
        self._lives: list[int] = []
        self._window = ReplayWindow(0)
        self._scratch = memoryview(bytearray(65_536))
        self._reading, self._writing = OneWayDelay(), OneWayDelay()
        self._heard = now
        self._dirty = False  # something came since the last flush
        self._told = False  # among it an ACK or a REPLY
        self._flushes = 0
        self._scan = _NEVER  # when the first request reaches its deadline
        self._probes: dict[int, tuple[int, float]] = {}  # PROBEs in flight: packet -> size, time
        self._probe_rtt = Smoothed()
        self._prove = False  # a new stamp is to be shown to the daemon
        self._greeted = -_NEVER  # when a PROBE was last sent to learn a stamp
        self._greetings = 0

    # ---- asking

    def request(
        self, now: float, op: int, group: int, name: bytes, *, order: int = 0, sequence: int = 0, floor: int = 0,
        scope: int = 0, generation: int = 0, offset: int = 0, size: int = 0, payload: bytes | memoryview = b"",
        flags: int = 0, deadline: float,
    ) -> int:
        """Send any request but READ; the number its `Completion` will have. `deadline`: seconds, on the clock of `now`.

        `payload` must stay unchanged until then. It is repeated until it is answered, so mutations need a `sequence`
        that the daemon can tell them by. Raises OverflowError with `REQUESTS_IN_FLIGHT` in progress, ValueError for
        what no datagram can say.
        """
        if not 0 <= sequence - floor <= 0xFFFF or len(name) > NAME_MAX or len(payload) > OBJECT_MAX:
            raise ValueError("a request whose name, payload or distance to the floor is too large")
        number = self._new_number()
        outbox = self._outbox
        span = sequence - floor if op >= Op.WRITE else outbox.size
        head = pack_request(
            op, flags, number, group, name, left=0, order=order, sequence=sequence, scope=scope,
            generation=generation, offset=offset, size=size, span=span, ack_delay=self._writer.ack_delay_ms,
        )
        self._writer.add(Mutation(number, head, payload, flags, deadline))
        if deadline < self._scan:  # noqa: PLR1730 - hot
            self._scan = deadline
        return number

    def read(
        self, now: float, group: int, name: bytes, offset: int, length: int, into: memoryview, *, order: int = 0,
        scope: int = 0, generation: int = 0, flags: int = 0, deadline: float,
    ) -> int:
        """Read [offset, offset + length) of an object into `into`; the number its `Completion` will have.

        Holes are filled with zeros. `Completion.length` bytes were read: fewer than asked where the object ends.
        With UNTORN all of it is of one version, else the completion is CONFLICT. Raises as `request` does.
        """
        if not 0 < length <= len(into) or not 0 < len(name) <= NAME_MAX or not 0 <= offset <= OBJECT_MAX - length:
            raise ValueError("a read outside of what an object, its name or the buffer can hold")
        number = self._new_number()
        read = Read(number, offset, length, into, flags, deadline)
        read.group, read.name, read.order, read.scope, read.generation = group, name, order, scope, generation
        self._reader.add(read)
        if deadline < self._scan:  # noqa: PLR1730 - hot
            self._scan = deadline
        return number

    def _new_number(self) -> int:
        if len(self._reader.reads) + len(self._writer.requests) >= REQUESTS_IN_FLIGHT:
            raise OverflowError("too many requests in flight to one daemon: wait for some to complete")
        return self._outbox.next_number()

    def cancel(self, number: int) -> None:
        """Forget a request: nothing is written into its buffer from now on, and it does not complete.

        A mutation may have been executed all the same, or be later.
        """
        self._reader.cancel(number)
        self._writer.cancel(number)

    def completions(self) -> list[Completion]:
        """Requests that ended since the last call."""
        done = self._done[:]
        self._done.clear()
        return done

    # ---- sending

    def transmit(self, now: float) -> list[Sent]:
        """What to send now: (bytes, segment size or 0 for one datagram). Valid until the next call."""
        if self._dirty:
            self._flush()
        outbox, reader, writer = self._outbox, self._reader, self._writer
        outbox.begin(now)
        if self._prove:
            self._prove = False
            self._send_probe(now, 0)
        writer.pump(now)
        reader.pump(now)
        if writer.wanting:
            self._greet(now)
        elif outbox.stamp and outbox.packet:
            self._search(now)
        return outbox.finish()

    def _flush(self) -> None:
        """Everything that came since the last call is marked: draw the conclusions once."""
        self._dirty = False
        now = self._heard
        if self._told:
            self._told = False
            self._writer.flush(now)
        self._reader.flush(now)
        if self._mtu.fell:
            self._mtu.fell = False
            self._resize()
            self._resend()
            return
        self._flushes += 1
        if self._mtu.size != self._outbox.size or self._flushes % RESIZE_FLUSHES == 0:
            self._resize()

    def _resize(self) -> None:
        size = self._mtu.usable(self._pace())
        if size != self._outbox.size:
            self._outbox.size = size
            self._reader.resize(size)
            self._writer.resize(size)

    def _paths(self) -> list[Path[Any]]:
        return [*self._reader.paths(), *self._writer.paths()]

    def _pace(self) -> float:
        return max(path.pace for path in self._paths())

    def _search(self, now: float) -> None:
        """Try the next larger datagram, if it is time; only while the path is in use."""
        if not (self._reader.reads or self._writer.requests):
            return
        size = self._mtu.probe(now, self._pace(), self._reader.paths()[0].base_rtt)
        if size:
            self._send_probe(now, size)

    def _greet(self, now: float) -> None:
        """Ask for a stamp."""
        if now >= self._greeted + self._probe_rtt.timeout(0.0, self._greetings):
            self._greeted = now
            self._greetings += 1
            self._send_probe(now, GREETING)

    def _send_probe(self, now: float, size: int) -> None:
        """A PROBE of `size` bytes that asks for an answer as long; 0: as short as possible."""
        outbox = self._outbox
        length = max(PROBE.size, size - outbox.overhead)
        at = outbox.place(length)
        PROBE.pack_into(outbox.buffer, at, outbox.stamp, size)
        outbox.buffer[at + PROBE.size : at + length] = bytes(length - PROBE.size)
        packet = outbox.packet
        outbox.post(Kind.PROBE, length)
        if len(self._probes) >= PROBES_KEPT:
            del self._probes[next(iter(self._probes))]
        self._probes[packet] = (size, now)

    # ---- receiving

    def receive(self, now: float, view: memoryview) -> None:
        """Take one received buffer. What does not authenticate, or was seen before, is ignored."""
        scratch, window, nonce, decrypt = self._scratch, self._window, NONCE.pack, self._cipher.decrypt_into
        reader, arrived = self._reader, clock_us(now)
        last_clock, delay = -1, _NEVER
        for start, kind, end, clock, identity, packet, life in datagrams(view):
            if identity != self._id or (life == self._life and packet <= window.top and window.has(packet)):
                continue
            head = start + HEADER.size
            body = scratch[: end - start - OVERHEAD]
            try:
                decrypt(nonce(life, packet), view[head:end], view[start:head], body)
            except InvalidTag:
                continue
            if life != self._life:
                if not self._meet(life, packet):
                    continue
                window = self._window
            window.add(packet)
            self._dirty = True
            try:
                if kind == _DATA:
                    if clock != last_clock:
                        last_clock, delay = clock, self._reading.of(arrived, clock)
                    reader.data(now, body, packet, delay)
                else:
                    self._other(now, kind, body, clock, end - start)
            except Malformed:
                continue
        if self._dirty:
            self._heard = now
            self._outbox.attach = False  # who answers knows the session

    def _meet(self, life: int, packet: int) -> bool:
        """The daemon's process is not the one known so far; False if it is an earlier one, whose datagrams are old."""
        if life in self._lives or not life:
            return False
        first = not self._lives
        self._lives = [*self._lives[1 - LIVES_KEPT :], life]
        self._life = life
        self._window = ReplayWindow(packet)
        if not first:
            self._reading, self._writing = OneWayDelay(), OneWayDelay()
            self._reader.reborn()
            self._writer.reborn()
        return True

    def _other(self, now: float, kind: int, body: memoryview, clock: int, size: int) -> None:
        self._told = True
        if kind == Kind.REPLY:
            self._reply(now, body)
        elif kind == Kind.ACK:
            self._acknowledged(now, body, clock)
        elif kind == Kind.RETRY:
            self._retry(parse_retry(body))
        elif kind == Kind.PROBE_ACK:
            self._probed(now, body, size)
        else:
            raise Malformed("a kind of datagram that daemons do not send")

    def _reply(self, now: float, body: memoryview) -> None:
        number, code, order, verifier, version, stamp, size, data = parse_reply(body)
        if stamp and stamp != self._outbox.stamp:
            self._outbox.stamp = stamp
            self._prove = True
        try:
            status = Status(code)
        except ValueError as error:
            raise Malformed("a status that does not exist") from error
        done = Completion(number, status, order, verifier, version, size, bytes(data))
        if status is Status.BUSY:
            done.length = size
        if not self._reader.reply(now, number, done):
            self._writer.reply(now, done)

    def _acknowledged(self, now: float, body: memoryview, clock: int) -> None:
        top, echoed, credit, bitmap = parse_ack(body)
        if top >= self._outbox.packet:
            raise Malformed("an ACK of what was never sent")
        rtt = (clock_us(now) - echoed & CLOCK_MASK) * 1e-6
        self._writer.acknowledged(now, top, bitmap, rtt, self._writing.of(clock, echoed), credit)
        self._reader.acknowledged(top, bitmap)

    def _retry(self, stamp: int) -> None:
        """The daemon does not know this end's address: show it the stamp, and repeat what it refused."""
        self._prove = True
        if stamp != self._outbox.stamp:
            self._outbox.stamp = stamp
            self._greetings = 0
            self._resend()

    def _resend(self) -> None:
        self._reader.fail_all()
        self._writer.fail_all()

    def _probed(self, now: float, body: memoryview, size: int) -> None:
        packet, arrived = parse_probe_ack(body)
        probe = self._probes.pop(packet, None)
        if probe is None:
            return
        wanted, sent = probe
        self._probe_rtt.add(now - sent)
        for path in self._paths():
            path.guess(now, now - sent)
        self._mtu.arrived(now, size, sent)
        if wanted and min(arrived, size) >= wanted:
            self._mtu.answered(now, wanted)

    def refused(self, now: float, size: int) -> None:
        """The local stack refused to send a datagram of `size` bytes (EMSGSIZE): never try that again."""
        self._mtu.refused(now, size)
        self._resize()
        self._resend()

    # ---- time

    def tick(self, now: float) -> None:
        """Give up what is past its deadline, find what is lost. Call when `deadline` has passed; then `transmit`."""
        if self._dirty:
            self._flush()
        reader, writer = self._reader, self._writer
        late = reader.expire(now) | writer.expire(now)
        if now >= min(self._scan, writer.next_due):
            soonest, overdue = writer.give_up(now)
            self._scan = min(soonest, reader.give_up(now))
            late |= overdue
        if late:
            self._outbox.attach = True  # perhaps the daemon was restarted, and knows the session no more
            self._prove = self._prove or self._suspicious()
        self._mtu.expire(now, self._probe_rtt.timeout(0.0, 0))

    def _suspicious(self) -> bool:
        """Whether large datagrams may be vanishing, which a small one would show."""
        if self._mtu.suspicious():
            return True
        return any(path.timeouts >= SUSPICION_TIMEOUTS for path in self._paths())

    def deadline(self) -> float | None:
        """When `tick` and `transmit` want to be called next; None: nothing is in progress."""
        reader, writer = self._reader, self._writer
        deadline, other = reader.deadline(), writer.deadline()
        deadline = other if other < deadline else deadline
        if reader.reads or writer.requests:
            deadline = self._scan if self._scan < deadline else deadline
            if self._mtu.trying:
                deadline = min(deadline, self._mtu.deadline(self._probe_rtt.timeout(0.0, 0)))
            if writer.wanting:
                deadline = min(deadline, self._greeted + self._probe_rtt.timeout(0.0, self._greetings))
        return None if deadline == _NEVER else deadline
