"""What a path is believed to be: round-trip time, its minimum, one-way delay on clocks that were never set."""

from typing import Final

from store.wire.seal import CLOCK_MASK

_HALF: Final = 1 << 31
_NEVER: Final = float("inf")
FIRST_TIMEOUT_S: Final = 0.3  # before the first round-trip sample
TIMEOUT_MAX_S: Final = 2.0  # however often it doubled: who comes back is noticed soon
_VARIANCE_MIN_S: Final = 0.002


class WindowedMinimum:
    """The minimum of the last `window` seconds, in two buckets: forgets between half a window and a whole one late."""

    __slots__ = ("_half", "_new", "_old", "_since", "value")

    def __init__(self, window: float) -> None:
        self._half = window / 2
        self.forget()

    def forget(self) -> None:
        self._old = self._new = self.value = _NEVER  # infinite before the first sample
        self._since = 0.0

    def add(self, now: float, value: float) -> None:
        if self.value == _NEVER:
            self._old = self._new = self.value = value
            self._since = now
            return
        if now - self._since > self._half:
            self._old, self._new, self._since = self._new, value, now
        elif value < self._new:
            self._new = value
        self.value = self._old if self._old < self._new else self._new


class Smoothed:
    """Mean and mean deviation as RFC 6298 smooths them (1/8 and 1/4)."""

    __slots__ = ("deviation", "mean")

    def __init__(self) -> None:
        self.mean = -1.0  # below 0 before the first sample
        self.deviation = 0.0

    def add(self, value: float) -> None:
        if self.mean < 0:
            self.mean = value
            self.deviation = value / 2
        else:
            error = value - self.mean
            self.deviation += ((error if error > 0 else -error) - self.deviation) / 4
            self.mean += error / 8

    def timeout(self, extra: float, doublings: int) -> float:
        """How long to wait for an answer before asking whether it is lost."""
        if self.mean < 0:
            return min(FIRST_TIMEOUT_S * (1 << min(doublings, 6)), TIMEOUT_MAX_S)
        margin = 4 * self.deviation
        wait = self.mean + (margin if margin > _VARIANCE_MIN_S else _VARIANCE_MIN_S) + extra
        return max(wait, min(wait * (1 << min(doublings, 6)), TIMEOUT_MAX_S)) if doublings else wait


class OneWayDelay:
    """Seconds between a header's clock and ours, up to a constant nobody knows; safe across the wrap of the clocks."""

    __slots__ = ("_reference",)

    def __init__(self) -> None:
        self._reference = -1

    def of(self, received_us: int, sent_us: int) -> float:
        difference = received_us - sent_us & CLOCK_MASK
        if self._reference < 0:
            self._reference = difference
        return ((difference - self._reference + _HALF & CLOCK_MASK) - _HALF) * 1e-6
