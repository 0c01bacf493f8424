"""Tide: how many bytes one path may have in flight, decided once per round trip by a delay target.

It aims at a standing queue of a few milliseconds (more for slow flows than for fast ones, which makes flows converge),
ignores what the path loses whatever we do, and gives way to loss beyond that. See the rules and their reasons in
TRANSPORT.md, section 4.
"""

from collections import deque
from typing import Final, NamedTuple, Protocol

from store.limits import KIB
from store.session.estimate import WindowedMinimum

BATCH: Final = 128  # datagrams over which loss is judged
BATCH_ROUNDS: Final = 8  # or so many rounds, whichever comes first
FLOOR_MAX: Final = 0.06  # loss up to this is taken for the path's own
FLOOR_BATCHES: Final = 16
CUT: Final = 0.05
DRAIN_S: Final = 10.0
DRAIN_DEPTH: Final = 0.5
DRAIN_ROUNDS: Final = 2
BASE_WINDOW_S: Final = 30.0
RATE_ROUNDS: Final = 8
FIRST_WINDOW: Final = 32  # datagrams
FIRST_WINDOW_MAX: Final = 45 * KIB
FIRST_PACE_S: Final = 0.05  # the first window is spread over this before a round trip is known
_NEVER: Final = float("inf")


class Temper(NamedTuple):
    """How much queue a kind of traffic tolerates, and what share of the link it holds against others."""

    base_s: float
    bytes: int  # of queue that any flow may keep, so that slow ones tolerate more time
    most_s: float
    share: float


FOREGROUND: Final = Temper(0.005, 16 * KIB, 0.025, 0.25)
BACKGROUND: Final = Temper(0.003, 4 * KIB, 0.010, 0.0)
LEAST_TARGET_S: Final = 0.001


class Sample(Protocol):
    """What one flush of a path tells: see `loss.Path`."""

    acked: int  # bytes
    delay: float  # lowest one-way delay, infinite without a sample
    rate: float  # bytes per second, 0 without a sample
    limited: bool  # the rate was bounded by the window, not by lack of work
    flight: int  # bytes
    base_rtt: float
    round_over: bool
    round_delay: float  # of the round: lowest one-way delay, bytes, and whether the window bounded it
    round_acked: int
    round_lost: int
    round_limited: bool


