"""How large a datagram may be: packetization layer path MTU discovery (RFC 8899) with few rungs. No timer runs idle.

One size serves both directions: a probe of a rung's size asks for an answer of the same size.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from store.limits import DATAGRAM_MAX
from store.session.pacing import BURST_S

RUNGS: Final = (1200, 1400, 4096, 8192, 16384, 32768, DATAGRAM_MAX)
FIRST: Final = 1400
PROBE_WAIT_S: Final = 0.05  # at least, for an answer
RETRY_S: Final = (1.0, 2.0)  # before the second and third try of a rung
RAISE_S: Final = 600.0  # from the end of a search to the next
AFTER_HOLE_S: Final = 60.0
HOLE: Final = 4  # whole bursts in a row
SLOW_RTT_S: Final = 0.01  # beyond it probes are rationed
RATION: Final = 8  # bytes of traffic per byte of probe


class PathMtu:
    """Searches upwards from 1,400 bytes, and falls back when large datagrams vanish while small ones pass."""

    __slots__ = (
        "_alive", "_at", "_limit", "_lost_at", "_lost_size", "_sent_at", "_tries", "earned", "fell",
        "lost_in_row", "size", "trying",
    )

    def __init__(self, now: float, interface: int) -> None:
        """`interface`: MTU of the local interface in bytes; larger datagrams are not tried."""
        self._limit = interface - 28
        self.size = min(FIRST, max(RUNGS[0], self._limit))  # confirmed
        self.earned = 0  # bytes of traffic since the last probe
        self.trying = 0  # rung of the probe in flight; 0: none
        self._tries = 0
        self._sent_at = 0.0
        self._at = now  # no probe before
        self._alive = [-1.0] * (len(RUNGS) + 1)  # when the newest that arrived was sent, by size
        self.lost_in_row = 0  # bursts lost as a whole, since one as large arrived
        self.fell = False  # the size fell: what is in flight should be sent again; the endpoint clears it
        self._lost_size = 0  # the smallest of them
        self._lost_at = 0.0  # when the first of them was sent

    def usable(self, rate: float) -> int:
        """The size to use at `rate` bytes per second: slow links take smaller ones, lest one blocks them for long."""
        return _largest(self.size, rate)

    def probe(self, now: float, rate: float, base_rtt: float) -> int:
        """The size of a probe to send now; 0: none."""
        if self.trying or now < self._at:
            return 0
        rung = next((rung for rung in RUNGS if rung > self.size), 0)
        if not rung or rung > self._limit:
            return 0
        if base_rtt > SLOW_RTT_S and (self.earned < RATION * rung or _largest(rung, rate) < rung):
            return 0
        self.trying, self._sent_at, self.earned = rung, now, 0
        return rung

    def answered(self, now: float, size: int) -> None:
        """A PROBE of `size` came through and its answer came back."""
        if size == self.trying:
            self.trying = self._tries = 0
            self._at = now
        self.size = max(self.size, min(size, self._limit))

    def deadline(self, timeout: float) -> float:
        """When `expire` has something to do; infinite without a probe in flight."""
        return self._sent_at + max(timeout, PROBE_WAIT_S) if self.trying else float("inf")

    def expire(self, now: float, timeout: float) -> None:
        """A lost probe is no sign of congestion. The third one ends the search."""
        if not self.trying or now < self._sent_at + max(timeout, PROBE_WAIT_S):
            return
        self.trying = 0
        if self._tries < len(RETRY_S):
            self._at = now + RETRY_S[self._tries]
            self._tries += 1
        else:
            self._at, self._tries = now + RAISE_S, 0

    def refused(self, now: float, size: int) -> None:
        """The local stack does not send datagrams of `size` bytes."""
        self._limit = min(self._limit, size - 1)
        self.size = max((rung for rung in RUNGS if rung <= min(self.size, self._limit)), default=RUNGS[0])
        self.trying, self._at, self._tries = 0, now + RAISE_S, 0

    def alive(self, size: int, sent: float) -> None:
        """A datagram of `size` bytes, sent at `sent`, has arrived: told now and then."""
        rung = bisect_right(RUNGS, size)
        self._alive[rung] = max(self._alive[rung], sent)

    def lost(self, size: int, sent: float) -> None:
        """Of a burst of datagrams of `size` bytes, sent at `sent`, none has arrived."""
        if size <= RUNGS[0] or max(self._alive[bisect_right(RUNGS, size) :]) >= sent:
            return  # too small to matter, or as large a one that was sent later has arrived
        if not self.lost_in_row:
            self._lost_size, self._lost_at = size, sent
        self._lost_size = min(self._lost_size, size)
        self.lost_in_row += 1

    def arrived(self, now: float, size: int, sent: float) -> None:
        """A datagram of `size` bytes, sent at `sent`, has arrived.

        If it is a small one after `HOLE` larger ones were lost, the path has become a black hole for those: the size
        falls, and `fell` tells so.
        """
        if not self.lost_in_row or sent < self._lost_at:
            return
        if size >= self._lost_size:
            self.lost_in_row = 0
        elif self.lost_in_row >= HOLE and self.size > RUNGS[0]:
            self.size = FIRST if self.size > FIRST else RUNGS[0]
            self.fell = True
            self.lost_in_row = self.trying = self._tries = 0
            self._at = now + AFTER_HOLE_S

    def suspicious(self) -> bool:
        """Whether a small datagram should be sent, to learn if only large ones vanish."""
        return self.lost_in_row >= HOLE and self.size > RUNGS[0]


def _largest(size: int, rate: float) -> int:
    """The largest rung that is at most `size` and takes at most 4 ms at `rate`, but never below 1,400."""
    if size <= FIRST or size <= rate * BURST_S:
        return size
    rungs: Sequence[int] = [rung for rung in RUNGS if FIRST < rung <= min(size, rate * BURST_S)]
    return rungs[-1] if rungs else FIRST
