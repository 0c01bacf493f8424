"""A read in progress: what was asked for, what came, and what that makes of it."""

from typing import Final

from store.limits import BLOCK, BURST_MAX, RANGES_MAX
from store.wire.cut import DATA_OVERHEAD, ECHO_SIZE, fragment_start, fragments
from store.wire.ranges import Ranges

ALIGN_FROM: Final = 8 * BLOCK  # bursts from this size on end at whole blocks, which the daemon checks as a whole
IP_UDP: Final = 28  # bytes around a datagram on the wire

Parts = tuple[tuple[int, int], ...]  # (offset in the object, length)


class Read:
    """One `Endpoint.read`. Offsets inside of it count from its own start."""

    __slots__ = (
        "asked", "busy", "deadline", "ended", "flags", "generation", "got", "group", "into", "length", "name", "number",
        "object_size", "offset", "order", "rest", "retry", "scope", "version",
    )

    group: int
    name: bytes
    order: int
    scope: int
    generation: int

    def __init__(
        self, number: int, offset: int, length: int, into: memoryview, flags: int, deadline: float
    ) -> None:
        self.number = number
        self.offset = offset
        self.length = length
        self.into = into
        self.flags = flags
        self.deadline = deadline
        self.asked = 0  # bytes asked for at least once
        self.retry: list[tuple[int, int]] = []  # lost: start and end, to be asked for again
        self.got: Ranges | None = None  # None while nothing came, or all of it at once
        self.version = -1  # -1: nothing came yet
        self.object_size = -1  # the smallest that was told
        self.busy = 0  # bursts refused in a row because the daemon's queue was full
        self.rest = 0.0  # nothing is asked for before
        self.ended = False

    @property
    def waiting(self) -> bool:
        """Whether there is something to ask for."""
        return bool(self.retry) or self.asked < self.length

    def want(self) -> int:
        """How many bytes the read will have delivered when it is complete."""
        if self.object_size < 0:
            return self.length
        return max(0, min(self.length, self.object_size - self.offset))

    def take_in(self, start: int, end: int) -> bool:
        """Bytes [start, end) have come; whether that is all that exists."""
        want = self.want()
        got = self.got
        if got is None:
            if start == 0 and end == want:
                return True
            got = self.got = Ranges()
        if start < end:
            got.add(start, end)
        return got.total >= want and (got.total == want or not got.missing(0, want))

    def take(self, count: int, size: int) -> Parts:
        """The next ranges to ask for, in at most `count` datagrams of `size` bytes, and never more than a burst."""
        count = max(1, min(count, BURST_MAX // size))
        if self.retry:
            return self._take_lost(count, size)
        start = self.asked
        most = fragment_start(count, size)
        length = self.length - start
        if length > most:
            length = most
            if most >= ALIGN_FROM:
                length -= (self.offset + start + most) % BLOCK
        self.asked = start + length
        return ((self.offset + start, length),)

    def _take_lost(self, count: int, size: int) -> Parts:
        parts: list[tuple[int, int]] = []
        want = self.want()
        while self.retry and count > 0 and len(parts) < RANGES_MAX:
            start, end = self.retry.pop()
            end = min(end, want)
            for low, high in self._missing(start, end):
                if count <= 0 or len(parts) == RANGES_MAX:
                    self.retry.append((low, high))
                    continue
                length = min(high - low, fragment_start(count, size))
                parts.append((self.offset + low, length))
                count -= fragments(length, size)
                if low + length < high:
                    self.retry.append((low + length, high))
        return tuple(parts)

    def _missing(self, start: int, end: int) -> list[tuple[int, int]]:
        if start >= end:
            return []
        return [(start, end)] if self.got is None else self.got.missing(start, end)

    def lost(self, parts: Parts, span: int, missing: int) -> None:
        """Datagrams of an answer are lost (bits of `missing`, by index): ask for their bytes again."""
        index = 0
        retry = self.retry
        for offset, length in parts:
            base = offset - self.offset
            count = fragments(length, span)
            bits = missing >> index & (1 << count) - 1
            while bits:
                low = (bits & -bits).bit_length() - 1
                run = (~(bits >> low) & (bits >> low) + 1).bit_length() - 1
                stop = length if low + run >= count else fragment_start(low + run, span)
                retry.append((base + fragment_start(low, span), base + stop))
                bits &= ~((1 << low + run) - 1)
            index += count

    def place(self, parts: Parts, span: int, index: int) -> tuple[int, int]:
        """Offset in the object and length of datagram `index` of an answer."""
        for offset, length in parts:
            count = fragments(length, span)
            if index < count:
                start = fragment_start(index, span)
                return offset + start, (length if index == count - 1 else fragment_start(index + 1, span)) - start
            index -= count
        return 0, -1

    @staticmethod
    def exists(parts: Parts, span: int, object_size: int) -> int:
        """Which datagrams of an answer there are (bits by index) when the object has `object_size` bytes."""
        bits = index = 0
        for offset, length in parts:
            count = fragments(length, span)
            reach = max(1, min(length, object_size - offset))
            bits |= (1 << fragments(reach, span)) - 1 << index
            index += count
        return bits


def wire_size(length: int, size: int) -> tuple[int, int]:
    """(datagrams, bytes of one on the wire on average) of the answer to a range of `length` bytes."""
    if length <= size - DATA_OVERHEAD - ECHO_SIZE:
        return 1, length + DATA_OVERHEAD + ECHO_SIZE + IP_UDP
    count = fragments(length, size)
    return count, length // count + DATA_OVERHEAD + IP_UDP + ECHO_SIZE // 16


def wire_sizes(parts: Parts, size: int) -> tuple[int, int]:
    """(datagrams, bytes of one on the wire on average) of the answer to several ranges."""
    if len(parts) == 1:
        return wire_size(parts[0][1], size)
    sizes = [wire_size(length, size) for _, length in parts]
    count = sum(count for count, _ in sizes)
    return count, sum(count * each for count, each in sizes) // count
