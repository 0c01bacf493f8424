"""A set of byte ranges already received: sorted, apart, cheap when bytes arrive in order."""

from bisect import bisect_left


class Ranges:
    """Half-open intervals of integers. Touching ones are merged."""

    __slots__ = ("ends", "starts", "total")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.total = 0

    def add(self, start: int, end: int) -> int:
        """Add [start, end); how many of its numbers were not in the set."""
        starts, ends = self.starts, self.ends
        if ends and ends[-1] == start:
            ends[-1] = end
            self.total += end - start
            return end - start
        first = bisect_left(ends, start)
        last = first
        low, high, had = start, end, 0
        while last < len(starts) and starts[last] <= end:
            had += ends[last] - starts[last]
            low, high = min(low, starts[last]), max(high, ends[last])
            last += 1
        starts[first:last], ends[first:last] = [low], [high]
        new = high - low - had
        self.total += new
        return new

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in the set, in order."""
        holes = []
        at = start
        for index in range(bisect_left(self.ends, start + 1), len(self.starts)):
            if self.starts[index] >= end:
                break
            if self.starts[index] > at:
                holes.append((at, self.starts[index]))
            at = self.ends[index]
        if at < end:
            holes.append((at, end))
        return holes
