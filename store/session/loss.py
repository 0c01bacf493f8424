"""Loss detection and delivery accounting of one path, burst by burst. Rules and reasons: TRANSPORT.md, section 3.

A burst is what was sent (or, for reads, asked for) at one time: a few bits per datagram, no object each. Arrivals are
only marked, which frees the window; a few times per round trip one `flush` finds losses and feeds the controller.
"""

from collections import deque
from typing import Final, Generic, TypeVar

from store.session.estimate import Smoothed, WindowedMinimum
from store.session.pacing import DEBT_S
from store.session.tide import Tide

FLUSH_S: Final = 0.00025  # between flushes, or a sixteenth of the round trip if that is more
FLUSH_SHARE: Final = 1 / 8  # of the window: once so much has arrived, the next flush does not wait
REORDER_FIRST: Final = 3
REORDER_MAX: Final = 64
FACTOR_FIRST: Final = 1.125
FACTOR_MAX: Final = 2.0
FACTOR_STEP: Final = 0.125
CALM_S: Final = 60.0  # without reordering, after which tolerance falls one step
IDLE_S: Final = 1.0  # without sending, from which the window is looked at anew
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
        "_best_rtt", "_first_sent", "_round_end", "_settled", "acked", "base", "base_rtt", "calm_since", "delay",
        "delivered", "delivered_at", "factor", "flight", "flush_at", "largest", "last_arrival", "last_sent", "latest",
        "limited", "loss_timer", "losses", "newest", "next_send", "open", "pace", "probe_wait", "rate", "round_acked",
        "round_delay", "round_limited", "round_lost", "round_over", "rtt", "spurious", "threshold", "tide", "timeouts",
    )

    def __init__(self, tide: Tide) -> None:
        self.tide = tide
        self.rtt = Smoothed()
        self.pace = tide.rate(-1.0)  # bytes per second
        self.probe_wait = self.rtt.timeout(0.0, 0)  # from the last sending to a probe timeout
        self.next_send = 0.0  # when pacing lets the next burst go
        self.latest = 0.0
        self.base = WindowedMinimum(RTT_WINDOW_S)
        self.base_rtt = 0.0  # 0 before the first sample
        self.open: dict[int, B] = {}  # by packet number, in order
        self._settled: deque[B] = deque()  # of these, those with nothing missing that is not lost
        self.flight = 0
        self.largest = -1  # highest packet number known to have arrived, that orders loss
        self.losses: list[tuple[B, int]] = []  # found and not yet taken by the sender
        self.last_sent = -1.0
        self.last_arrival = -1.0
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
        self.flush_at = 0.0  # when the next one is due
        self.delay = _NEVER
        self.newest: B | None = None
        self._best_rtt = 0.0
        # of the last flush, for the controller
        self.rate = 0.0
        self.limited = False
        self.round_over = False
        self._round_end = 0
        self.round_acked = self.round_lost = 0
        self.round_delay = _NEVER
        self.round_limited = False

    # ---- sending

    def send(self, now: float, burst: B, limited: bool) -> None:
        """Account for a burst. `limited`: there was more to send than it took."""
        size = burst.count * burst.size
        if self.flight <= 0:
            if now - self.last_sent > IDLE_S and self.last_sent >= 0:
                self.tide.on_idle(now - self.last_sent, self.rtt.mean)
                self.pace = self.tide.rate(self.rtt.mean)
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
        after = self.next_send
        earliest = now - DEBT_S
        self.next_send = (after if after > earliest else earliest) + size / self.pace

    # ---- arrivals

    def mark(self, now: float, burst: B, mask: int) -> int:
        """Datagrams of `burst` have arrived; those that had not before."""
        new = mask & burst.full & ~burst.got
        if not new:
            return 0
        burst.got |= new
        self.last_arrival = now
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
        if rtt < self._best_rtt or self._best_rtt == 0.0:
            self._best_rtt = max(rtt, 1e-6)
        if burst is not None:
            self.newest = burst

    def guess(self, now: float, rtt: float) -> None:
        """A round-trip time measured by a probe; counts only while there is none of its own."""
        if self.rtt.mean < 0:
            self.rtt.add(rtt)
            self.base.add(now, rtt)
            self.base_rtt = self.base.value
            self.pace = self.tide.rate(rtt)
            self.probe_wait = self.rtt.timeout(self.extra_wait(), 0)

    def _reordered(self, now: float, count: int) -> None:
        """What was taken for lost has arrived: be more patient."""
        self.spurious += count
        self.threshold = min(REORDER_MAX, self.threshold * 2)
        self.factor = min(FACTOR_MAX, self.factor + FACTOR_STEP)
        self.calm_since = now

    def due(self, now: float) -> bool:
        """Whether what has arrived should be flushed by now."""
        return self.acked > 0 and (now >= self.flush_at or self.acked > self.tide.window * FLUSH_SHARE)

    def flush(self, now: float) -> int:
        """After a batch of arrivals: round trip, delivery rate, losses, controller. Bytes newly lost."""
        acked, lost = self.acked, 0
        if acked:
            self._deliver(now, acked)
        if self.open:
            lost = self.detect(now)
            self.round_lost += lost
            if self._settled:
                self._forget_settled(now)
        else:
            self.loss_timer = _NEVER
        if not acked:
            return lost
        self.round_over = False
        newest = self.newest
        if newest is not None and newest.delivered >= self._round_end:
            self.round_over = True
            self._round_end = self.delivered
        self.tide.on_ack(now, self)
        mean = self.rtt.mean / 16
        self.flush_at = now + (mean if mean > FLUSH_S else FLUSH_S)
        self.pace = self.tide.rate(self.rtt.mean)
        self.probe_wait = self.rtt.timeout(self.extra_wait(), 0)
        self.acked = 0
        self.delay = _NEVER
        self.newest = None
        self._best_rtt = 0.0
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
        rtt, newest = self._best_rtt, self.newest
        if rtt > 0:
            self.latest = rtt
            self.rtt.add(rtt)
            self.base.add(now, rtt)
            self.base_rtt = self.base.value
            if self.delay == _NEVER:
                self.delay = rtt
        if newest is not None:
            interval = now - newest.delivered_at
            sending = newest.sent - newest.first_sent
            interval = sending if sending > interval else interval
            if interval >= 0.5 * self.base_rtt and interval > 0:
                self.rate = (self.delivered - newest.delivered) / interval
            self.limited = newest.limited
            self._first_sent = newest.sent
        self.round_delay = self.delay if self.delay < self.round_delay else self.round_delay
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
        mean, latest = self.rtt.mean, self.latest
        return (mean if mean > latest else latest) * self.factor + 0.001

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
        timer = self.loss_timer
        if self.acked:
            timer = self.flush_at if self.flush_at < timer else timer
        if self.flight > 0:
            probe = self._probe_at()
            return probe if probe < timer else timer
        return timer

    def _probe_at(self) -> float:
        """When silence has lasted too long."""
        sent, arrival = self.last_sent, self.last_arrival
        return (sent if sent > arrival else arrival) + self.probe_wait

    def expire(self, now: float) -> bool:
        """Let time pass; True if a probe timeout made the oldest burst be sent again."""
        if now >= self.loss_timer or self.acked:
            self.flush(now)
            return False
        if self.flight <= 0 or now < self._probe_at():
            return False
        self.timeouts += 1
        self.probe_wait = self.rtt.timeout(self.extra_wait(), self.timeouts)
        self.last_sent = now
        if self.timeouts >= PERSISTENT:
            self.tide.on_persistent_timeout(now, self.base_rtt)
            self.pace = self.tide.rate(self.rtt.mean)
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
