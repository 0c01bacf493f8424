"""Reads of objects: planned on the loop, read from memory at once or from the medium in a thread, always verified.

A plan is a list of runs that stand together in one file. It names the checksums that the bytes must have, so it can
be carried out in any thread: if a source was overwritten meanwhile the bytes do not match, and the read is planned
again.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from daemon.storage.blocks import ZEROS, BlockReader
from daemon.storage.data_file import NO_SLOT, DataFile
from daemon.storage.journal import Journal
from daemon.storage.limits import SCRATCH, SLOT
from daemon.storage.overlay import HOLE, LOST, POSITION_BITS, POSITION_MASK, Block, Obj, blocks_of, checksum, stored_sum
from daemon.storage.table import ObjectTable
from store.errors import Status
from store.limits import BLOCK

Views = Sequence[memoryview]
Answer = tuple[Status, int, int]  # status, version token, size of the object
MISSING: Final[Answer] = (Status.NOT_FOUND, 0, 0)


class Run(NamedTuple):
    """Consecutive blocks. `read` is None for holes and blocks in memory."""

    read: Callable[[memoryview, int], int] | None  # of the file, from memory only or blocking
    position: int  # in that file or in the journal
    blocks: int
    totals: tuple[int, ...]  # stored checksum of each block
    found: Block  # what stands there when `read` is None


class Reader:
    """Serves reads of the applied state."""

    def __init__(self, table: ObjectTable, blocks: BlockReader, journal: Journal, data: DataFile) -> None:
        self._table, self._blocks, self._journal, self._data = table, blocks, journal, data
        self._scratch = memoryview(bytearray(BLOCK))
        self._journal_now, self._data_now = journal.read_now, data.data.read_now

    def read(self, group: int, name: bytes, offset: int, views: Views) -> Answer | None:
        """Fill the views with the object's bytes from `offset` on; behind its end they are left alone or zeroed.

        None when some bytes are not in memory: `ColdRead` gets them. DAMAGED when a block is lost or wrong.
        """
        obj = self._table.find(group, name)
        if not obj.exists:
            return (Status.DAMAGED, 0, 0) if obj.damaged else MISSING
        if len(views) == 1 and len(views[0]) == BLOCK and not offset % BLOCK and offset + BLOCK <= obj.size:
            done = self._one_block(obj, offset // BLOCK, views[0])
        else:
            done = self._many(obj, offset, views)
        if done is None:
            return None
        return (Status.OK if done else Status.DAMAGED, obj.version, obj.size)

    def _one_block(self, obj: Obj, block: int, view: memoryview) -> bool | None:
        """The usual case. True: filled; False: damaged; None: not in memory."""
        if obj.slot >= 0 and obj.sums is None and not self._sums_now(obj):
            return None
        found = obj.over.get(block)
        if found is None:
            found = self._table.resolve(obj, block)
        if type(found) is not int or HOLE <= found <= LOST:
            return self._blocks.fetch(obj, block, found, view)
        try:
            if found < 0:
                total = -found
                got = self._data_now(view, obj.slot * SLOT + block * BLOCK)
            else:
                total = found >> POSITION_BITS
                got = self._journal_now(view, found & POSITION_MASK)
        except BlockingIOError:
            return None
        except OSError:
            return False
        if got != BLOCK:
            return None
        real = checksum(view)
        return real == total or stored_sum(real) == total

    def _sums_now(self, obj: Obj) -> bool:
        """Load the checksums if they are in memory; small and hot, so usually they are."""
        sums = self._data.load_sums_now(obj.slot)
        if sums is None:
            return False
        self._table.keep_sums(obj, sums)
        return True

    def _many(self, obj: Obj, offset: int, views: Views) -> bool | None:
        if obj.slot >= 0 and obj.sums is None and not self._sums_now(obj):
            return None
        end = min(offset + sum(map(len, views)), obj.size)
        if offset >= end:
            return True
        target = Target(views, offset)
        plan = self.plan(obj, offset, end, self._journal_now, self._data_now)
        try:
            return self.carry_out(plan, offset, end, target)
        except BlockingIOError:
            return None

    # Plans
    def plan(
        self,
        obj: Obj,
        offset: int,
        end: int,
        journal: Callable[[memoryview, int], int],
        data: Callable[[memoryview, int], int],
    ) -> list[Run]:
        """Runs of blocks from the one at `offset` to the one before `end`."""
        runs: list[Run] = []
        resolve = self._table.resolve
        block, last = offset // BLOCK, blocks_of(end)
        most = SCRATCH // BLOCK
        base = obj.slot * SLOT
        while block < last:
            found = resolve(obj, block)
            block += 1
            if type(found) is not int or HOLE <= found <= LOST:
                runs.append(Run(None, obj.slot, 1, (), found))
                continue
            if found < 0:
                totals = [-found]
                position, read = base + (block - 1) * BLOCK, data
                while block < last and len(totals) < most:
                    found = resolve(obj, block)
                    if type(found) is not int or found >= 0:
                        break
                    totals.append(-found)
                    block += 1
            else:
                totals = [found >> POSITION_BITS]
                position, read = found & POSITION_MASK, journal
                expected = position + BLOCK
                while block < last and len(totals) < most:
                    found = resolve(obj, block)
                    if type(found) is not int or found <= LOST or found & POSITION_MASK != expected:
                        break
                    totals.append(found >> POSITION_BITS)
                    expected += BLOCK
                    block += 1
            runs.append(Run(read, position, len(totals), tuple(totals), HOLE))
        return runs

    def plan_blocking(self, obj: Obj, offset: int, end: int) -> list[Run]:
        """A plan whose reads may wait for the medium."""
        return self.plan(obj, offset, end, self._journal.read, self._data.data.read)

    def carry_out(self, plan: list[Run], offset: int, end: int, target: "Target") -> bool:
        """Read and verify every run; False at the first wrong block. BlockingIOError when `read` may not wait."""
        at = offset - offset % BLOCK
        for run in plan:
            size = run.blocks * BLOCK
            place = target.direct(at, size)
            into = place if place is not None else memoryview(bytearray(size))
            good = self._in_memory(run, into) if run.read is None else _read_verified(run, into)
            if not good:
                return False
            if place is None:
                low, high = max(offset, at), min(end, at + size)
                target.copy(low, into[low - at : high - at])
            at += size
        return True

    def _in_memory(self, run: Run, into: memoryview) -> bool:
        if run.found == HOLE:
            into[:] = ZEROS
            return True
        return self._blocks.fetch(_NO_OBJECT, 0, run.found, into)

    def extents(self, group: int, name: bytes, offset: int, length: int) -> list[tuple[int, int, bool]]:
        """The range as (offset, length, has data), cut at the object's end; holes and data alternate."""
        obj = self._table.find(group, name)
        end = min(offset + length, obj.size)
        rows: list[tuple[int, int, bool]] = []
        at = offset
        while at < end:
            step = min(end, at - at % BLOCK + BLOCK) - at
            has_data = self._table.resolve(obj, at // BLOCK) != HOLE
            if rows and rows[-1][2] == has_data:
                start, size, _ = rows[-1]
                rows[-1] = (start, size + step, has_data)
            else:
                rows.append((at, step, has_data))
            at += step
        return rows


_NO_OBJECT: Final = Obj(0, b"")  # blocks in memory need no slot


def _read_verified(run: Run, into: memoryview) -> bool:
    assert run.read is not None
    try:
        got = run.read(into, run.position)
    except BlockingIOError:
        raise
    except OSError:
        return False
    if got != len(into):
        raise BlockingIOError
    low = 0
    for total in run.totals:
        real = checksum(into[low : low + BLOCK])
        if real != total and stored_sum(real) != total:
            return False
        low += BLOCK
    return True


class Target:
    """The caller's views as one range of the object that begins at `offset`."""

    def __init__(self, views: Views, offset: int) -> None:
        self._views, self._offset = views, offset
        self._single = views[0] if len(views) == 1 else None

    def direct(self, at: int, size: int) -> memoryview | None:
        """The place of object bytes at..at+size-1 when it is one piece: then nothing is copied."""
        begin = at - self._offset
        if self._single is None or begin < 0 or begin + size > len(self._single):
            return None
        return self._single[begin : begin + size]

    def copy(self, at: int, content: memoryview) -> None:
        """Spread content over the views, from object offset `at` on."""
        begin = at - self._offset
        for view in self._views:
            size = len(view)
            if begin < size:
                count = min(size - begin, len(content))
                view[begin : begin + count] = content[:count]
                content = content[count:]
                if not content:
                    return
                begin = 0
            else:
                begin -= size


class ColdRead:
    """A read whose bytes are not in memory. Make it on the loop, `run` it in a thread, take `answer` on the loop."""

    def __init__(self, reader: Reader, table: ObjectTable, group: int, name: bytes, offset: int, views: Views) -> None:
        self._reader, self._table = reader, table
        self._request = (group, name, offset, views)
        self._obj = table.find(group, name)
        self._plan: list[Run] | None = None
        self._slot = NO_SLOT
        self._sums: array[int] | None = None
        self._good = False
        self._prepare()

    def _prepare(self) -> None:
        obj, (_, _, offset, views) = self._obj, self._request
        self.answered: Answer = (Status.OK, obj.version, obj.size)
        self._end = min(offset + sum(map(len, views)), obj.size)
        self._generation = self._table.data.writes
        if obj.slot >= 0 and obj.sums is None:
            self._plan, self._slot = None, obj.slot
        else:
            self._plan = self._reader.plan_blocking(obj, offset, self._end)

    def run(self) -> None:
        """Blocks. Touches nothing but the files and the views."""
        if self._plan is None:
            self._sums = self._table.data.load_sums(self._slot)
            return
        _, _, offset, views = self._request
        try:
            self._good = self._reader.carry_out(self._plan, offset, self._end, Target(views, offset))
        except BlockingIOError:  # shorter than planned: the source moved
            self._good = False

    def answer(self) -> Answer | None:
        """The answer; None: run it again (the checksums had to be read first, or the object moved meanwhile)."""
        obj = self._obj
        if not obj.exists:
            return (Status.DAMAGED, 0, 0) if obj.damaged else MISSING
        if self._plan is not None and self._good:
            return self.answered
        moved = self._table.data.writes != self._generation
        if self._plan is None:
            if not moved and obj.sums is None and obj.slot == self._slot and self._sums is not None:
                self._table.keep_sums(obj, self._sums)
        elif not moved and (Status.OK, obj.version, obj.size) == self.answered:
            return (Status.DAMAGED, obj.version, obj.size)
        group, name, _, _ = self._request
        self._obj = self._table.find(group, name)
        self._prepare()
        return None
