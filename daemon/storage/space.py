"""Room on the device: writes that allocate are refused while what was promised already can still be stored."""

from typing import Final, NamedTuple

from daemon.storage.backend import Backend
from daemon.storage.data_file import DataFile
from daemon.storage.journal import Journal
from daemon.storage.limits import REFUSE_AT, SPACE_REFRESH, SPACE_RESERVE
from store.errors import Status
from store.wire.header import Op

ALLOCATING: Final = frozenset({Op.WRITE, Op.CREATE, Op.REPLACE})


class Room(NamedTuple):
    """Bytes."""

    capacity: int  # what objects may take at most
    used: int  # what they take
    free: int  # what they may still take; 0 = full


class Space:
    """Admission by the ring's fill and by free space, which is asked for again every few megabytes.

    Everything in the journal must fit into the data file later: so one ring's worth of space is never given away.
    """

    def __init__(self, backend: Backend, journal: Journal, data: DataFile, capacity: int) -> None:
        self._backend, self._journal, self._data = backend, journal, data
        self._capacity = capacity  # 0 = no limit of its own
        self._refuse_at = int(journal.size * REFUSE_AT)
        self._room = Room(0, 0, 0)
        self._asked_at = -SPACE_REFRESH
        self.refresh()

    def refresh(self) -> None:
        used = self._data.data.allocated()
        free = max(0, self._backend.free() - self._journal.size - SPACE_RESERVE)
        if self._capacity:
            free = min(free, max(0, self._capacity - used - self._journal.used))
        self._room = Room(self._capacity or used + free, used, free)
        self._asked_at = self._journal.appended

    def room(self) -> Room:
        self.refresh()
        return self._room

    def may_take(self, size: int) -> bool:
        """Whether records of another device may be appended. What they allocate was admitted by their primary."""
        return self._journal.used + size <= self._refuse_at

    def admit(self, op: int, size: int) -> Status:
        """Whether a request of `size` payload bytes may be taken: OK, BUSY (try again soon) or NO_SPACE."""
        journal = self._journal
        if journal.position - journal.tail + size > self._refuse_at:
            return Status.BUSY
        if op in ALLOCATING:
            since = journal.appended - self._asked_at
            if since + size > min(SPACE_REFRESH, self._room.free):
                self.refresh()
                if size > self._room.free:
                    return Status.NO_SPACE
        return Status.OK
