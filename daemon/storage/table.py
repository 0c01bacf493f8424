"""Objects in memory: what was changed since the last checkpoint, and a bounded cache of what was not."""

from array import array
from typing import Final

from daemon.storage.data_file import SUM_FIRST, SUM_HOLE, DataFile
from daemon.storage.index import DamagedRow, Index, ObjectRow
from daemon.storage.limits import CACHED_OBJECTS_MAX, CACHED_SUMS_MAX
from daemon.storage.overlay import CLEAN, HOLE, LOST, POSITION_MASK, Block, Obj, Piece, blocks_of
from daemon.storage.syncers import DiskFailed


class Shelf:
    """One group on this device: its objects in memory, its base, and how far it has been applied."""

    __slots__ = (
        "applied", "applied_epoch", "base_epoch", "base_n", "copied", "copied_to", "gaps", "group", "objects", "since",
    )  # fmt: skip

    def __init__(self, group: int) -> None:
        self.group: Final = group
        self.objects: dict[bytes, Obj] = {}
        self.base_n = self.base_epoch = 0
        self.since = 0  # journal position of the checkpoint that wrote the base
        self.applied = self.applied_epoch = 0  # the last record that was applied
        self.gaps: list[tuple[int, int]] = []  # ranges of records since the base that were not given to apply
        self.copied_to: bytes | None = None  # an inventory runs: names up to here have arrived
        self.copied = False  # an inventory has written since the base: the journal alone does not give the state

    def note_applied(self, n: int, epoch: int) -> None:
        """Record n took its effect; those between it and the last one were refused or have none."""
        if n <= self.applied:
            return
        if n != self.applied + 1:
            self.gaps.append((self.applied + 1, n))
        self.applied, self.applied_epoch = n, epoch

    def note_reached(self, n: int, epoch: int) -> None:
        """The log stands at n: what was not applied up to there had no effect."""
        if n > self.applied:
            self.gaps.append((self.applied + 1, n + 1))
            self.applied, self.applied_epoch = n, epoch

    def rebase(self, n: int, epoch: int) -> None:
        self.base_n, self.base_epoch = n, epoch
        self.gaps = [(max(low, n + 1), high) for low, high in self.gaps if high > n + 1]
        if self.applied < n:
            self.applied, self.applied_epoch = n, epoch


class ObjectTable:
    """Finds objects, keeps what must stay in memory, forgets the rest. `generation` rises with every freeze."""

    def __init__(self, index: Index, data: DataFile) -> None:
        self.index, self.data = index, data
        self.shelves: dict[int, Shelf] = {}
        self.generation = CLEAN + 1
        self.dirty: list[Obj] = []  # changed since the last freeze
        self._clean: dict[Obj, None] = {}  # oldest first
        self._summed: dict[Obj, None] = {}

    def shelf(self, group: int) -> Shelf:
        found = self.shelves.get(group)
        if found is None:
            found = self.shelves[group] = Shelf(group)
        return found

    def find(self, group: int, name: bytes) -> Obj:
        """The object, existing or not."""
        shelf = self.shelves.get(group) or self.shelf(group)
        return shelf.objects.get(name) or self._load(shelf, name)

    def _load(self, shelf: Shelf, name: bytes) -> Obj:
        obj = Obj(shelf.group, name)
        try:
            row = self.index.find(shelf.group, name)
        except DamagedRow:
            obj.damaged = True
            return obj  # not remembered: every use of it must meet the damage
        if row is not None:
            fill(obj, row)
        shelf.objects[name] = obj
        self.remember(obj)
        return obj

    def remember(self, obj: Obj) -> None:
        """The object equals its row: keep it while there is room."""
        clean = self._clean
        clean.pop(obj, None)
        clean[obj] = None
        if len(clean) > CACHED_OBJECTS_MAX:
            oldest = next(iter(clean))
            del clean[oldest]
            if oldest.generation == CLEAN:
                self._forget(oldest)

    def _forget(self, obj: Obj) -> None:
        self._summed.pop(obj, None)
        obj.sums = None
        objects = self.shelves[obj.group].objects
        if objects.get(obj.name) is obj:
            del objects[obj.name]

    def touch(self, obj: Obj) -> None:
        """The object is about to change: what a freeze holds of it is set aside first."""
        if obj.damaged:
            raise DiskFailed(f"the index row of object {obj.name!r} is damaged; see `python -m daemon.storage.check`")
        if obj.generation != CLEAN:
            obj.frozen = obj.layer()
            obj.over = {}
            obj.visible = blocks_of(obj.size)
        obj.generation = self.generation
        self.dirty.append(obj)

    def drop(self, shelf: Shelf) -> None:
        """Forget everything about a group's objects that the index does not have."""
        for obj in shelf.objects.values():
            obj.generation, obj.frozen, obj.over = CLEAN, None, {}
            self._clean.pop(obj, None)
            self._summed.pop(obj, None)
        shelf.objects.clear()
        shelf.gaps.clear()
        shelf.applied, shelf.applied_epoch = shelf.base_n, shelf.base_epoch
        self.dirty = [obj for obj in self.dirty if obj.group != shelf.group]

    def move(self, group: int, name: bytes, old: int, new: int, size: int) -> None:
        """The record of `size` bytes at `old` was written again at `new`: what the overlay says of it follows."""
        shelf = self.shelves.get(group)
        obj = None if shelf is None else shelf.objects.get(name)
        if obj is None:
            return
        overlays = [obj.over] if obj.frozen is None else [obj.over, obj.frozen.over]
        for over in overlays:
            for block, found in over.items():
                if isinstance(found, Piece):
                    if old < found.where < old + size:
                        over[block] = found._replace(where=found.where + new - old)
                elif type(found) is int and found > LOST and old < found & POSITION_MASK < old + size:
                    over[block] = found + new - old

    # Blocks
    def sums_of(self, obj: Obj) -> "array[int]":
        """Checksums of the object's slot, from the file when they are not in memory."""
        if obj.sums is None:
            self.keep_sums(obj, self.data.load_sums(obj.slot))
        assert obj.sums is not None
        return obj.sums

    def keep_sums(self, obj: Obj, sums: "array[int]") -> None:
        summed = self._summed
        obj.sums = sums
        summed.pop(obj, None)
        summed[obj] = None
        if len(summed) > CACHED_SUMS_MAX:
            oldest = next(iter(summed))
            del summed[oldest]
            oldest.sums = None

    def resolve(self, obj: Obj, block: int) -> Block:
        """Where the block's bytes stand in the applied state."""
        found = obj.over.get(block)
        if found is not None:
            return found
        if block >= obj.visible:
            return HOLE
        frozen = obj.frozen
        if frozen is not None:
            found = frozen.over.get(block)
            if found is not None:
                return found
            if block >= frozen.visible:
                return HOLE
        if obj.slot < 0:
            return HOLE
        total = (obj.sums or self.sums_of(obj))[block]
        if total >= SUM_FIRST:
            return -total
        return HOLE if total == SUM_HOLE else LOST


def fill(obj: Obj, row: ObjectRow) -> None:
    """Make the object what its row says."""
    obj.exists = True
    obj.slot, obj.size, obj.version = row.slot, row.size, row.version
    obj.visible = obj.stored = blocks_of(row.size)
