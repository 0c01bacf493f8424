"""A checkpoint: what is applied becomes the base on disk, in slices, while the daemon goes on. FORMAT.md, Checkpoint.

freeze     the overlay is set aside; blocks that exist only in memory go to a redo file as IMAGE records
announce   a BASE record for each group behind them, synced: from here on a start redoes the checkpoint
apply      blocks are written into the data file in place, in proportion to appends
commit     in the background: sync data and checksums, one transaction in the index, holes punched
finish     the journal before the freeze is no longer needed

Writing in place destroys the old base. So a start that finds BASE records first finishes what they announce: entries
up to the base are in the journal, those that were refused are listed in the record, and blocks that were merged from
old content have their IMAGE. Nothing depends on what a torn write left in the data file.
"""

from array import array
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Final

from daemon.core.record import RecordKind
from daemon.core.saved import Base
from daemon.storage.backend import Source
from daemon.storage.blocks import BlockReader
from daemon.storage.data_file import EMPTY_SUMS, NO_SLOT, SUM_HOLE, SUM_LOST, DataFile
from daemon.storage.head import Mark
from daemon.storage.index import BaseRow, Changes, FieldsRow, Index, ObjectRow
from daemon.storage.journal import Journal, payload_position
from daemon.storage.limits import APPLY_RUN_MAX
from daemon.storage.operations import Operations
from daemon.storage.overlay import (
    CLEAN,
    HOLE,
    LOST,
    POSITION_BITS,
    POSITION_MASK,
    Block,
    Layer,
    Obj,
    Overlay,
    Piece,
    blocks_of,
    checksum,
    stored_sum,
    whole_block,
)
from daemon.storage.records import pack_note
from daemon.storage.redo import ASIDE, RedoLog
from daemon.storage.syncers import DiskFailed
from daemon.storage.table import ObjectTable
from store.ids import GroupId
from store.limits import BLOCK, BLOCKS_PER_OBJECT

NOWHERE: Final = 1 << 63


class Phase(Enum):
    IDLE = auto()
    FROZEN = auto()  # the overlay is set aside; the bases are not known yet
    ANNOUNCED = auto()  # BASE records are written, not synced yet
    APPLYING = auto()
    COMMITTING = auto()


