"""The tables of a group: replicated state beside the objects. REPLICATION.md, section 'Duplicate table'.

Everything here changes only when a record is applied, in log order, on every member alike (R18): sessions with their
floors and stored answers, the closed mark, the lock generations.

A stored answer is one int, so that it costs one small object: version token << 40 | object size << 8 | status.
"""

from typing import Final

import msgspec

from daemon.core.objects import Objects
from daemon.core.record import Entry
from store.errors import Status
from store.wire.header import Op

FORMAT: Final = 1
ENDLESS_AGO: Final = float("-inf")

_OK: Final = int(Status.OK)
_STALE: Final = int(Status.STALE)
_NO_SESSION: Final = int(Status.NO_SESSION)
_FENCED: Final = int(Status.FENCED)
_NO_SPACE: Final = int(Status.NO_SPACE)
_FLUSH: Final = int(Op.FLUSH)
_FENCE: Final = int(Op.FENCE)


def status_of(answer: int) -> Status:
    return Status(answer & 0xFF)


def size_of(answer: int) -> int:
    return answer >> 8 & 0xFFFFFFFF


def token_of(answer: int) -> int:
    return answer >> 40


class Session:
    """One client session in the table."""

    __slots__ = ("answers", "floor", "touched")

    def __init__(self, floor: int, touched: float) -> None:
        self.floor = floor  # sequences below can no longer take effect
        self.answers: dict[int, int] = {}  # sequence -> stored answer; all in [floor, floor + window)
        self.touched = touched  # when a record of it was last applied here; not replicated


class _Encoded(msgspec.Struct, frozen=True, array_like=True):
    format: int
    closed: int
    fences: dict[int, int]
    sessions: list[list[int]]  # serial, floor, then per answer: sequence, size << 8 | status, version token


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Encoded)


class Tables:
    """Sessions are kept in the order of their last use: the first is evicted when the table is full."""

    __slots__ = ("closed", "fences", "lock_limit", "session_limit", "sessions")

    def __init__(self, session_limit: int, lock_limit: int) -> None:
        self.session_limit = session_limit
        self.lock_limit = lock_limit
        self.sessions: dict[int, Session] = {}
        self.closed = 0  # sessions up to this serial cannot be opened any more
        self.fences: dict[int, int] = {}  # scope -> lock generation

    def apply(self, now: float, entry: Entry, objects: Objects) -> int:
        """Judge a committed record for good and give it its effect. Returns the answer."""
        serial = entry.serial
        session = self.sessions.pop(serial, None)
        if session is None:
            if serial <= self.closed:
                return _NO_SESSION
            session = self._open(now)
        self.sessions[serial] = session  # the last in order: used last
        sequence = entry.sequence
        if sequence < session.floor:
            return _STALE
        session.touched = now
        if entry.floor > session.floor:
            self._raise_floor(session, entry.floor)
        answers = session.answers
        if sequence in answers:
            return answers[sequence]
        answer = answers[sequence] = self._effect(entry, objects) | (entry.epoch << 40 | entry.n) << 40
        return answer

    def _effect(self, entry: Entry, objects: Objects) -> int:
        if entry.scope and entry.generation < self.fences.get(entry.scope, 0):
            return _FENCED
        op = entry.op
        if op == _FLUSH:
            return _OK
        if op == _FENCE:
            return self._fence(entry.scope, entry.generation)
        status, size = objects.apply(entry)
        return status | size << 8

    def _fence(self, scope: int, generation: int) -> int:
        if scope not in self.fences and len(self.fences) >= self.lock_limit:
            return _NO_SPACE
        self.fences[scope] = generation
        return _OK

    def _raise_floor(self, session: Session, floor: int) -> None:
        answers = session.answers
        if answers:
            for sequence in [s for s in answers if s < floor]:
                del answers[sequence]
        session.floor = floor

    def _open(self, now: float) -> Session:
        if len(self.sessions) >= self.session_limit:
            oldest = next(iter(self.sessions))
            del self.sessions[oldest]
            self._close(oldest)
        return Session(0, now)

    def _close(self, serial: int) -> None:
        """An evicted session never opens again: its answers are forgotten, a late request would be applied twice."""
        self.closed = max(self.closed, serial)

    def crowded(self, now: float, idle: float) -> bool:
        """Is the table full of sessions that were all active within `idle` seconds, as far as this process knows?"""
        if len(self.sessions) < self.session_limit:
            return False
        return now - next(iter(self.sessions.values())).touched < idle

    def encode(self) -> bytes:
        rows = []
        for serial, session in self.sessions.items():
            row = [serial, session.floor]
            for sequence, answer in session.answers.items():
                row += (sequence, answer & 0xFFFFFFFFFF, answer >> 40)
            rows.append(row)
        return _encoder.encode(_Encoded(FORMAT, self.closed, self.fences, rows))

    def load(self, data: bytes, touched: float = ENDLESS_AGO) -> None:
        """Replace everything by what `encode` gave; b"" is the empty state.

        Raises ValueError (msgspec.DecodeError included) when the bytes are not of this format.
        """
        state = _decoder.decode(data) if data else _Encoded(FORMAT, 0, {}, [])
        if state.format != FORMAT:
            raise ValueError(f"tables of format {state.format}; this version reads format {FORMAT}")
        self.closed, self.fences, self.sessions = state.closed, state.fences, {}
        for serial, floor, *rest in state.sessions:
            session = self.sessions[serial] = Session(floor, touched)
            for i in range(0, len(rest), 3):
                session.answers[rest[i]] = rest[i + 1] | rest[i + 2] << 40
