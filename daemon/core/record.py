"""One record of a group's log: the same bytes in memory, between members and in the journal."""

import struct
from enum import IntEnum
from typing import Any, Final

from store.wire.header import Op

# length of the whole record, kind, flags, op, spare, group, bytes of name, sequence - floor, |
# epoch, n, epoch of the record before, | serial, sequence, | scope, |
# lock generation, offset, size, bytes of payload, | xxh3 of the payload
RECORD: Final = struct.Struct("<IBBBxIHHQQQQQQIIIIQ")


class RecordKind(IntEnum):
    ENTRY = 1  # a client's request, ordered
    META = 2  # what a member must have on disk before it acts: claims, promises, configurations
    CUT = 3  # the group's records from `n` on are void
    BASE = 4  # a checkpoint of the group at (n, epoch) is about to be written (storage format)
    IMAGE = 5  # a whole block as it was after record n: what a torn data file is mended from (storage format)
    START = 6  # a process opened the journal: nothing written before is continued by chance


class Entry:
    """A record in memory. `payload` may be dropped once `where` says where the journal keeps it."""

    __slots__ = (
        "body", "epoch", "flags", "floor", "generation", "group", "n", "name", "offset", "op", "payload", "payload_sum",
        "prev_epoch", "reply", "scope", "sequence", "serial", "size", "where",
    )  # fmt: skip

    group: int
    epoch: int
    n: int
    prev_epoch: int
    flags: int  # store.wire.header.Flag
    op: int  # store.wire.header.Op
    serial: int  # the client's session in the duplicate table, from its ticket
    sequence: int
    floor: int  # the lowest sequence the client may still repeat
    scope: int  # image id, or 0
    generation: int  # lock generation, meaningful if scope != 0
    name: bytes
    offset: int
    size: int  # WRITE, CREATE, REPLACE: bytes of payload; else as the operation says
    payload: Any  # bytes-like, or None once only the journal has it
    payload_sum: int
    where: int  # offset of the record in the journal; -1 before it is appended
    body: Any  # the whole packed record as a bytes-like, while it is in a tick buffer; else None
    reply: Any  # whom to answer; opaque to the core; None on secondaries


WITH_PAYLOAD: Final = frozenset({int(Op.WRITE), int(Op.CREATE), int(Op.REPLACE)})  # their `size` is the payload's

assert RECORD.size == 88
