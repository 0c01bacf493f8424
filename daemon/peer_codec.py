"""Frames between daemons as bytes: record runs, rows, messages. Pure; the layouts are in PEERS.md beside this file."""

import struct
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from daemon.core.effects import AckRow, Append, BeatRow
from daemon.core.messages import PeerMessage
from daemon.core.record import RECORD, WITH_PAYLOAD, Entry, RecordKind

INCARNATION: Final = struct.Struct("<Q")
RUNS: Final = struct.Struct("<QI")  # sender's incarnation, runs that follow
RUN: Final = struct.Struct("<IIQQQ")  # group, records, order, commit, start of the epoch
ACK_ROW: Final = struct.Struct("<IQQQ?Q")  # group, order, matched, synced, whole, attempt
BEAT_HEAD: Final = struct.Struct("<Qd")  # sender's incarnation, its clock (echoed in the answer)
BEAT_ROW: Final = struct.Struct("<IQQQ")  # group, order, commit, start

Part = bytes | bytearray | memoryview


class BadFrame(ValueError):
    """The bytes do not follow PEERS.md: the connection is dropped."""


def pack_header(entry: Entry, into: bytearray | memoryview, at: int) -> None:
    """Write the record's fixed part; name and payload follow it."""
    name_size, payload = len(entry.name), entry.payload
    payload_size = 0 if payload is None else len(payload)
    RECORD.pack_into(
        into, at, RECORD.size + name_size + payload_size, RecordKind.ENTRY, entry.flags, entry.op, entry.group,
        name_size, entry.sequence - entry.floor, entry.epoch, entry.n, entry.prev_epoch, entry.serial, entry.sequence,
        entry.scope, entry.generation, entry.offset, entry.size, payload_size, entry.payload_sum,
    )  # fmt: skip


def pack_record(entry: Entry) -> bytes:
    """The whole record of an entry whose payload is in memory."""
    record = bytearray(RECORD.size)
    pack_header(entry, record, 0)
    return b"".join((record, entry.name, entry.payload or b""))


def unpack_record(view: memoryview, at: int) -> Entry:
    """The record that begins at `at`; payload and body are slices of the view. Raises BadFrame."""
    if len(view) - at < RECORD.size:
        raise BadFrame("record cut short")
    entry = Entry()
    (
        length, kind, entry.flags, entry.op, entry.group, name_size, floor_back, entry.epoch, entry.n, entry.prev_epoch,
        entry.serial, entry.sequence, entry.scope, entry.generation, entry.offset, entry.size, payload_size,
        entry.payload_sum,
    ) = RECORD.unpack_from(view, at)  # fmt: skip
    name_end = at + RECORD.size + name_size
    end = name_end + payload_size
    if kind != RecordKind.ENTRY or length != end - at or end > len(view) or floor_back > entry.sequence:
        raise BadFrame("record contradicts itself")
    if entry.op in WITH_PAYLOAD and entry.size != payload_size:
        raise BadFrame("a size that is not the payload's")
    entry.floor = entry.sequence - floor_back
    entry.name = bytes(view[at + RECORD.size : name_end])
    entry.payload = view[name_end:end] if payload_size else None
    entry.body = view[at:end]
    entry.where, entry.reply = -1, None
    return entry


def pack_records(incarnation: int, appends: Sequence[Append], load: Callable[[Entry], Part]) -> list[Part]:
    """A RECORDS frame in pieces. `load` gives the whole record of an entry that only the journal still has."""
    head = bytearray(RUNS.size + RUN.size * len(appends))
    RUNS.pack_into(head, 0, incarnation, len(appends))
    at = RUNS.size
    parts: list[Part] = [head]
    for append in appends:
        RUN.pack_into(head, at, append.group, len(append.entries), append.order, append.commit, append.start)
        at += RUN.size
        for entry in append.entries:
            body = entry.body
            parts.append(load(entry) if body is None else body)
    return parts


