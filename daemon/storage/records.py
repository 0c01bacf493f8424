"""Records as they stand in the journal: entries, and the kinds that only a disk writes. FORMAT.md, section Records."""

from typing import Final, NamedTuple

import msgspec
import xxhash

from daemon.core.record import RECORD, Entry, RecordKind
from store.ids import GroupId

HEADER_SIZE: Final = RECORD.size


class BaseNote(msgspec.Struct, frozen=True, array_like=True):
    """Payload of a BASE record: what the index will say of the group when the checkpoint is complete."""

    tables: bytes  # this part of them
    part: int
    parts: int
    first: int  # position of the first bit of `refused`
    refused: bytes  # bit i set: record first + i had no effect when it was applied
    since: int  # end of the journal at the freeze


class Record(NamedTuple):
    """Any record found in the journal. For CUT and BASE `n` is a position; META has its key in `group`."""

    kind: int
    group: GroupId
    n: int
    epoch: int
    name: bytes
    offset: int
    where: int
    payload_size: int
    payload_sum: int


def pack_entry(entry: Entry, payload: bytes | memoryview) -> bytes:
    """The whole record of an entry that has no packed body."""
    name = entry.name
    header = RECORD.pack(
        HEADER_SIZE + len(name) + len(payload), RecordKind.ENTRY, entry.flags, entry.op, entry.group,
        len(name), entry.sequence - entry.floor, entry.epoch, entry.n, entry.prev_epoch,
        entry.serial, entry.sequence, entry.scope, entry.generation, entry.offset, entry.size,
        len(payload), entry.payload_sum,
    )  # fmt: skip
    return b"".join((header, name, payload))


def pack_note(
    kind: RecordKind, group: int, n: int, epoch: int, payload: bytes, name: bytes = b"", offset: int = 0
) -> bytes:
    """A META, CUT, BASE, IMAGE or START record."""
    total = xxhash.xxh3_64_intdigest(payload)
    header = RECORD.pack(
        HEADER_SIZE + len(name) + len(payload), kind, 0, 0, group, len(name), 0, epoch, n, 0,
        0, 0, 0, 0, offset, 0, len(payload), total,
    )  # fmt: skip
    return b"".join((header, name, payload))


def unpack_entry(view: memoryview, at: int, where: int) -> Entry:
    """The ENTRY record at `at`; its payload stays in the journal."""
    entry = Entry()
    (
        _length, _kind, entry.flags, entry.op, group, name_size, floor_back, entry.epoch, entry.n, entry.prev_epoch,
        entry.serial, entry.sequence, entry.scope, entry.generation, entry.offset, entry.size, _payload_size,
        entry.payload_sum,
    ) = RECORD.unpack_from(view, at)  # fmt: skip
    entry.group = GroupId(group)
    entry.floor = entry.sequence - floor_back
    entry.name = bytes(view[at + HEADER_SIZE : at + HEADER_SIZE + name_size])
    entry.payload = entry.body = entry.reply = None
    entry.where = where
    return entry


def unpack_note(view: memoryview, at: int, where: int) -> Record:
    """The fixed facts of any record at `at`."""
    fields = RECORD.unpack_from(view, at)
    name_end = at + HEADER_SIZE + fields[5]
    name = bytes(view[at + HEADER_SIZE : name_end])
    return Record(fields[1], GroupId(fields[4]), fields[8], fields[7], name, fields[14], where, fields[16], fields[17])


def well_formed(view: memoryview) -> bool:
    """Whether the records in a frame's body fit it exactly."""
    at, end = 0, len(view)
    while at < end:
        if end - at < HEADER_SIZE:
            return False
        fields = RECORD.unpack_from(view, at)
        if fields[0] != HEADER_SIZE + fields[5] + fields[16] or fields[0] > end - at:
            return False
        at += fields[0]
    return True
