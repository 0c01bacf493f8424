"""The effect of each operation on an object. Depends on the log alone, so that every member answers the same.

Applying a run of records again over a state that already has some of their effects ends in the same bytes: each
record sets bytes to values of its own. Recovery relies on it.
"""

from collections.abc import Callable
from typing import Final

from daemon.core.record import Entry
from daemon.storage.blocks import ZEROS, BlockReader
from daemon.storage.data_file import SUM_FIRST
from daemon.storage.journal import payload_position
from daemon.storage.overlay import HOLE, LOST, POSITION_BITS, Obj, Piece, blocks_of, checksum, whole_block
from daemon.storage.records import HEADER_SIZE
from daemon.storage.table import ObjectTable
from store.errors import Status
from store.limits import BLOCK, OBJECT_MAX
from store.wire.header import Op

POSITION_IN_LOG: Final = (1 << 40) - 1  # part of a version token
Outcome = tuple[Status, int]


class Operations:
    """Applies committed records to the object table."""

    def __init__(self, table: ObjectTable, blocks: BlockReader) -> None:
        self._table, self._blocks = table, blocks
        self.merged: list[tuple[Obj, int]] = []  # blocks that may be bytes in memory
        self._by_op: dict[int, Callable[[Obj, Entry], Outcome]] = {
            Op.WRITE: self._write,
            Op.CREATE: self._create,
            Op.REPLACE: self._replace,
            Op.DELETE: self._delete,
            Op.TRUNCATE: self._truncate,
            Op.TRIM: self._trim,
        }

    def apply(self, entry: Entry) -> Outcome:
        """Give the record its effect; returns the status and the size of the object after it."""
        table = self._table
        shelf = table.shelves.get(entry.group) or table.shelf(entry.group)
        obj = shelf.objects.get(entry.name) or table.find(entry.group, entry.name)
        n = entry.n
        if obj.exists and obj.version & POSITION_IN_LOG >= n:
            outcome = (Status.OK, obj.size)
        else:
            if obj.generation != table.generation:
                table.touch(obj)
            if entry.op == Op.WRITE and entry.size == BLOCK and not entry.offset % BLOCK:
                outcome = self._write_block(obj, entry)
            else:
                operation = self._by_op.get(entry.op)
                outcome = (Status.UNSUPPORTED, obj.size) if operation is None else operation(obj, entry)
        if n == shelf.applied + 1:
            shelf.applied, shelf.applied_epoch = n, entry.epoch
        else:
            shelf.note_applied(n, entry.epoch)
        return outcome

    def _write_block(self, obj: Obj, entry: Entry) -> Outcome:
        """The usual case: one whole block."""
        offset = entry.offset
        end = offset + BLOCK
        if end > OBJECT_MAX:
            return (Status.TOO_LARGE, obj.size)
        total = entry.payload_sum
        position = entry.where + HEADER_SIZE + len(entry.name)
        obj.over[offset // BLOCK] = (
            total << POSITION_BITS | position if total >= SUM_FIRST else whole_block(position, total)
        )
        obj.exists = True
        obj.version = entry.epoch << 40 | entry.n
        obj.size = max(obj.size, end)
        return (Status.OK, obj.size)

    def _write(self, obj: Obj, entry: Entry) -> Outcome:
        return self._put(obj, entry, entry.offset)

    def _create(self, obj: Obj, entry: Entry) -> Outcome:
        if obj.exists:
            return (Status.EXISTS, obj.size)
        return self._put(obj, entry, 0)

    def _replace(self, obj: Obj, entry: Entry) -> Outcome:
        if entry.size > OBJECT_MAX:
            return (Status.TOO_LARGE, obj.size)
        obj.over, obj.visible, obj.size = {}, 0, 0
        return self._put(obj, entry, 0)

    def _delete(self, obj: Obj, entry: Entry) -> Outcome:
        if not obj.exists:
            return (Status.NOT_FOUND, 0)
        remove(obj)
        return (Status.OK, 0)

    def _truncate(self, obj: Obj, entry: Entry) -> Outcome:
        if not obj.exists:
            return (Status.NOT_FOUND, 0)
        if entry.size > OBJECT_MAX:
            return (Status.TOO_LARGE, obj.size)
        if entry.size < obj.size:
            kept = blocks_of(entry.size)
            self._clear(obj, kept, blocks_of(obj.size))
            if entry.size % BLOCK:
                self._zero(obj, kept - 1, entry.size % BLOCK, BLOCK)
        obj.size = entry.size
        obj.version = entry.epoch << 40 | entry.n
        return (Status.OK, obj.size)

    def _trim(self, obj: Obj, entry: Entry) -> Outcome:
        if not obj.exists:
            return (Status.NOT_FOUND, 0)
        begin, end = entry.offset, min(entry.offset + entry.size, obj.size)
        obj.version = entry.epoch << 40 | entry.n
        if begin >= end:
            return (Status.OK, obj.size)
        first = blocks_of(begin)
        last = blocks_of(end) if end == obj.size else end // BLOCK
        if first > last:
            self._zero(obj, last, begin % BLOCK, end % BLOCK)
            return (Status.OK, obj.size)
        if begin % BLOCK:
            self._zero(obj, first - 1, begin % BLOCK, BLOCK)
        self._clear(obj, first, last)
        if end != obj.size and end % BLOCK:
            self._zero(obj, last, 0, end % BLOCK)
        return (Status.OK, obj.size)

    # Steps
    def _put(self, obj: Obj, entry: Entry, offset: int) -> Outcome:
        """Write the payload at `offset`."""
        payload = memoryview(self._blocks.payload(entry))
        size = len(payload)
        if offset + size > OBJECT_MAX:
            return (Status.TOO_LARGE, obj.size)
        where = payload_position(entry.where, entry.name)
        at = 0
        while at < size:
            block, lead = divmod(offset + at, BLOCK)
            count = min(BLOCK - lead, size - at)
            part = payload if count == size else payload[at : at + count]
            total = entry.payload_sum if count == size else checksum(part)
            if count == BLOCK:
                obj.over[block] = whole_block(where + at, total)
            else:
                self._put_part(obj, block, Piece(where + at, lead, count, total), part)
            at += count
        obj.exists = True
        obj.version = entry.epoch << 40 | entry.n
        if size and offset + size > obj.size:
            obj.size = offset + size
        return (Status.OK, obj.size)

    def _put_part(self, obj: Obj, block: int, piece: Piece, part: memoryview) -> None:
        """Part of a block. Where the data file cannot show through, the journal's bytes and zeros are the block."""
        if block >= obj.visible and obj.over.get(block, HOLE) == HOLE:
            obj.over[block] = piece
        else:
            self._merge(obj, block, piece.lead, part)

    def _zero(self, obj: Obj, block: int, low: int, high: int) -> None:
        """Zeros in bytes low..high-1 of a block."""
        if self._table.resolve(obj, block) != HOLE:
            self._merge(obj, block, low, memoryview(ZEROS)[low:high])

    def _merge(self, obj: Obj, block: int, lead: int, part: memoryview) -> None:
        """Put `part` over what the block has. What cannot be read stays lost: another member has it."""
        content = memoryview(bytearray(BLOCK))
        if self._blocks.fetch(obj, block, self._table.resolve(obj, block), content):
            content[lead : lead + len(part)] = part
            obj.over[block] = bytes(content)
            self.merged.append((obj, block))
        else:
            obj.over[block] = LOST

    @staticmethod
    def _clear(obj: Obj, first: int, end: int) -> None:
        """Blocks first..end-1 become holes."""
        over = obj.over
        if end >= obj.visible:
            obj.visible = min(obj.visible, first)
        if end - first > len(over):
            for block in [block for block in over if first <= block < end]:
                del over[block]
        else:
            for block in range(first, end):
                over.pop(block, None)
        for block in range(first, min(end, obj.visible)):
            over[block] = HOLE


def remove(obj: Obj) -> None:
    """The object is gone; its slot goes with the checkpoint that writes this."""
    obj.exists = False
    obj.over, obj.visible = {}, 0
    obj.size = obj.version = 0
