"""What this end asks for, and how the echo in the daemon's answers tells what became of a request."""

from typing import Final

from store.session.estimate import Smoothed
from store.session.loss import Burst, Path
from store.session.outbox import Outbox
from store.session.read import Parts, Read
from store.session.tide import Tide
from store.wire.header import RANGE, REQUEST, Flag, Kind, Op

PARKED_S: Final = 0.5  # how long a received request may stay unanswered beyond the time gate
HELD_MIN_S: Final = 0.002
HELD_MAX_S: Final = 0.05
_REQUEST, _READ, _UNTORN = int(Kind.REQUEST), int(Op.READ), int(Flag.UNTORN)
_NEVER: Final = float("inf")


class Ask(Burst):
    """A READ request and the datagrams of its answer."""

    __slots__ = ("answered", "first", "index", "number", "parked", "parts", "read", "seen", "span")

    def __init__(
        self, packet: int, count: int, size: int, number: int, index: int, read: Read,
        parts: Parts, span: int,
    ) -> None:
        self.packet = packet
        self.count = count
        self.size = size
        self.full = (1 << count) - 1
        self.got = self.lost = 0
        self.read = read
        self.parts = parts  # offset and length of each range
        self.span = span  # the largest datagram it allowed
        self.number = number
        self.index = index  # in order of asking
        self.seen = False  # the daemon has the request
        self.answered = -1  # the daemon's packet that said it was answered before; -1: not said
        self.first = -1  # the daemon's packet number of the answer's first datagram, once known
        self.parked = False


def post_read(outbox: Outbox, now: float, read: Read, number: int, parts: Parts, size: int) -> None:
    """Send a READ for `parts`, to be answered in datagrams of up to `size` bytes."""
    name = read.name
    at = outbox.place(REQUEST.size + len(name) + len(parts) * RANGE.size)
    buffer = outbox.buffer
    version = read.version if read.version > 0 and read.flags & _UNTORN else 0
    left = int((read.deadline - now) * 1000) or 1
    REQUEST.pack_into(
        buffer, at, _READ, read.flags, len(name), number, read.group, left, read.order, version, read.scope,
        outbox.stamp, read.generation, 0, 0, size, 0, 0,
    )
    end = at + REQUEST.size + len(name)
    buffer[at + REQUEST.size : end] = name
    for offset, length in parts:
        RANGE.pack_into(buffer, end, offset, length)
        end += RANGE.size
    outbox.post(_REQUEST, end - at)


