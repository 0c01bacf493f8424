"""What this end sends, and how the daemon's acknowledgements tell what became of it."""

from typing import Final

from store.session.loss import B, Path
from store.session.tide import Tide

_NEVER: Final = float("inf")


class SendPath(Path[B]):
    """Datagrams this end sends, acknowledged by copies of the daemon's replay window."""

    __slots__ = ("ack_delay", "arrivals", "overtaken")

    def __init__(self, tide: Tide) -> None:
        super().__init__(tide)
        self.overtaken = False  # an ACK told of something later than what is still in flight
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
            self.overtaken = bool(self.open) and next(iter(self.open)) < top
            if self.acked:
                self.sampled(newest, rtt)

    def extra_wait(self) -> float:
        return self.ack_delay

    def detect(self, now: float) -> int:
        largest, gate, lost = self.largest, self.gate(), 0
        self.loss_timer = _NEVER
        self.overtaken = False
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
