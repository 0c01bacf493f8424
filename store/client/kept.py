"""What an image's writer must not forget: acknowledged unstable data, newest per block (replication rule R34). Pure.

A `Kept` stands for one acknowledged write: a run of whole blocks, or parts of one block. A block belongs to the newest
of them; an older one lives as long as some block still does, and its bytes count against the bound until then.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from store.ids import GroupId
from store.limits import BLOCK

BLOCK_SHIFT: Final = BLOCK.bit_length() - 1  # device offset >> BLOCK_SHIFT = number of the block in the image
WHOLE: Final = 0  # mask of whole blocks
MIXED: Final = -1  # verifier of a block made of writes with different ones: no flush confirms it, so it is sent again

assert 1 << BLOCK_SHIFT == BLOCK


class Kept:
    """Bytes of the image from device offset `start` on. Only verifier, stamp and `blocks` ever change."""

    __slots__ = ("blocks", "data", "group", "mask", "stamp", "start", "verifier")

    def __init__(self, start: int, data: bytes, mask: int, group: GroupId, verifier: int, stamp: int) -> None:
        self.start, self.data, self.mask, self.group = start, data, mask, group
        self.verifier = verifier  # of the acknowledgement
        self.stamp = stamp  # which acknowledgement of this image it was
        self.blocks = len(data) >> BLOCK_SHIFT  # how many of its blocks are still the newest

    @property
    def first(self) -> int:
        return self.start >> BLOCK_SHIFT

    @property
    def end(self) -> int:
        return self.start + len(self.data) >> BLOCK_SHIFT


class Patch(NamedTuple):
    """Kept bytes that belong into a read, at `position` of its buffer."""

    position: int
    data: memoryview


class KeptBlocks:
    """The newest unflushed data of each block."""

    def __init__(self) -> None:
        self.newest: dict[int, Kept] = {}  # block -> what it holds; `in` is the fast path of reads
        self.bytes = 0  # held in memory
        self.by_group: dict[GroupId, dict[Kept, None]] = {}

    def put(self, start: int, data: bytes, group: GroupId, verifier: int, stamp: int) -> None:
        """An acknowledged unstable write of any range inside one object."""
        stop = start + len(data)
        if not (start | stop) & BLOCK - 1:
            self._put_blocks(Kept(start, data, WHOLE, group, verifier, stamp))
            return
        for low, high in _cuts(start, stop):
            piece = data[low - start : high - start]
            if (low | high) & BLOCK - 1:
                self._merge(low, piece, group, verifier, stamp)
            else:
                self._put_blocks(Kept(low, piece, WHOLE, group, verifier, stamp))

    def replaced(self, start: int, data: bytes | memoryview | None, length: int, group: GroupId, stamp: int) -> None:
        """A durable write (or, without data, zeros) has taken the place of what was kept in this range."""
        if not self.newest:
            return
        stop = start + length
        for low, high in _cuts(start, stop):
            if not (low | high) & BLOCK - 1:
                self._forget_range(low >> BLOCK_SHIFT, high >> BLOCK_SHIFT)
                continue
            old = self.newest.get(low >> BLOCK_SHIFT)
            if old is not None:
                piece = bytes(high - low) if data is None else bytes(data[low - start : high - start])
                self._merge(low, piece, group, old.verifier, stamp)

    def forget(self, kept: Kept) -> None:
        """It is durable."""
        newest = self.newest
        for block in range(kept.first, kept.end):
            if newest.get(block) is kept:
                del newest[block]
        self._drop(kept)

    def runs(self, kept: Kept) -> list[tuple[int, memoryview]]:
        """What of it is still the newest, as (device offset, bytes): that much must be sent again if it was lost."""
        view = memoryview(kept.data)
        if kept.mask:
            return [(kept.start + low, view[low:high]) for low, high in _ones(kept.mask)]
        runs: list[tuple[int, int]] = []
        for block in range(kept.first, kept.end):
            if self.newest.get(block) is not kept:
                continue
            if runs and runs[-1][1] == block:
                runs[-1] = (runs[-1][0], block + 1)
            else:
                runs.append((block, block + 1))
        base = kept.start
        return [
            (low << BLOCK_SHIFT, view[(low << BLOCK_SHIFT) - base : (high << BLOCK_SHIFT) - base]) for low, high in runs
        ]

    def patches(self, offset: int, length: int) -> list[Patch]:
        """Kept data inside a range, in rising order. The data never changes afterwards: it may be used unlocked."""
        newest, patches = self.newest, []
        stop = offset + length
        for block in range(offset >> BLOCK_SHIFT, (stop - 1 >> BLOCK_SHIFT) + 1):
            kept = newest.get(block)
            if kept is None:
                continue
            begin = block << BLOCK_SHIFT
            parts = _ones(kept.mask) if kept.mask else ((0, BLOCK),)
            for low, high in parts:
                left, right = max(begin + low, offset), min(begin + high, stop)
                if left < right:
                    base = kept.start
                    patches.append(Patch(left - offset, memoryview(kept.data)[left - base : right - base]))
        return patches

    # --- inside ------------------------------------------------------------------------------------------------------

    def _put_blocks(self, kept: Kept) -> None:
        newest = self.newest
        for block in range(kept.first, kept.end):
            old = newest.get(block)
            newest[block] = kept
            if old is not None:
                self._lose_block(old)
        self._add(kept)

    def _merge(self, start: int, piece: bytes, group: GroupId, verifier: int, stamp: int) -> None:
        """Part of a block over whatever of the block is kept already."""
        block = start >> BLOCK_SHIFT
        low = start - (block << BLOCK_SHIFT)
        mask = (1 << len(piece)) - 1 << low
        content = bytearray(BLOCK)
        old = self.newest.get(block)
        if old is not None:
            at = (block << BLOCK_SHIFT) - old.start
            content[:] = old.data[at : at + BLOCK]
            mask = WHOLE if old.mask == WHOLE else mask | old.mask
            verifier = verifier if verifier == old.verifier else MIXED
        content[low : low + len(piece)] = piece
        if mask == (1 << BLOCK) - 1:
            mask = WHOLE
        self._put_blocks(Kept(block << BLOCK_SHIFT, bytes(content), mask, group, verifier, stamp))

    def _forget_range(self, first: int, end: int) -> None:
        newest = self.newest
        blocks = range(first, end)
        if len(newest) < len(blocks):
            found = [block for block in newest if first <= block < end]
        else:
            found = [block for block in blocks if block in newest]
        for block in found:
            self._lose_block(newest.pop(block))

    def _lose_block(self, kept: Kept) -> None:
        kept.blocks -= 1
        if kept.blocks == 0:
            self._drop(kept)

    def _add(self, kept: Kept) -> None:
        self.bytes += len(kept.data)
        group = self.by_group.get(kept.group)
        if group is None:
            group = self.by_group[kept.group] = {}
        group[kept] = None

    def _drop(self, kept: Kept) -> None:
        group = self.by_group.get(kept.group)
        if group is not None and kept in group:
            del group[kept]
            self.bytes -= len(kept.data)
            if not group:
                del self.by_group[kept.group]


def _cuts(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """A range as a part of its first block, whole blocks, and a part of its last, as far as there are any."""
    inner_start, inner_stop = start + BLOCK - 1 & -BLOCK, stop & -BLOCK
    if inner_start > inner_stop:  # inside one block
        yield start, stop
        return
    if start < inner_start:
        yield start, inner_start
    if inner_start < inner_stop:
        yield inner_start, inner_stop
    if inner_stop < stop:
        yield inner_stop, stop


def _ones(mask: int) -> list[tuple[int, int]]:
    """The runs of set bits, as (first, end)."""
    runs, position = [], 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        position, mask = position + zeros, mask >> zeros
        ones = (~mask & mask + 1).bit_length() - 1
        runs.append((position, position + ones))
        position, mask = position + ones, mask >> ones
    return runs
