"""Inventories (R25): whole objects as pieces, in name order, between the applied state of two devices.

While a copy arrives its group is saved as not whole, so nothing here needs the journal: bytes go straight into slots,
rows into the index with the checkpoint that ends the copy. A crash in between leaves a group that must be copied
again. Names arrive in order, so what lies between two of them is not at the primary and is removed (R26).
"""

from array import array
from typing import Final, NamedTuple

import msgspec

from daemon.storage.backend import Source
from daemon.storage.blocks import BlockReader
from daemon.storage.data_file import EMPTY_SUMS, SUM_HOLE, SUM_LOST, DataFile
from daemon.storage.index import DamagedRow
from daemon.storage.listing import Listing
from daemon.storage.operations import remove
from daemon.storage.overlay import CLEAN, HOLE, Obj, blocks_of, checksum, stored_sum
from daemon.storage.syncers import DiskFailed
from daemon.storage.table import ObjectTable, Shelf
from store.limits import BLOCK, OBJECT_MAX

LAST: Final = b"\xff" * 1025  # behind every name


class ObjectPiece(msgspec.Struct, frozen=True, array_like=True):
    """One object as it travels: its blocks that are not holes, back to back, and the checksum of each."""

    name: bytes
    size: int
    version: int
    blocks: bytes  # numbers of the blocks, u16 little endian
    totals: bytes  # their checksums, u64 little endian
    content: bytes
    lost: bytes = b""  # numbers of blocks that the sender cannot read: they are lost at the receiver, too


class Copied(NamedTuple):
    """A step of an inventory for the core."""

    key: bytes
    data: bytes

    @property
    def cursor(self) -> bytes:
        return self.key


class BadPiece(ValueError):
    """What arrived is no object, or its bytes do not match their checksums."""


