"""Requests that arrive in fragments: one buffer each, out of a bounded memory shared by all sessions."""

from enum import Enum
from typing import TYPE_CHECKING, Final

from store.limits import (
    ASSEMBLIES_PER_SESSION,
    ASSEMBLY_IDLE_S,
    NAME_MAX,
    OBJECT_MAX,
    WRITE_MEMORY,
    WRITE_WINDOW_MAX,
    WRITE_WINDOW_MIN,
)
from store.wire.header import FRAGMENT, REQUEST, Malformed
from store.wire.message import ACK_DELAY_AT, HEADROOM
from store.wire.ranges import Ranges

if TYPE_CHECKING:
    from store.session.peer import Session

MESSAGE_MAX: Final = REQUEST.size + NAME_MAX + OBJECT_MAX  # no message is longer
PENDING_S: Final = 120.0  # a request the daemon has not answered by then no longer counts as one in progress


class Assembly:
    """A message being put together. `buffer` has the headroom that lets a record header stand before the name."""

    __slots__ = ("buffer", "got", "heard", "number", "total")

    def __init__(self, number: int, total: int) -> None:
        self.number = number
        self.total = total
        self.buffer = bytearray(HEADROOM + total)
        self.got = Ranges()
        self.heard = 0.0

    @property
    def whole(self) -> bool:
        return self.got.total == self.total


class Refusal(Enum):
    """Why a fragment was not taken."""

    KNOWN = 1  # the request is being worked on
    ANSWERED = 2  # the answer can be repeated
    NO_MEMORY = 3


class Assemblies:
    """Fragmented requests of all sessions. A granted one may always be finished, within its idle time."""

    __slots__ = ("_open", "_pending", "_used", "_writers", "delay", "duplicate", "limit")

    def __init__(self, limit: int = WRITE_MEMORY) -> None:
        self.limit = limit
        self._used = 0  # bytes granted
        self._writers = 0  # requests they were granted to
        self._open: dict[Session, None] = {}  # sessions with requests half received
        self._pending: dict[Session, float] = {}  # sessions with requests in progress -> when last handed out
        self.duplicate = False  # the fragment taken last brought nothing new
        self.delay: float | None = None  # how long its acknowledgement may wait; None: it does not say

    def take(self, now: float, session: "Session", data: memoryview) -> "Assembly | tuple[Refusal, int]":
        """Put a fragment where it belongs; its assembly, or why not and the request's number. Raises `Malformed`."""
        size = len(data) - FRAGMENT.size
        if size <= 0:
            raise Malformed("a FRAGMENT of nothing")
        number, offset, total = FRAGMENT.unpack_from(data)
        if not REQUEST.size < total <= MESSAGE_MAX or offset + size > total:
            raise Malformed("a FRAGMENT outside of any message")
        assembly = session.assemblies.get(number)
        if assembly is None:
            refusal = self._refuse(session, number, total)
            if refusal is not None:
                return refusal, number
            assembly = session.assemblies[number] = Assembly(number, total)
            self._used += total
            self._writers += 1
            self._open[session] = None
        elif assembly.total != total:
            raise Malformed("a FRAGMENT that contradicts those before")
        assembly.heard = now
        new = assembly.got.add(offset, offset + size)
        self.duplicate = not new
        if new:
            at = HEADROOM + offset
            assembly.buffer[at : at + size] = data[FRAGMENT.size :]
        reaches = offset == 0 and size > ACK_DELAY_AT
        self.delay = assembly.buffer[HEADROOM + ACK_DELAY_AT] * 0.001 if reaches else None
        return assembly

    def _refuse(self, session: "Session", number: int, total: int) -> Refusal | None:
        if number in session.pending:
            return Refusal.KNOWN
        if number in session.answers:
            return Refusal.ANSWERED
        if self._used + total > self.limit or len(session.assemblies) + len(session.pending) >= ASSEMBLIES_PER_SESSION:
            return Refusal.NO_MEMORY
        return None

    def finish(self, now: float, session: "Session", assembly: Assembly) -> memoryview:
        """A whole message is handed out: it keeps its memory until `answered`."""
        del session.assemblies[assembly.number]
        session.pending[assembly.number] = assembly.total
        self._pending[session] = now
        return memoryview(assembly.buffer)

    def answered(self, session: "Session", number: int) -> bool:
        """Whether `number` was a fragmented request in progress; it no longer is."""
        total = session.pending.pop(number, None)
        if total is None:
            return False
        self._used -= total
        self._writers -= 1
        return True

    def window(self) -> int:
        """Bytes of unfinished fragmented requests one session may have now; 0: finish what is open, open nothing."""
        free = self.limit - self._used
        if free < WRITE_WINDOW_MIN:
            return 0
        return max(WRITE_WINDOW_MIN, min(free // max(1, self._writers), WRITE_WINDOW_MAX))

    def stale(self, now: float) -> "list[tuple[Session, int]]":
        """Drop requests whose client fell silent or that were never answered; the half received ones dropped."""
        dropped = []
        for session in list(self._open):
            for assembly in list(session.assemblies.values()):
                if now - assembly.heard > ASSEMBLY_IDLE_S:
                    self._drop(session, assembly)
                    dropped.append((session, assembly.number))
            if not session.assemblies:
                del self._open[session]
        for session, handed in list(self._pending.items()):
            if now - handed > PENDING_S:
                for number in list(session.pending):
                    self.answered(session, number)
            if not session.pending:
                del self._pending[session]
        return dropped

    def _drop(self, session: "Session", assembly: Assembly) -> None:
        del session.assemblies[assembly.number]
        self._used -= assembly.total
        self._writers -= 1

    def forget(self, session: "Session") -> int:
        """Drop all of a session; how many were half received."""
        count = len(session.assemblies)
        for assembly in list(session.assemblies.values()):
            self._drop(session, assembly)
        for number in list(session.pending):
            self.answered(session, number)
        self._open.pop(session, None)
        self._pending.pop(session, None)
        return count

    def waiting(self) -> bool:
        """Whether time alone may drop something."""
        return bool(self._open or self._pending)
