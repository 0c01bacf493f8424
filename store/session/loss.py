"""Loss detection and delivery accounting of one path, burst by burst. Rules and reasons: TRANSPORT.md, section 3.

A burst is what was sent (or, for reads, asked for) at one time: a few bits per datagram, no object each. All arrivals
of one drained batch are marked first; then one `flush` finds losses and feeds the controller once.
"""

from collections import deque
from typing import Final, Generic, TypeVar

from store.session.estimate import Smoothed, WindowedMinimum
from store.session.pacing import Pacer
from store.session.read import Read
from store.session.tide import Tide

REORDER_FIRST: Final = 3
REORDER_MAX: Final = 64
FACTOR_FIRST: Final = 1.125
FACTOR_MAX: Final = 2.0
FACTOR_STEP: Final = 0.125
CALM_S: Final = 60.0  # without reordering, after which tolerance falls one step
PARKED_S: Final = 0.5  # how long a received request may stay unanswered beyond the time gate
HELD_MIN_S: Final = 0.002
HELD_MAX_S: Final = 0.05
RTT_WINDOW_S: Final = 10.0
PERSISTENT: Final = 3  # probe timeouts in a row that cut the window
_NEVER: Final = float("inf")


class Burst:
    """Datagrams sent, or asked for, together. `packet` is the number of the first one this end sent."""

    __slots__ = (
        "count", "delivered", "delivered_at", "first_sent", "full", "got", "limited", "lost", "packet", "sent", "size",
    )

    # set when it is sent
    sent: float
    delivered: int  # the path's total then
    delivered_at: float  # when that was reached
    first_sent: float  # when the burst was sent that reached it
    limited: bool  # there was more to send

    def __init__(self, packet: int, count: int, size: int) -> None:
        self.packet = packet
        self.count = count
        self.size = size  # bytes of one on the wire
        self.full = (1 << count) - 1
        self.got = 0
        self.lost = 0


B = TypeVar("B", bound=Burst)