def cut_runs(appends: Sequence[Append], limit: int) -> list[list[Append]]:
    """The same records in the same order, cut so that each part makes a frame of about `limit` bytes at most.

    A part has at least one record, however large. What a member missed while it was away is resent run by run, and
    runs of 1 MiB writes together are larger than any frame may be.
    """
    parts: list[list[Append]] = [[]]
    room = limit
    for append in appends:
        first = 0
        for place, entry in enumerate(append.entries):
            body = entry.body
            need = len(body) if body is not None else RECORD.size + len(entry.name) + entry.size
            if need > room and (parts[-1] or place > first):
                if place > first:
                    parts[-1].append(_part_of(append, first, place))
                parts.append([])
                first, room = place, limit
            room -= need
        parts[-1].append(append if first == 0 else _part_of(append, first, len(append.entries)))
    return parts


def _part_of(append: Append, first: int, end: int) -> Append:
    return Append(append.group, append.order, append.commit, append.start, append.entries[first:end])


def unpack_records(view: memoryview) -> tuple[int, list[Append]]:
    """Incarnation of the sender and the runs. Raises BadFrame."""
    try:
        incarnation, count = RUNS.unpack_from(view, 0)
        at = RUNS.size + RUN.size * count
        appends = []
        for run in range(count):
            group, records, order, commit, start = RUN.unpack_from(view, RUNS.size + RUN.size * run)
            entries = []
            for _ in range(records):
                entry = unpack_record(view, at)
                if entry.group != group:
                    raise BadFrame("a run names another group than its records")
                at += len(entry.body)
                entries.append(entry)
            if not entries:
                raise BadFrame("an empty run")
            appends.append(Append(group, order, commit, start, entries))
    except struct.error as error:
        raise BadFrame("frame cut short") from error
    if at != len(view):
        raise BadFrame("bytes after the last record")
    return incarnation, appends


def pack_acks(incarnation: int, rows: Sequence[AckRow]) -> bytes:
    pack = ACK_ROW.pack
    return INCARNATION.pack(incarnation) + b"".join([pack(*row) for row in rows])


def unpack_acks(view: memoryview) -> tuple[int, list[AckRow]]:
    if len(view) < INCARNATION.size or (len(view) - INCARNATION.size) % ACK_ROW.size:
        raise BadFrame("acknowledgements cut short")
    return INCARNATION.unpack_from(view)[0], list(ACK_ROW.iter_unpack(view[INCARNATION.size :]))


def pack_beats(incarnation: int, sent: float, rows: Sequence[BeatRow]) -> bytes:
    pack = BEAT_ROW.pack
    return BEAT_HEAD.pack(incarnation, sent) + b"".join([pack(*row) for row in rows])


def unpack_beats(view: memoryview) -> tuple[int, float, list[BeatRow]]:
    if len(view) < BEAT_HEAD.size or (len(view) - BEAT_HEAD.size) % BEAT_ROW.size:
        raise BadFrame("beat cut short")
    incarnation, sent = BEAT_HEAD.unpack_from(view)
    return incarnation, sent, list(BEAT_ROW.iter_unpack(view[BEAT_HEAD.size :]))


def pack_beat_oks(incarnation: int, sent: float, rows: Sequence[AckRow]) -> bytes:
    pack = ACK_ROW.pack
    return BEAT_HEAD.pack(incarnation, sent) + b"".join([pack(*row) for row in rows])


def unpack_beat_oks(view: memoryview) -> tuple[int, float, list[AckRow]]:
    if len(view) < BEAT_HEAD.size or (len(view) - BEAT_HEAD.size) % ACK_ROW.size:
        raise BadFrame("beat answer cut short")
    incarnation, sent = BEAT_HEAD.unpack_from(view)
    return incarnation, sent, list(ACK_ROW.iter_unpack(view[BEAT_HEAD.size :]))


_message_encoder: Final = msgspec.msgpack.Encoder()
_message_decoder: Final = msgspec.msgpack.Decoder(PeerMessage)


def pack_message(message: PeerMessage) -> bytes:
    return _message_encoder.encode(message)


def unpack_message(view: memoryview) -> PeerMessage:
    try:
        message: PeerMessage = _message_decoder.decode(view)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadFrame(f"not a message: {error}") from error
    return message
