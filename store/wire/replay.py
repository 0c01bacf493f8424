"""The sliding window of packet numbers already received: refuses replays, and is what an ACK is a copy of."""

from typing import Final

from store.limits import ACK_BITMAP_MAX, REPLAY_WINDOW
from store.wire.header import ACK, Malformed

_ALL: Final = (1 << REPLAY_WINDOW) - 1
ACK_BITS: Final = ACK_BITMAP_MAX * 8
_ACK_ALL: Final = (1 << ACK_BITS) - 1


class ReplayWindow:
    """The highest number received and, for the `REPLAY_WINDOW` before it, which of them came.

    The numbers of the unbroken run up to `top` are only counted, so in-order arrival costs an addition. For those
    before the run, bit i of `bits` stands for the number `top - run + 1 - REPLAY_WINDOW + i`. Older numbers count as
    received.
    """

    __slots__ = ("bits", "run", "top")

    def __init__(self, first: int) -> None:
        """Nothing was received and `first` comes next; negative numbers, of which there are none, count as received."""
        self.top = first - 1
        self.run = 0
        self.bits = _ALL >> first if first < REPLAY_WINDOW else 0

    def has(self, number: int) -> bool:
        """Whether `number` was received or is too old to tell."""
        if number > self.top:
            return False
        before = self.top - self.run + 1 - number
        if before <= 0 or before > REPLAY_WINDOW:
            return True
        return bool(self.bits >> REPLAY_WINDOW - before & 1)

    def add(self, number: int) -> bool:
        """Note an authentic `number` for which `has` was false; whether it left or filled a gap."""
        ahead = number - self.top
        if ahead == 1:
            self.top = number
            self.run += 1
            return False
        if ahead <= 0:
            self.bits |= 1 << REPLAY_WINDOW - (self.top - self.run + 1 - number)
            return True
        run = min(self.run, REPLAY_WINDOW)
        low = REPLAY_WINDOW - ahead + 1 - run  # where the lowest number of the run goes
        block = (1 << run) - 1
        self.bits = (self.bits >> self.run - 1 + ahead | (block << low if low >= 0 else block >> -low)) & _ALL
        self.top = number
        self.run = 1
        return True

    def below(self, count: int) -> int:
        """A bitmap of the `count` numbers below `top`: bit i stands for `top - count + i`."""
        run = max(0, min(self.run - 1, count))
        return ((1 << run) - 1) << count - run | self.bits >> REPLAY_WINDOW - count + run


def pack_ack(window: ReplayWindow, clock: int, credit: int) -> bytes:
    """An ACK. `clock` is the timestamp of the datagram `top` plus the time since it came, in microseconds.

    `credit`: bytes of unfinished fragmented requests the session may have. Bytes of ones at the far end of the bitmap
    are left out, so without loss it has 8.
    """
    bitmap = window.below(ACK_BITS)
    gaps = bitmap ^ _ACK_ALL
    size = max(8, ACK_BITMAP_MAX - ((gaps & -gaps).bit_length() - 1) // 8) if gaps else 8
    head: bytes = ACK.pack(window.top, clock, credit, size)
    return head + (bitmap >> ACK_BITS - size * 8).to_bytes(size, "little")


def parse_ack(body: memoryview) -> tuple[int, int, int, int]:
    """(top, clock, credit, bitmap) of an ACK; bit i of the bitmap stands for packet `top - 1024 + i`, top included.

    Raises `Malformed`.
    """
    if len(body) < ACK.size:
        raise Malformed("shorter than an ACK")
    top, clock, credit, size = ACK.unpack_from(body)
    if not 0 < size <= ACK_BITMAP_MAX or len(body) != ACK.size + size:
        raise Malformed("an ACK of the wrong length")
    cut = ACK_BITS - size * 8
    bitmap = int.from_bytes(body[ACK.size :], "little") << cut | (1 << cut) - 1 | 1 << ACK_BITS
    return top, clock, credit, bitmap
