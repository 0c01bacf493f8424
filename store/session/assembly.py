"""Requests that arrive in fragments: one buffer each, out of a bounded memory shared by all sessions."""

from typing import Final

from store.limits import (
    ASSEMBLIES_PER_SESSION,
    NAME_MAX,
    OBJECT_MAX,
    WRITE_MEMORY,
    WRITE_WINDOW_MAX,
    WRITE_WINDOW_MIN,
)
from store.wire.header import REQUEST
from store.wire.message import HEADROOM
from store.wire.ranges import Ranges

MESSAGE_MAX: Final = REQUEST.size + NAME_MAX + OBJECT_MAX  # no message is longer
ACK_DELAY_AT: Final = 62  # where a REQUEST says how long its acknowledgement may wait


class Assembly:
    """A message being put together. `buffer` has the headroom that lets a record header stand before the name."""

    __slots__ = ("buffer", "got", "heard", "total")

    def __init__(self, total: int, now: float) -> None:
        self.total = total
        self.buffer = bytearray(HEADROOM + total)
        self.got = Ranges()
        self.heard = now

    def put(self, offset: int, data: memoryview, now: float) -> int:
        """Copy a fragment in; how many of its bytes were new. The caller has checked that it lies within `total`."""
        self.heard = now
        new = self.got.add(offset, offset + len(data))
        if new:
            at = HEADROOM + offset
            self.buffer[at : at + len(data)] = data
        return new

    @property
    def whole(self) -> bool:
        return self.got.total == self.total


class WriteMemory:
    """The bytes that requests in fragments may take. A granted one may always be finished."""

    __slots__ = ("limit", "used", "writers")

    def __init__(self, limit: int = WRITE_MEMORY) -> None:
        self.limit = limit
        self.used = 0
        self.writers = 0  # fragmented requests in progress

    def grant(self, size: int, already: int) -> bool:
        """Reserve `size` bytes for a session that has `already` requests in progress; False: tell it BUSY."""
        if self.used + size > self.limit or already >= ASSEMBLIES_PER_SESSION:
            return False
        self.used += size
        self.writers += 1
        return True

    def release(self, size: int) -> None:
        self.used -= size
        self.writers -= 1

    def window(self) -> int:
        """Bytes of unfinished fragmented requests one session may have now; 0: finish what is open, open nothing."""
        free = self.limit - self.used
        if free < WRITE_WINDOW_MIN:
            return 0
        return max(WRITE_WINDOW_MIN, min(free // max(1, self.writers), WRITE_WINDOW_MAX))