class Copying:
    def __init__(self, table: ObjectTable, blocks: BlockReader, data: DataFile, listing: Listing) -> None:
        self._table, self._blocks, self._data, self._listing = table, blocks, data, listing
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(ObjectPiece).decode

    # At the primary
    def next(self, group: int, cursor: bytes) -> Copied | None:
        """The first object behind `cursor`. DiskFailed when the index is damaged: another member must send."""
        try:
            rows = self._listing.rows(group, b"", cursor, 1)
        except DamagedRow as error:
            raise DiskFailed(f"the index is damaged ({error}); see `python -m daemon.storage.check`") from error
        if not rows:
            return None
        obj = self._table.find(group, rows[0].name)
        return Copied(obj.name, self._encode(self._piece(obj)))

    def _piece(self, obj: Obj) -> ObjectPiece:
        numbers, lost, totals, parts = array("H"), array("H"), array("Q"), []
        for number in range(blocks_of(obj.size)):
            found = self._table.resolve(obj, number)
            if found == HOLE:
                continue
            part = memoryview(bytearray(BLOCK))
            if not self._blocks.fetch(obj, number, found, part):
                lost.append(number)
                continue
            numbers.append(number)
            totals.append(checksum(part))
            parts.append(part)
        content = b"".join(parts)
        return ObjectPiece(
            obj.name, obj.size, obj.version, numbers.tobytes(), totals.tobytes(), content, lost.tobytes()
        )  # fmt: skip

    # At the learner
    def give_back(self, group: int) -> None:
        """Free the slots of an earlier attempt that no row names. Not while a checkpoint may be writing such rows."""
        for obj in self._table.shelf(group).objects.values():
            if obj.slot >= 0 and obj.generation != CLEAN:
                row = self._table.index.find(group, obj.name)
                if row is None or row.slot != obj.slot:
                    self._data.slots.free([obj.slot])
                    self._data.punch_slots([obj.slot])

    def begin(self, group: int) -> None:
        shelf = self._table.shelf(group)
        self._table.drop(shelf)
        shelf.copied_to, shelf.copied = b"", True

    def install(self, group: int, piece: bytes) -> None:
        """Raises BadPiece; DiskFailed when the device is full."""
        shelf = self._table.shelf(group)
        if shelf.copied_to is None:
            raise BadPiece("no copy of this group is under way")
        try:
            arrived = self._decode(piece)
        except msgspec.MsgspecError as error:
            raise BadPiece(str(error)) from error
        numbers, totals, lost = _verified(arrived)
        if arrived.name <= shelf.copied_to:
            raise BadPiece("pieces must arrive in name order")
        self._remove_between(shelf, shelf.copied_to, arrived.name)
        obj = self._table.find(group, arrived.name)
        self._table.touch(obj)
        obj.exists, obj.size, obj.version = True, arrived.size, arrived.version
        obj.over, obj.visible = {}, blocks_of(arrived.size)
        try:
            self._fill(obj, numbers, totals, lost, arrived.content)
        except OSError as error:
            raise DiskFailed(f"a copy does not fit: {error.strerror}; free some space and start again") from error
        shelf.copied_to = arrived.name

    def _fill(self, obj: Obj, numbers: "array[int]", totals: "array[int]", lost: "array[int]", content: bytes) -> None:
        """Write the blocks into the object's slot; the others become holes."""
        sums = array("Q", EMPTY_SUMS)
        if obj.slot < 0:
            if not numbers and not lost:
                return
            obj.slot = self._data.slots.allocate()
        else:
            self._punch_others(obj, numbers)
        view = memoryview(content)
        for index, number in enumerate(numbers):
            views: list[Source] = [view[index * BLOCK : index * BLOCK + BLOCK]]
            self._data.write(obj.slot, number, views, BLOCK)
            sums[number] = stored_sum(totals[index])
        for number in lost:
            sums[number] = SUM_LOST
        self._data.store_sums(obj.slot, sums)
        self._table.keep_sums(obj, sums)
        obj.stored = blocks_of(obj.size)

    def _punch_others(self, obj: Obj, numbers: "array[int]") -> None:
        kept = set(numbers)
        for number, total in enumerate(self._table.sums_of(obj)):
            if total != SUM_HOLE and number not in kept:
                self._data.punch(obj.slot, number, 1)

    def end(self, group: int) -> None:
        shelf = self._table.shelf(group)
        if shelf.copied_to is not None:
            self._remove_between(shelf, shelf.copied_to, LAST)
            shelf.copied_to = None

    def _remove_between(self, shelf: Shelf, low: bytes, high: bytes) -> None:
        """Objects with low < name < high are not at the primary."""
        while True:
            rows = self._listing.rows(shelf.group, b"", low, 64)
            for row in rows:
                if row.name >= high:
                    return
                obj = self._table.find(shelf.group, row.name)
                self._table.touch(obj)
                remove(obj)
                low = row.name
            if not rows:
                return


def _verified(piece: ObjectPiece) -> tuple["array[int]", "array[int]", "array[int]"]:
    """Numbers and checksums of the blocks, numbers of the lost ones. Raises BadPiece unless everything fits."""
    numbers, totals, lost = array("H"), array("Q"), array("H")
    try:
        numbers.frombytes(piece.blocks)
        totals.frombytes(piece.totals)
        lost.frombytes(piece.lost)
    except ValueError as error:
        raise BadPiece("block numbers cut short") from error
    count = len(numbers)
    if piece.size > OBJECT_MAX or len(totals) != count or len(piece.content) != count * BLOCK:
        raise BadPiece("the piece contradicts itself")
    if any(number >= blocks_of(piece.size) for number in numbers + lost):
        raise BadPiece("a block lies behind the object's end")
    view = memoryview(piece.content)
    for index in range(count):
        if checksum(view[index * BLOCK : index * BLOCK + BLOCK]) != totals[index]:
            raise BadPiece(f"block {numbers[index]} arrived wrong")
    return numbers, totals, lost