class AskPath(Path[Ask]):
    """Datagrams this end asked for. What became of a request is told by the echo in the daemon's answers.

    Answered: lost by the daemon's packet order. Received, not answered: parked, for the disk has it and not the
    network. Not received: lost by the order of requests, or by time.
    """

    __slots__ = ("_echo", "_top_seen", "asked", "held", "newest_packet", "numbers", "parked")

    def __init__(self, tide: Tide) -> None:
        super().__init__(tide)
        self.asked = 0
        self.numbers: dict[int, Ask] = {}  # by request number: those an answer may still come for
        self.held = Smoothed()  # seconds the daemon needs to answer
        self.newest_packet = -1  # highest number of the daemon's
        self.parked = 0  # bytes
        self._echo: tuple[int, int, int, int] | None = None
        self._top_seen = -1

    def close(self, burst: Ask) -> None:
        self.open.pop(burst.packet, None)
        self.numbers.pop(burst.number, None)

    def echoed(self, packet: int, top: int, received: int, answered: int) -> None:
        """The daemon's datagram `packet` says what it has received and answered; the newest of a batch counts."""
        if self._echo is None or packet >= self._echo[0]:
            self._echo = (packet, top, received, answered)

    def seen(self, top: int, bitmap: int) -> None:
        """An ACK says which requests the daemon has (see `SendPath.acknowledged`)."""
        low = top - 1024
        for burst in self.open.values():
            place = burst.packet - low
            if 0 <= place <= 1024 and bitmap >> place & 1:
                burst.seen = True
                if not burst.got and burst.answered < 0 and not burst.parked:
                    self._park(burst)
                    self.loss_timer = min(self.loss_timer, burst.sent + self.gate() + PARKED_S)

    def mark_data(self, now: float, ask: Ask, index: int, packet: int) -> int:
        """Datagram `index` of an answer came, in the daemon's packet `packet`; 0 if it came before."""
        if ask.parked:
            self._unpark(ask)
        if ask.first < 0:
            ask.first = packet - index
        if packet > self.newest_packet:  # noqa: PLR1730 - `max` costs four times as much, for each datagram
            self.newest_packet = packet
        return self.mark(now, ask, 1 << index)

    def shorten(self, ask: Ask, keep: int) -> None:
        """Only the datagrams in `keep` will come: the object ends there, or a hole stands for others."""
        gone = ask.full & ~keep
        waiting = gone & ~(ask.got | ask.lost)
        if waiting:
            self.flight -= waiting.bit_count() * ask.size
        ask.full &= keep
        if ask.got == ask.full:
            self.close(ask)

    def forget_daemon(self) -> None:
        """Another process answers from now on: its packet numbers say nothing about the old ones."""
        self.newest_packet = -1
        self._echo = None

    def extra_wait(self) -> float:
        held = self.held
        return min(max(held.mean + 4 * held.deviation, HELD_MIN_S), HELD_MAX_S)

    def set_aside(self, burst: Ask) -> bool:
        return burst.parked

    def fail_all(self) -> None:
        for burst in self.open.values():
            if burst.parked:
                self._unpark(burst)
        super().fail_all()

    def _unpark(self, ask: Ask) -> None:
        ask.parked = False
        size = (ask.full & ~(ask.got | ask.lost)).bit_count() * ask.size
        self.flight += size
        self.parked -= size

    def _park(self, ask: Ask) -> None:
        ask.parked = True
        size = (ask.full & ~(ask.got | ask.lost)).bit_count() * ask.size
        self.flight -= size
        self.parked += size

    def _take_echo(self) -> None:
        packet, top, received, answered = self._echo or (0, 0, 0, 0)
        self._echo = None
        for burst in self.open.values():
            age = top - burst.packet & 0xFFFF_FFFF
            if age < 64:
                if received >> 63 - age & 1:
                    burst.seen = True
                if burst.answered < 0 and answered >> 63 - age & 1:
                    burst.answered = packet

    def detect(self, now: float) -> int:
        bursts = self.open
        self.loss_timer = _NEVER
        if self._echo is not None:
            self._take_echo()
        gate = self.gate() if self.rtt.mean >= 0 else _NEVER
        top = self._top_seen
        for burst in bursts.values():
            if (burst.seen or burst.got) and burst.index > top:
                top = burst.index
        self._top_seen = top
        lost = 0
        for burst in bursts.values():
            if burst.index > top:
                break
            missing = burst.full & ~(burst.got | burst.lost)
            if missing:
                missing = self._missed(now, burst, missing, gate)
                if missing:
                    self._lose(burst, missing)
                    # of an answer from which nothing came it was the request that was lost: one datagram
                    lost += burst.size if burst.lost == burst.full else missing.bit_count() * burst.size
        return lost

    def _missed(self, now: float, ask: Ask, missing: int, gate: float) -> int:
        """Which of the missing datagrams of an answer are lost."""
        if ask.got:
            behind = self.newest_packet - self.threshold - ask.first
            if behind < 0:
                return 0
            return missing & (2 << behind) - 1 if behind < ask.count - 1 else missing
        if ask.answered >= 0:
            if ask.parked:
                self._unpark(ask)
            return missing if self.newest_packet - self.threshold >= ask.answered else 0
        if ask.seen:
            if not ask.parked:
                self._park(ask)
            limit = ask.sent + gate + PARKED_S
            if now < limit:
                self.loss_timer = min(self.loss_timer, limit)
                return 0
            self._unpark(ask)
            return missing
        if self._top_seen - ask.index >= self.threshold or now - ask.sent >= gate:
            return missing
        self.loss_timer = min(self.loss_timer, ask.sent + gate)
        return 0
