"""The sliding window of packet numbers already received: refuses replays, and is what an ACK is a copy of."""

from typing import Final

from store.limits import ACK_BITMAP_MAX, REPLAY_WINDOW
from store.wire.header import ACK, Malformed

_MASK: Final = (1 << REPLAY_WINDOW) - 1
_BITMAP_BITS: Final = ACK_BITMAP_MAX * 8


class ReplayWindow:
    """The highest number received and, for the `REPLAY_WINDOW` below it, which of them came.

    The numbers in an unbroken run up to `top` are only counted (`run`), so in-order arrival costs an addition; bit i
    of `bits` stands for the number `top - run - i`. A number below the window counts as received.
    """

    __slots__ = ("bits", "run", "top")

    def __init__(self, first: int) -> None:
        """Nothing was received and `first` comes next; negative numbers, of which there are none, count as received."""
        self.top = first - 1
        self.run = 0
        self.bits = _MASK & ~((1 << first) - 1) if first < REPLAY_WINDOW else 0

    def has(self, number: int) -> bool:
        """Whether `number` was received or is too old to tell."""
        below = self.top - number
        if below < 0:
            return False
        if below < self.run or below >= REPLAY_WINDOW:
            return True
        return bool(self.bits >> below - self.run & 1)

    def add(self, number: int) -> bool:
        """Note an authentic `number` for which `has` was false; whether it left or filled a gap."""
        ahead = number - self.top
        if ahead == 1:
            self.top = number
            self.run += 1
            return False
        if ahead < 0:
            self.bits |= 1 << -ahead - self.run
            return True
        if ahead > REPLAY_WINDOW:
            self.bits = 0
        else:
            run = min(self.run, REPLAY_WINDOW)
            self.bits = (self.bits << run | (1 << run) - 1) << ahead - 1 & _MASK
        self.top = number
        self.run = 1
        return True

    def below(self, count: int) -> int:
        """A bitmap of the `count` numbers below `top`: bit i stands for `top - 1 - i`."""
        run = max(0, min(self.run - 1, count))
        return (self.bits << run | (1 << run) - 1) & (1 << count) - 1


def pack_ack(window: ReplayWindow, clock: int, credit: int) -> bytes:
    """An ACK. `clock` is the timestamp of the datagram `top`, `credit` the bytes of unfinished writes allowed.

    Whole bytes of ones at the far end of the bitmap are left out, so without loss it is 8 bytes long.
    """
    gaps = window.below(_BITMAP_BITS) ^ (1 << _BITMAP_BITS) - 1
    size = max(8, -(-gaps.bit_length() // 8))
    bitmap = gaps ^ (1 << _BITMAP_BITS) - 1
    head: bytes = ACK.pack(window.top, clock, credit, size)
    return head + (bitmap & (1 << size * 8) - 1).to_bytes(size, "little")


def parse_ack(body: memoryview) -> tuple[int, int, int, int]:
    """(top, its timestamp, credit, bitmap of the 1,024 numbers below top) of an ACK. Raises `Malformed`."""
    if len(body) < ACK.size:
        raise Malformed("shorter than an ACK")
    top, clock, credit, size = ACK.unpack_from(body)
    if not 0 < size <= ACK_BITMAP_MAX or len(body) != ACK.size + size:
        raise Malformed("an ACK of the wrong length")
    bitmap = int.from_bytes(body[ACK.size :], "little")
    return top, clock, credit, bitmap | ((1 << _BITMAP_BITS) - 1) >> size * 8 << size * 8