class Path(Generic[B]):
    """One direction of one class of traffic to one daemon. Subclasses know when a datagram is lost."""

    __slots__ = (
        "_first_sent", "_newest", "_newest_rtt", "_round_end", "_settled", "acked", "base", "base_rtt",
        "calm_since", "delay", "delivered", "delivered_at", "factor", "flight", "largest", "last_sent", "latest",
        "limited", "loss_timer", "losses", "open", "pacer", "rate", "round_acked", "round_delay",
        "round_limited", "round_lost", "round_over", "rtt", "spurious", "threshold", "tide", "timeouts",
    )

    def __init__(self, tide: Tide) -> None:
        self.tide = tide
        self.pacer = Pacer()
        self.rtt = Smoothed()
        self.latest = 0.0
        self.base = WindowedMinimum(RTT_WINDOW_S)
        self.base_rtt = 0.0  # 0 before the first sample
        self.open: dict[int, B] = {}  # by packet number, in order
        self._settled: deque[B] = deque()  # of these, those with nothing missing that is not lost
        self.flight = 0
        self.largest = -1  # highest packet number known to have arrived, that orders loss
        self.losses: list[tuple[B, int]] = []  # found and not yet taken by the sender
        self.last_sent = -1.0
        self.timeouts = 0  # in a row
        self.loss_timer = _NEVER
        self.threshold = REORDER_FIRST
        self.factor = FACTOR_FIRST
        self.calm_since = 0.0
        self.spurious = 0
        self.delivered = 0
        self.delivered_at = 0.0
        self._first_sent = 0.0
        # since the last flush
        self.acked = 0
        self.delay = _NEVER
        self._newest: B | None = None
        self._newest_rtt = 0.0
        # of the last flush, for the controller
        self.rate = 0.0
        self.limited = False
        self.round_over = False
        self._round_end = 0
        self.round_acked = self.round_lost = 0
        self.round_delay = _NEVER
        self.round_limited = False

    # ---- sending

    @property
    def pace(self) -> float:
        """Bytes per second."""
        return self.tide.rate(self.rtt.mean)

    def send(self, now: float, burst: B, limited: bool) -> None:
        """Account for a burst. `limited`: there was more to send than it took."""
        size = burst.count * burst.size
        if self.flight <= 0:
            if self.last_sent >= 0:
                self.tide.on_idle(now - self.last_sent, self.rtt.mean)
            self._first_sent = self.delivered_at = now
        burst.sent = now
        burst.delivered = self.delivered
        burst.delivered_at = self.delivered_at
        burst.first_sent = self._first_sent
        burst.limited = limited
        self.flight += size
        self.open[burst.packet] = burst
        self.last_sent = now
        if limited:
            self.round_limited = True
        self.pacer.sent(now, size, self.tide.rate(self.rtt.mean))

    # ---- arrivals

    def mark(self, now: float, burst: B, mask: int) -> int:
        """Datagrams of `burst` have arrived; those that had not before."""
        new = mask & burst.full & ~burst.got
        if not new:
            return 0
        burst.got |= new
        size, count = burst.size, new.bit_count()
        late = new & burst.lost
        if late:
            self._reordered(now, late.bit_count())
            self.flight -= (count - late.bit_count()) * size
        else:
            self.flight -= count * size
        self.acked += count * size
        if burst.got == burst.full:
            self.close(burst)
        return new

    def close(self, burst: B) -> None:
        """`burst` needs no accounting any more."""
        self.open.pop(burst.packet, None)

    def sampled(self, burst: B | None, rtt: float) -> None:
        """A round-trip time, by the newest burst that arrived."""
        if rtt < self._newest_rtt or self._newest_rtt == 0.0:
            self._newest_rtt = max(rtt, 1e-6)
        if burst is not None:
            self._newest = burst

    def guess(self, now: float, rtt: float) -> None:
        """A round-trip time measured by a probe; counts only while there is none of its own."""
        if self.rtt.mean < 0:
            self.rtt.add(rtt)
            self.base.add(now, rtt)
            self.base_rtt = self.base.value

    def _reordered(self, now: float, count: int) -> None:
        """What was taken for lost has arrived: be more patient."""
        self.spurious += count
        self.threshold = min(REORDER_MAX, self.threshold * 2)
        self.factor = min(FACTOR_MAX, self.factor + FACTOR_STEP)
        self.calm_since = now

    def flush(self, now: float) -> int:
        """After a batch of arrivals: round trip, delivery rate, losses, controller. Bytes newly lost."""
        acked, lost = self.acked, 0
        if acked:
            self._deliver(now, acked)
        if self.open:
            lost = self.detect(now)
            self.round_lost += lost
            self._forget_settled(now)
        else:
            self.loss_timer = _NEVER
        if not acked:
            return lost
        self.round_over = False
        newest = self._newest
        if newest is not None and newest.delivered >= self._round_end:
            self.round_over = True
            self._round_end = self.delivered
        self.tide.on_ack(now, self)
        self.acked = 0
        self.delay = _NEVER
        self._newest = None
        self._newest_rtt = 0.0
        if self.round_over:
            self._begin_round(now)
        return lost

    def _begin_round(self, now: float) -> None:
        self.round_delay = _NEVER
        self.round_acked = self.round_lost = 0
        self.round_limited = False
        if self.threshold > REORDER_FIRST and now - self.calm_since > CALM_S:
            self.threshold = max(REORDER_FIRST, self.threshold // 2)
            self.factor = max(FACTOR_FIRST, self.factor - FACTOR_STEP)
            self.calm_since = now

    def _deliver(self, now: float, acked: int) -> None:
        self.timeouts = 0
        self.delivered += acked
        self.rate = 0.0
        rtt, newest = self._newest_rtt, self._newest
        if rtt > 0:
            self.latest = rtt
            self.rtt.add(rtt)
            self.base.add(now, rtt)
            self.base_rtt = self.base.value
            if self.delay == _NEVER:
                self.delay = rtt
        if newest is not None:
            interval = max(now - newest.delivered_at, newest.sent - newest.first_sent, 1e-6)
            if interval >= 0.5 * self.base_rtt:
                self.rate = (self.delivered - newest.delivered) / interval
            self.limited = newest.limited
            self._first_sent = newest.sent
        self.round_delay = min(self.round_delay, self.delay)
        self.delivered_at = now
        self.round_acked += acked

    # ---- losses

    def detect(self, now: float) -> int:
        """Find losses, append them to `losses`; the bytes that count for the controller."""
        raise NotImplementedError

    def _lose(self, burst: B, missing: int) -> None:
        burst.lost |= missing
        self.flight -= missing.bit_count() * burst.size
        self.losses.append((burst, missing))
        if not burst.full & ~(burst.got | burst.lost):
            self._settled.append(burst)

    def _forget_settled(self, now: float) -> None:
        """Keep bursts with losses a little, lest it go unnoticed that a datagram was only late."""
        settled = self._settled
        while settled and now - settled[0].sent > 2 * self.gate():
            self.close(settled.popleft())

    def gate(self) -> float:
        """Age at which a datagram is lost once something sent later has arrived."""
        return max(self.rtt.mean, self.latest) * self.factor + 0.001

    def extra_wait(self) -> float:
        """What an answer may take beyond the round trip."""
        return 0.0

    def fail_all(self) -> None:
        """Everything in flight went where no answer comes from; not a sign of congestion."""
        for burst in list(self.open.values()):
            missing = burst.full & ~(burst.got | burst.lost)
            if missing:
                self._lose(burst, missing)
            self.close(burst)
        self._settled.clear()
        self.loss_timer = _NEVER
        self.timeouts = 0

    # ---- timers

    def deadline(self) -> float:
        """When `expire` has something to do; infinite while nothing is in flight."""
        if not self.open:
            return _NEVER
        if self.flight > 0:
            return min(self.loss_timer, self.last_sent + self.rtt.timeout(self.extra_wait(), self.timeouts))
        return self.loss_timer

    def expire(self, now: float) -> bool:
        """Let time pass; True if a probe timeout made the oldest burst be sent again."""
        if now >= self.loss_timer:
            self.round_lost += self.detect(now)
            return False
        if self.flight <= 0 or now < self.last_sent + self.rtt.timeout(self.extra_wait(), self.timeouts):
            return False
        self.timeouts += 1
        self.last_sent = now
        if self.timeouts >= PERSISTENT:
            self.tide.on_persistent_timeout(now, self.base_rtt)
        for burst in self.open.values():
            missing = burst.full & ~(burst.got | burst.lost)
            if missing and not self.set_aside(burst):
                self._lose(burst, missing)
                break
        self._forget_settled(now)
        return True

    def set_aside(self, burst: B) -> bool:
        """Whether a burst is known to wait at the daemon, so that sending it again would not help."""
        return False


class SendPath(Path[B]):
    """Datagrams this end sends, acknowledged by copies of the daemon's replay window."""

    __slots__ = ("ack_delay", "arrivals")

    def __init__(self, tide: Tide) -> None:
        super().__init__(tide)
        self.arrivals: list[tuple[B, int]] = []  # acknowledged and not yet taken by the sender
        self.ack_delay = 0.001  # seconds the daemon was asked to wait at most

    def acknowledged(self, now: float, top: int, bitmap: int, rtt: float) -> None:
        """An ACK: bit i of `bitmap` stands for packet `top - 1024 + i`."""
        low = top - 1024
        newest = None
        for burst in list(self.open.values()):
            first = burst.packet
            if first > top:
                break
            arrived = self.mark(now, burst, bitmap >> first - low if first >= low else bitmap << low - first)
            if arrived:
                newest = burst
                self.arrivals.append((burst, arrived))
        if top > self.largest:
            self.largest = top
            if self.acked:
                self.sampled(newest, rtt)

    def extra_wait(self) -> float:
        return self.ack_delay

    def detect(self, now: float) -> int:
        largest, gate, lost = self.largest, self.gate(), 0
        self.loss_timer = _NEVER
        if self.rtt.mean < 0:
            return 0
        for burst in self.open.values():
            behind = largest - burst.packet
            if behind < 0:
                break
            missing = burst.full & ~(burst.got | burst.lost)
            if not missing:
                continue
            if now - burst.sent < gate:
                self.loss_timer = min(self.loss_timer, burst.sent + gate)
                behind -= self.threshold
                if behind < 0:
                    continue
            if behind < burst.count - 1:
                missing &= (2 << behind) - 1
            if missing:
                self._lose(burst, missing)
                lost += missing.bit_count() * burst.size
        return lost


class Ask(Burst):
    """A READ request and the datagrams of its answer."""

    __slots__ = ("answered", "first", "index", "number", "parked", "parts", "read", "seen", "span")

    def __init__(
        self, packet: int, count: int, size: int, number: int, index: int, read: Read,
        parts: tuple[tuple[int, int], ...], span: int,
    ) -> None:
        super().__init__(packet, count, size)
        self.read = read
        self.parts = parts  # offset and length of each range
        self.span = span  # the largest datagram it allowed
        self.number = number
        self.index = index  # in order of asking
        self.seen = False  # the daemon has the request
        self.answered = -1  # the daemon's packet that said it was answered before; -1: not said
        self.first = -1  # the daemon's packet number of the answer's first datagram, once known
        self.parked = False


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

    def mark_data(self, now: float, ask: Ask, index: int, packet: int) -> int:
        """Datagram `index` of an answer came, in the daemon's packet `packet`; 0 if it came before."""
        if ask.parked:
            self._unpark(ask)
        if ask.first < 0:
            ask.first = packet - index
        self.newest_packet = max(self.newest_packet, packet)
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