class Checkpoint:
    """At most one checkpoint at a time. `work` does a slice; `commit` runs in the background; `finish` ends it."""

    def __init__(
        self,
        table: ObjectTable,
        operations: Operations,
        blocks: BlockReader,
        journal: Journal,
        data: DataFile,
        index: Index,
        redo: RedoLog,
    ) -> None:
        self._table, self._operations, self._blocks = table, operations, blocks
        self._journal, self._data, self._index, self._redo = journal, data, index, redo
        self.phase = Phase.IDLE
        self.mark: Mark = journal.mark()  # the end of the journal at the last freeze
        self._frozen: list[Obj] = []
        self._bases: dict[GroupId, Base] = {}
        self._work: Iterator[int] = iter(())
        self._next = 0  # of the frozen objects
        self.held_at = NOWHERE  # oldest journal position of what was held back
        self._changes = Changes([], [], [], [])
        self._freed: list[int] = []
        self._scratch = memoryview(bytearray(APPLY_RUN_MAX * BLOCK))

    # Freeze and announce
    def freeze(self) -> None:
        assert self.phase is Phase.IDLE, "a checkpoint is under way"
        self.spill()
        if self._operations.merged:
            raise DiskFailed("the file system is full: a checkpoint cannot begin; free some space and start again")
        self._redo.turn()
        table = self._table
        self._frozen, table.dirty = table.dirty, []
        table.generation += 1
        self.mark = self._journal.remember()
        self.phase = Phase.FROZEN

    def spill(self) -> None:
        """Write merged blocks to the redo file: they no longer take memory, and no torn write can hurt them."""
        merged = list(self._operations.merged)
        self._operations.merged.clear()
        generation, shelves = self._table.generation, self._table.shelves
        for obj, block in merged:
            content = obj.over.get(block)
            if type(content) is not bytes or obj.generation != generation:
                continue
            shelf = shelves[obj.group]
            n, epoch = shelf.applied, shelf.applied_epoch
            record = pack_note(RecordKind.IMAGE, obj.group, n, epoch, content, obj.name, block * BLOCK)
            try:
                where = self._redo.add_image(record)
            except OSError:  # full: they stay in memory for now
                self._operations.merged.append((obj, block))
                continue
            obj.over[block] = whole_block(payload_position(where, obj.name), checksum(content))

    def announce(self, bases: dict[GroupId, Base]) -> None:
        """Say what the bases will be. To be synced, with the journal, before `start`."""
        assert self.phase is Phase.FROZEN
        for group, base in bases.items():
            shelf = self._table.shelf(group)
            if not shelf.copied:
                shelf.note_reached(base.n, base.epoch)
                first = shelf.base_n + 1
                try:
                    self._redo.announce(group, base, first, _bitmap(first, base.n, shelf.gaps), self.mark)
                except OSError as error:
                    raise DiskFailed(f"no checkpoint: {error.strerror}; free some space and start again") from error
        self.phase = Phase.ANNOUNCED
        self._bases = bases

    def start(self) -> None:
        """The announcement is durable: the data file may be overwritten."""
        self._changes, self._freed = Changes([], [], [], []), []
        self._work, self._next = self._steps(), 0
        self.held_at = NOWHERE
        self.phase = Phase.APPLYING

    def redo(self, bases: dict[GroupId, Base]) -> None:
        """Start again what an earlier process had announced."""
        self._bases = bases
        self.start()

    # Apply
    def work(self, units: int) -> bool:
        """Apply about `units` blocks; True when nothing is left. OSError: no space; the next call tries again."""
        try:
            for done in self._work:
                units -= done
                if units <= 0:
                    return False
        except OSError:
            self._work = self._steps()  # from the object that did not fit; writing its blocks twice does no harm
            raise
        return True

    def _steps(self) -> Iterator[int]:
        table, frozen = self._table, self._frozen
        behind = table.generation - 1
        while self._next < len(frozen):
            obj = frozen[self._next]
            layer: Layer | None
            if obj.generation == behind:
                layer = obj.layer()
            elif obj.generation == table.generation and obj.frozen is not None:
                layer = obj.frozen
            else:
                layer = None  # an object of a group that was dropped by a rewind
            if layer is None:
                pass
            elif GroupId(obj.group) not in self._bases and not table.shelf(obj.group).copied:
                self._hold_back(obj, layer)
            else:
                yield from self._apply(obj, layer)
                _settle(obj, layer)
            self._next += 1

    def _hold_back(self, obj: Obj, layer: Layer) -> None:
        """The group keeps its base: what was frozen of it goes back on top, for the next checkpoint."""
        table = self._table
        for block, found in layer.over.items():
            if isinstance(found, Piece):
                self.held_at = min(self.held_at, found.where)
            elif type(found) is int and found > LOST:
                position = found & POSITION_MASK
                if position >= ASIDE:
                    layer.over[block] = self._recalled(obj, block, found)
                else:
                    self.held_at = min(self.held_at, position)
        if obj.generation == table.generation:
            for block, found in layer.over.items():
                if block < obj.visible:
                    obj.over.setdefault(block, found)
            obj.visible = min(obj.visible, layer.visible)
            obj.frozen = None
        else:
            obj.generation = table.generation
            table.dirty.append(obj)

    def _recalled(self, obj: Obj, block: int, found: int) -> Block:
        """An image as bytes again: its file will be begun anew before the next checkpoint ends."""
        content = memoryview(bytearray(BLOCK))
        if not self._blocks.fetch(obj, block, found, content):
            return LOST
        self._operations.merged.append((obj, block))
        return bytes(content)

    def _apply(self, obj: Obj, layer: Layer) -> Iterator[int]:
        """Write one object's layer into its slot. Yields the blocks done."""
        if not layer.exists:
            self._free_slot(obj)
            self._changes.removed.append((obj.group, obj.name))
            yield 1
            return
        over = layer.over
        if obj.slot < 0 and any(found != HOLE for found in over.values()):
            self._new_slot(obj)
        if obj.slot >= 0 and (over or layer.visible < obj.stored):
            sums = self._table.sums_of(obj)
            emptied = self._make_holes(obj, layer, sums)
            yield from self._write_blocks(obj, over, sums)
            if emptied and sums.count(SUM_HOLE) == BLOCKS_PER_OBJECT:
                self._free_slot(obj)
            elif emptied:
                self._data.store_sums(obj.slot, sums)
            elif over:
                self._data.store_sums(obj.slot, sums, min(over), max(over) + 1)
        obj.stored = blocks_of(layer.size)
        self._changes.objects.append(ObjectRow(obj.group, obj.name, obj.slot, layer.size, layer.version))
        yield 1

    def _new_slot(self, obj: Obj) -> None:
        """A slot whose checksums say that it is empty, whatever an interrupted checkpoint left in it."""
        slot = self._data.slots.allocate()
        sums = array("Q", EMPTY_SUMS)
        try:
            self._data.store_sums(slot, sums)
        except OSError:
            self._data.slots.free([slot])
            raise
        obj.slot = slot
        self._table.keep_sums(obj, sums)

    def _free_slot(self, obj: Obj) -> None:
        """The slot may be used again when the index no longer names it: after the commit."""
        if obj.slot >= 0:
            self._freed.append(obj.slot)
            obj.slot, obj.stored, obj.sums = NO_SLOT, 0, None

    def _make_holes(self, obj: Obj, layer: Layer, sums: "array[int]") -> bool:
        """Punch what was trimmed or cut off; True if there was something."""
        over = layer.over
        holes = [block for block, found in over.items() if found == HOLE and sums[block] != SUM_HOLE]
        cut = range(layer.visible, obj.stored)
        holes += [block for block in cut if block not in over and sums[block] != SUM_HOLE]
        for first, count in _runs(sorted(holes)):
            self._data.punch(obj.slot, first, count)
            for block in range(first, first + count):
                sums[block] = SUM_HOLE
        return bool(holes)

    def _write_blocks(self, obj: Obj, over: Overlay, sums: "array[int]") -> Iterator[int]:
        blocks = sorted(block for block, found in over.items() if found != HOLE)
        for first, count in _runs(blocks):
            for block in range(first, first + count, APPLY_RUN_MAX):
                size = min(APPLY_RUN_MAX, first + count - block)
                self._write_run(obj, over, sums, block, size)
                yield size

    def _write_run(self, obj: Obj, over: Overlay, sums: "array[int]", first: int, count: int) -> None:
        """Move consecutive blocks from the journal to the data file. A block that cannot be read is marked lost."""
        scratch = self._scratch
        totals = self._gather(obj, over, first, count)
        views: list[Source] = [scratch[: count * BLOCK]]
        self._data.write(obj.slot, first, views, count * BLOCK)
        sums[first : first + count] = array("Q", totals)

    def _gather(self, obj: Obj, over: Overlay, first: int, count: int) -> list[int]:
        """Read the blocks into the scratch buffer; returns their checksums."""
        scratch, journal, fetch = self._scratch, self._journal, self._blocks.fetch
        totals = []
        index = 0
        while index < count:
            low = index * BLOCK
            found = over[first + index]
            if type(found) is int and found > LOST:
                position, size = found & POSITION_MASK, 1
                while index + size < count:
                    after = over[first + index + size]
                    if type(after) is not int or after & POSITION_MASK != position + size * BLOCK or after <= LOST:
                        break
                    size += 1
                got = journal.read(scratch[low : low + size * BLOCK], position) // BLOCK
                for step in range(size):
                    total = int(over[first + index + step]) >> POSITION_BITS  # type: ignore[arg-type]
                    part = scratch[low + step * BLOCK : low + step * BLOCK + BLOCK]
                    totals.append(total if step < got and stored_sum(checksum(part)) == total else SUM_LOST)
                index += size
            else:
                part = scratch[low : low + BLOCK]
                good = fetch(obj, first + index, found, part)
                totals.append(stored_sum(checksum(part)) if good else SUM_LOST)
                index += 1
        return totals

    # Commit and finish
    def prepare_commit(self, fields: list[FieldsRow]) -> Callable[[], None]:
        """The job for the background thread; it touches only the files and what it is given here."""
        self.phase = Phase.COMMITTING
        since = self.mark.position
        self._changes.fields.extend(fields)
        self._changes.bases.extend(
            BaseRow(group, base.n, base.epoch, since, base.tables) for group, base in self._bases.items()
        )
        changes, freed, data, index = self._changes, self._freed, self._data, self._index

        def job() -> None:
            data.sync()
            index.commit(changes)
            data.punch_slots(freed)

        return job

    def finish(self) -> None:
        """The index names the new base."""
        table = self._table
        for obj in self._frozen:
            obj.frozen = None
            if obj.generation == table.generation - 1:
                obj.generation = CLEAN
                table.remember(obj)
        self._redo.finished()
        self._data.slots.free(self._freed)
        for group, base in self._bases.items():
            shelf = table.shelf(group)
            shelf.since = self.mark.position
            shelf.rebase(base.n, base.epoch)
            shelf.copied = shelf.copied_to is not None
        self._frozen, self._freed, self._bases = [], [], {}
        self._changes = Changes([], [], [], [])
        self.phase = Phase.IDLE


def _settle(obj: Obj, layer: Layer) -> None:
    """The layer is in the data file: reads no longer need it. The object may have changed since it was begun."""
    if obj.frozen is None:
        obj.over, obj.visible = {}, blocks_of(obj.size)
    else:
        assert obj.frozen.over is layer.over
        obj.frozen = None


def _runs(blocks: list[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers of a sorted list as (first, count)."""
    first = count = 0
    for block in blocks:
        if count and block == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = block, 1
    if count:
        yield first, count


def _bitmap(first: int, last: int, gaps: list[tuple[int, int]]) -> bytes:
    """Bit i set: record first + i had no effect. Empty when all had one."""
    marked = [(max(low, first), min(high, last + 1)) for low, high in gaps if low <= last and high > first]
    if not marked:
        return b""
    bits = bytearray((last - first) // 8 + 1)
    for low, high in marked:
        for n in range(low - first, high - first):
            bits[n >> 3] |= 1 << (n & 7)
    return bytes(bits)
