"""Frames between daemons: golden bytes, round trips, and decoders that refuse everything else."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.effects import Append
from daemon.core.messages import Join
from daemon.core.record import RECORD, Entry
from daemon.peer_codec import (
    BadFrame,
    cut_runs,
    pack_acks,
    pack_beat_oks,
    pack_beats,
    pack_message,
    pack_record,
    pack_records,
    unpack_acks,
    unpack_beat_oks,
    unpack_beats,
    unpack_message,
    unpack_record,
    unpack_records,
)
from store.ids import DeviceId, GroupId, Who
from store.wire.header import Op

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)


def entry(group: int = 7, n: int = 3, name: bytes = b"o", payload: bytes = b"xyz", sequence: int = 9) -> Entry:
    made = Entry()
    made.group, made.epoch, made.n, made.prev_epoch = group, 2, n, 1
    made.flags, made.op, made.serial, made.sequence, made.floor = 1, Op.WRITE, 5, sequence, max(0, sequence - 4)
    made.scope, made.generation, made.name, made.offset, made.size = 11, 12, name, 4096, len(payload)
    made.payload, made.payload_sum, made.where, made.reply = payload or None, 13, -1, None
    made.body = pack_record(made)
    return made


def fields(record: Entry) -> tuple[object, ...]:
    payload = None if record.payload is None else bytes(record.payload)
    names = ("group", "epoch", "n", "prev_epoch", "flags", "op", "serial", "sequence", "floor", "scope", "generation")
    rest = ("name", "offset", "size", "payload_sum")
    return (payload, *(getattr(record, name) for name in names + rest))


def test_a_record_has_these_bytes() -> None:
    expected = (
        "5c00000001011000070000000100040002000000000000000300000000000000010000000000000005000000000000000900000000000000"
        "0b000000000000000c0000000010000003000000030000000d000000000000006f78797a"
    )
    assert pack_record(entry()).hex() == expected


@given(name=st.binary(max_size=1024), payload=st.binary(max_size=9000), group=U32, n=U64, sequence=U64)
def test_a_record_survives(name: bytes, payload: bytes, group: int, n: int, sequence: int) -> None:
    sent = entry(group, n, name, payload, sequence)
    assert fields(unpack_record(memoryview(sent.body), 0)) == fields(sent)


@given(
    sizes=st.lists(st.lists(st.integers(1, 5000), min_size=1, max_size=9), max_size=5), limit=st.integers(1000, 9000)
)
def test_cut_runs_keep_every_record_in_order_and_frames_small(sizes: list[list[int]], limit: int) -> None:
    runs = [
        Append(group, 99, 2, 1, [entry(group, n, payload=bytes(size)) for n, size in enumerate(run)])
        for group, run in enumerate(sizes)
    ]
    parts = cut_runs(runs, limit)
    there = [(run.group, one.n) for part in parts for run in part for one in run.entries]
    assert there == [(run.group, one.n) for run in runs for one in run.entries]
    for part in parts:
        bodies = [len(one.body or b"") for run in part for one in run.entries]
        assert sum(bodies) <= limit or len(bodies) == 1
        assert all(run.entries for run in part)


def test_runs_survive_and_entries_without_a_body_are_loaded() -> None:
    stored = entry(n=4, payload=b"from the journal")
    record, stored.body = stored.body, None
    appends = [Append(7, 99, 2, 1, [entry(), stored]), Append(8, 100, 5, 4, [entry(group=8)])]
    frame = memoryview(b"".join(pack_records(77, appends, lambda wanted: record)))
    incarnation, got = unpack_records(frame)
    assert incarnation == 77
    assert [(run.group, run.order, run.commit, run.start, len(run.entries)) for run in got] == [
        (7, 99, 2, 1, 2),
        (8, 100, 5, 4, 1),
    ]
    assert bytes(got[0].entries[1].payload) == b"from the journal"


ROWS = st.lists(st.tuples(U32, U64, U64, U64, st.booleans(), U64), max_size=20)


@given(U64, ROWS)
def test_acknowledgements_survive(incarnation: int, rows: list[tuple[int, int, int, int, bool, int]]) -> None:
    assert unpack_acks(memoryview(pack_acks(incarnation, rows))) == (incarnation, rows)


@given(U64, st.floats(allow_nan=False), ROWS)
def test_beats_survive(
    incarnation: int, sent: float, rows: list[tuple[int, int, int, int, bool, int]]
) -> None:
    beats = [row[:4] for row in rows]
    assert unpack_beats(memoryview(pack_beats(incarnation, sent, beats))) == (incarnation, sent, beats)
    assert unpack_beat_oks(memoryview(pack_beat_oks(incarnation, sent, rows))) == (incarnation, sent, rows)


def test_a_message_survives() -> None:
    message = Join(GroupId(1), Who(DeviceId(bytes(16)), 5), 3, 4, 2, True, 6)
    assert unpack_message(memoryview(pack_message(message))) == message


def test_damaged_frames_are_refused_and_nothing_else_is_raised() -> None:
    rng = random.Random(1)
    frame = b"".join(pack_records(77, [Append(7, 99, 2, 1, [entry(), entry(n=4)])], lambda wanted: b""))
    for _ in range(3000):
        damaged = bytearray(frame)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        damaged = damaged[: rng.randint(0, len(damaged))] if rng.random() < 0.5 else damaged + bytes(rng.randint(0, 3))
        for decode in (unpack_records, unpack_acks, unpack_beats, unpack_beat_oks, unpack_message):
            try:
                decode(memoryview(damaged))
            except BadFrame:
                continue


@pytest.mark.parametrize("spoiled", ["empty run", "other group", "left over", "length"])
def test_contradictions_are_refused(spoiled: str) -> None:
    runs = [Append(7, 99, 2, 1, [entry(group=8 if spoiled == "other group" else 7)])]
    if spoiled == "empty run":
        runs.append(Append(9, 99, 2, 1, []))
    frame = bytearray(b"".join(pack_records(77, runs, lambda wanted: b"")))
    if spoiled == "left over":
        frame += b"\0"
    if spoiled == "length":
        RECORD.pack_into(frame, len(frame) - RECORD.size - 4, *([0] * 18))
    with pytest.raises(BadFrame):
        unpack_records(memoryview(frame))
