"""The log of one group in memory: a contiguous run of records behind (after_n, after_epoch)."""

from daemon.core.record import Entry

ABSENT = -1  # epoch of a position that the log does not hold


class Broken(Exception):
    """A core met a state that the protocol excludes. The process must end: going on could lose data."""


class Log:
    """Records by position. `last` and `last_epoch` are the version of the head."""

    __slots__ = ("after_epoch", "after_n", "entries", "last", "last_epoch")

    def __init__(self, n: int, epoch: int) -> None:
        self.reset(n, epoch)

    def reset(self, n: int, epoch: int) -> None:
        """Forget everything; the next record is n + 1."""
        self.entries: list[Entry] = []
        self.after_n = self.last = n
        self.after_epoch = self.last_epoch = epoch

    def epoch_at(self, n: int) -> int:
        """Epoch of the record at n, or ABSENT."""
        i = n - self.after_n - 1
        if 0 <= i < len(self.entries):
            return self.entries[i].epoch
        return self.after_epoch if i == -1 else ABSENT

    def entry(self, n: int) -> Entry:
        return self.entries[n - self.after_n - 1]

    def between(self, low: int, high: int) -> list[Entry]:
        """Records low..high, both included; all of them must be held."""
        first = self.after_n + 1
        return self.entries[low - first : high - first + 1]

    def append(self, entry: Entry) -> None:
        if entry.n != self.last + 1:
            raise Broken(f"group {entry.group}: record {entry.n} after {self.last}")
        self.entries.append(entry)
        self.last = entry.n
        self.last_epoch = entry.epoch

    def cut(self, n: int) -> None:
        """Drop the records from n on."""
        del self.entries[n - self.after_n - 1 :]
        self.last = n - 1
        self.last_epoch = self.epoch_at(n - 1)

    def trim(self, n: int) -> None:
        """Forget the records up to n; positions above stay."""
        if n > self.after_n:
            self.after_epoch = self.epoch_at(n)
            del self.entries[: n - self.after_n]
            self.after_n = n