class Tide:
    """The window of one path and direction."""

    __slots__ = (
        "_batch_lost", "_batch_rounds", "_batch_total", "_clean", "_drain", "_drain_at", "_drain_lost", "_drain_total",
        "_excess", "_flat", "_floors", "_full", "_hold", "_last_drain", "_last_round", "_loss", "_rates", "_recent",
        "_reference", "_rounds", "_saved", "_skip", "_velocity", "bandwidth", "base", "capped", "drain_loss", "floor",
        "idle", "queue", "size", "starting", "temper", "window",
    )

    def __init__(self, size: int, temper: Temper = FOREGROUND) -> None:
        """`size`: bytes of a full datagram on the wire."""
        self.size = size
        self.temper = temper
        self.window = float(min(FIRST_WINDOW * size, max(FIRST_WINDOW_MAX, 2 * size)))  # bytes
        self.starting = True
        self.idle = False  # the first round after a pause: no burst at twice the rate
        self.bandwidth = 0.0  # bytes per second, highest of the last rounds
        self.base = WindowedMinimum(BASE_WINDOW_S)  # one-way delay of the empty path
        self.capped = False  # the far end's own cap makes the queue: hold no share against it
        self.queue = 0.0  # seconds of queue in the last round
        self.floor = 0.0  # loss rate taken for the path's own
        self.drain_loss = -1.0  # loss rate while the queue was drained; below 0: not known
        self._reference = 0.0  # slowly forgotten maximum of bandwidth
        self._rates: deque[tuple[int, float]] = deque()
        self._rounds = 0
        self._last_round = 0.0
        self._recent: deque[float] = deque(maxlen=8)
        self._full = 0.0  # bandwidth that counts as grown from
        self._flat = 0  # rounds without such growth
        self._velocity = 1.0
        self._hold = 0  # rounds to wait for the effect of the last step
        self._drain = 0  # rounds of drain left
        self._drain_at = self._last_drain = 0.0
        self._drain_lost = self._drain_total = 0
        self._saved = 0.0
        self._forget_loss()
        self._clean = 9

    def _forget_loss(self) -> None:
        self._batch_lost = self._batch_total = 0.0
        self._batch_rounds = self._skip = 0
        self._floors: deque[float] = deque(maxlen=FLOOR_BATCHES)
        self._loss = self._excess = 0.0

    def rate(self, srtt: float) -> float:
        """Bytes per second to pace at; `srtt` below 0: no round trip is known yet."""
        if srtt < 0:
            return self.window / FIRST_PACE_S
        return (2.0 if self.starting and not self.idle else 1.25) * self.window / (srtt if srtt > 1e-4 else 1e-4)

    def target(self, base_rtt: float) -> float:
        """Seconds of standing queue to aim at."""
        base_s, keep, most_s, _ = self.temper
        base = LEAST_TARGET_S if base_rtt < LEAST_TARGET_S else base_rtt if base_rtt < base_s else base_s
        target = base + keep / (self.bandwidth or 1.0)
        return target if target < most_s else most_s

    def excess(self, lost: float, total: float) -> float:
        """Loss rate beyond the path's own; `lost` of `total` bytes of a round. Judged in batches, 0 in between."""
        if self._skip:
            self._skip -= 1
            return 0.0
        self._batch_lost += lost
        self._batch_total += total
        self._batch_rounds += 1
        datagrams = self._batch_total / self.size
        if datagrams < BATCH and self._batch_rounds < BATCH_ROUNDS:
            return 0.0
        self._clean += 1
        rate = self._batch_lost / max(1, self._batch_total)
        self._batch_lost = self._batch_total = 0.0
        self._batch_rounds = 0
        self._loss = self._loss + (rate - self._loss) / 2 if self._floors else rate
        self._floors.append(self._loss)
        floor = min(*self._floors, FLOOR_MAX)
        if self.drain_loss >= 0:
            floor = min(floor, self.drain_loss + 0.01)
        self.floor = floor
        datagrams = max(datagrams, 1.0)
        noise = 2 * (max(floor, 0.002) * (1 - floor) / datagrams) ** 0.5 + 1 / datagrams
        before, self._excess = self._excess, max(0.0, rate - 1.25 * floor - noise)
        return self._excess if self._excess > 0.1 else min(self._excess, before)

    def on_ack(self, now: float, sample: Sample) -> None:
        """Take the arrivals of one drained batch."""
        if sample.delay < _NEVER:
            self.base.add(now, sample.delay)
        if sample.rate > 0 and (sample.limited or sample.rate > self.bandwidth):
            self._learn_rate(sample.rate)
        if self.starting and self._start(now, sample):
            return
        if sample.round_over:
            self._round(now, sample)

    def _learn_rate(self, rate: float) -> None:
        rates = self._rates
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((self._rounds, rate))
        while rates[0][0] < self._rounds - RATE_ROUNDS:
            rates.popleft()
        best = self.bandwidth = rates[0][1]
        if best > self._reference:  # noqa: PLR1730 - hot
            self._reference = best

    def _start(self, now: float, sample: Sample) -> bool:
        """Exponential growth, until the last eight delays all show a queue; whether it ended now."""
        if sample.flight + sample.acked >= self.window * 0.5:
            self.window += sample.acked
        if sample.delay == _NEVER:
            return False
        recent = self._recent
        recent.append(sample.delay)
        # a delay that shows no queue ends the search at once: all of the last eight must
        if sample.delay - self.base.value <= LEAST_TARGET_S or len(recent) < 8 or not self._rounds:
            return False
        target = self.target(sample.base_rtt)
        if min(recent) - self.base.value <= target:
            return False
        self._settle(now, sample.base_rtt, target)
        return True

    def _settle(self, now: float, base_rtt: float, target: float) -> None:
        """End of the start: what the overshoot lost is paid for already, so loss is learnt anew."""
        self.starting = False
        self._hold = 2
        self._forget_loss()
        self._skip = 2
        self._drain_at, self._last_drain = now + DRAIN_S, now
        if self.bandwidth:
            self.window = max(2.0 * self.size, min(self.window, self.bandwidth * (base_rtt + target)))

    def _round(self, now: float, sample: Sample) -> None:
        self._rounds += 1
        self.idle = False
        elapsed, self._last_round = now - self._last_round, now
        lost, total = sample.round_lost, sample.round_lost + sample.round_acked
        queue = sample.round_delay - self.base.value if sample.round_delay < _NEVER else 0.0
        self.queue = queue = queue if queue > 0 else 0.0
        base_rtt = sample.base_rtt
        excess = self.excess(lost, total)
        if self.starting:
            self._start_round(now, sample, base_rtt)
            return
        target = self.target(base_rtt)
        fade = min(0.5, elapsed / (90.0 if queue > target else 15.0))
        self._reference = max(self.bandwidth, self._reference * (1 - fade))
        if queue < 0.1 * target:
            self._drain_at = now + DRAIN_S  # the queue was just seen empty
        if self._drain:
            self._drain_round(lost, total)
        elif self._drain_due(now, base_rtt):
            self._begin_drain(now, base_rtt, target)
        else:
            self._step(sample.round_limited, queue, base_rtt, target, excess)

    def _start_round(self, now: float, sample: Sample, base_rtt: float) -> None:
        if self.bandwidth >= self._full * 1.25:
            self._full, self._flat = self.bandwidth, 0
        elif sample.round_limited:
            self._flat += 1
        lost, total = sample.round_lost, sample.round_lost + sample.round_acked
        if self._flat >= 3 or (lost > 0.2 * total and lost >= 16 * self.size):
            self._settle(now, base_rtt, self.target(base_rtt))

    def _drain_due(self, now: float, base_rtt: float) -> bool:
        if now >= self._drain_at:
            return True
        suspect = self._loss > 0.04 and self._loss > 1.5 * max(self.drain_loss, 0.0) + 0.01
        return suspect and now - self._last_drain > max(2.0, 20 * base_rtt)

    def _begin_drain(self, now: float, base_rtt: float, target: float) -> None:
        """Empty the queue for two rounds, to measure delay and loss of the path itself."""
        self._saved = min(self.window, self.bandwidth * (base_rtt + target))
        self._drain = DRAIN_ROUNDS
        self._drain_lost = self._drain_total = 0
        self._drain_at, self._last_drain = now + DRAIN_S, now
        self.window = max(2.0 * self.size, min(self.window, DRAIN_DEPTH * self.bandwidth * base_rtt))

    def _drain_round(self, lost: int, total: int) -> None:
        self._drain -= 1
        self._drain_lost += lost
        self._drain_total += total
        if self._drain == 0:
            self.window = max(2.0 * self.size, self._saved)
            self._hold = 1
            loss = self._drain_lost / max(1, self._drain_total)
            self.drain_loss = loss if self.drain_loss < 0 else (self.drain_loss + loss) / 2

    def _step(self, limited: bool, queue: float, base_rtt: float, target: float, excess: float) -> None:
        """Move the window towards the target: down in one step, up with rising velocity."""
        size, window = self.size, self.window
        share = 0.0 if self.capped else self.temper.share  # what foreground keeps against others
        held = share * self._reference * (base_rtt + queue)
        if self._hold:
            self._hold -= 1
        elif queue > target:
            self._velocity = 1.0
            self._hold = 1
            window = max(window * shrink(queue, base_rtt, target), min(held, window))
        elif limited and not excess:
            window = self._grow(window, queue, base_rtt, target)
        if queue > target and window < held and not excess and limited:
            window += size
        if excess > 0:
            window *= 1 - min(0.4, CUT + excess)
            self._reference *= 1 - min(0.3, excess)
            self._velocity = 1.0
            self._clean = 0
        held = share * self._reference * (base_rtt + queue)
        cap = max(1.25 * self.bandwidth / (1 - self.floor) * (base_rtt + target), held) + 4 * size
        if window > cap:
            window = max(cap, 0.9 * window)
            self._velocity = 1.0
        self.window = max(2.0 * size, window)

    def _grow(self, window: float, queue: float, base_rtt: float, target: float) -> float:
        size = self.size
        step = min(max(size, 0.01 * window) * self._velocity, 0.125 * window + size)
        if queue > 0.1 * target:
            step = min(step, max(size, window * (base_rtt + target) / (base_rtt + queue) - window))
        if step > 0.03 * window:
            self._hold = 1
        self._velocity = min(self._velocity * 2, 64.0) if queue < 0.5 * target and self._clean >= 2 else 1.0
        return window + step

    def on_persistent_timeout(self, now: float, base_rtt: float) -> None:
        """The third probe timeout in a row."""
        self.window = max(2.0 * self.size, self.window / 4)
        if self.starting:
            self._settle(now, base_rtt, self.temper.most_s)

    def on_idle(self, idle: float, srtt: float) -> None:
        """Nothing was sent for `idle` seconds: start gently, and forget what may have changed."""
        if idle <= max(1.0, 4 * srtt):
            return
        self.idle = True
        if idle > 10:
            self.window = max(float(min(FIRST_WINDOW * self.size, FIRST_WINDOW_MAX)), self.window / 2)
        if idle > 60:
            self.base.forget()
            self.drain_loss = -1.0
            self._reference = self.bandwidth


def shrink(queue: float, base_rtt: float, target: float) -> float:
    """The factor that lands a window on the target in one step, at least a half."""
    return max(0.5, (base_rtt + target) / (base_rtt + queue))
