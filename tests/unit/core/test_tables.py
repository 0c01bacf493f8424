"""The duplicate table, floors, the closed mark and lock generations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.record import Entry
from daemon.core.tables import Tables, size_of, status_of, token_of
from store.errors import Status
from store.ids import GroupId, Version
from store.wire.header import Op


class Counting:
    """A store that counts how often a record took effect."""

    def __init__(self) -> None:
        self.applied: list[int] = []

    def apply(self, entry: Entry) -> tuple[Status, int]:
        self.applied.append(entry.n)
        return Status.OK, len(self.applied)

    def freeze(self) -> None:
        raise NotImplementedError

    def rewind(self, group: GroupId) -> bytes | None:
        raise NotImplementedError

    def copy_next(self, group: GroupId, cursor: bytes) -> None:
        raise NotImplementedError

    def begin_copy(self, group: GroupId) -> None:
        raise NotImplementedError

    def install(self, group: GroupId, piece: bytes) -> None:
        raise NotImplementedError

    def end_copy(self, group: GroupId) -> None:
        raise NotImplementedError


def record(
    n: int, serial: int, sequence: int, floor: int = 1, op: Op = Op.WRITE, scope: int = 0, lock: int = 0
) -> Entry:
    entry = Entry()
    entry.n, entry.epoch, entry.serial, entry.sequence, entry.floor = n, 3, serial, sequence, floor
    entry.op, entry.scope, entry.generation, entry.flags, entry.name = op, scope, lock, 0, b"x"
    return entry


def tables(sessions: int = 8, locks: int = 4) -> Tables:
    return Tables(sessions, locks)


def test_a_repeated_request_gets_the_stored_answer_and_no_second_effect() -> None:
    store, table = Counting(), tables()
    first = table.apply(0.0, record(1, 5, 1), store)
    assert table.apply(0.0, record(2, 5, 1), store) == first
    assert store.applied == [1]
    assert (status_of(first), size_of(first), token_of(first)) == (Status.OK, 1, Version(3, 1).token())


def test_below_the_floor_nothing_takes_effect() -> None:
    store, table = Counting(), tables()
    table.apply(0.0, record(1, 5, 4, floor=4), store)
    assert status_of(table.apply(0.0, record(2, 5, 3), store)) == Status.STALE
    assert store.applied == [1]


def test_an_evicted_session_never_opens_again() -> None:
    store, table = Counting(), tables(sessions=2)
    for n, serial in enumerate((1, 2, 1, 3), 1):
        table.apply(0.0, record(n, serial, n), store)
    assert set(table.sessions) == {1, 3}  # 2 was used least recently
    assert status_of(table.apply(0.0, record(5, 2, 9), store)) == Status.NO_SESSION
    assert table.closed == 2


def test_a_fence_refuses_older_lock_generations() -> None:
    store, table = Counting(), tables()
    table.apply(0.0, record(1, 5, 1, op=Op.FENCE, scope=9, lock=4), store)
    assert status_of(table.apply(0.0, record(2, 6, 1, scope=9, lock=3), store)) == Status.FENCED
    assert status_of(table.apply(0.0, record(3, 6, 2, scope=9, lock=4), store)) == Status.OK
    assert status_of(table.apply(0.0, record(4, 6, 3, scope=8, lock=1), store)) == Status.OK
    assert status_of(table.apply(0.0, record(5, 6, 4, op=Op.FENCE, scope=9, lock=2), store)) == Status.FENCED


def test_lock_scopes_are_bounded() -> None:
    store, table = Counting(), tables(locks=1)
    assert status_of(table.apply(0.0, record(1, 5, 1, op=Op.FENCE, scope=1, lock=1), store)) == Status.OK
    assert status_of(table.apply(0.0, record(2, 5, 2, op=Op.FENCE, scope=2, lock=1), store)) == Status.NO_SPACE


def test_a_crowded_table_is_full_of_live_sessions() -> None:
    store, table = Counting(), tables(sessions=1)
    assert not table.crowded(0.0, 10.0)
    table.apply(5.0, record(1, 5, 1), store)
    assert table.crowded(10.0, 10.0)
    assert not table.crowded(20.0, 10.0)


_RECORDS = st.lists(
    st.tuples(
        st.integers(1, 6),  # serial
        st.integers(1, 12),  # sequence
        st.integers(1, 12),  # floor
        st.sampled_from([Op.WRITE, Op.FENCE, Op.FLUSH]),
        st.integers(0, 2),  # scope
        st.integers(1, 3),  # lock generation
    ),
    max_size=40,
)  # fmt: skip


@given(_RECORDS, st.integers(0, 40))
def test_encoding_keeps_everything_that_decides(rows: list[tuple[int, int, int, Op, int, int]], at: int) -> None:
    """A member that took the tables over at any position judges what follows as the others do."""
    table, other = tables(sessions=3), tables(sessions=3)
    for n, (serial, sequence, floor, op, scope, lock) in enumerate(rows, 1):
        if n == at:
            other.load(table.encode())
        entry = record(n, serial, max(sequence, floor), floor, op, scope, lock)
        answer = table.apply(0.0, entry, Counting())
        if n >= at > 0:
            assert other.apply(0.0, entry, Counting()) == answer
    again = tables(sessions=3)
    again.load(table.encode())
    assert again.encode() == table.encode()


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="format"):
        tables().load(b"\x94\x02\x00\x80\x90")
