"""What has been applied and is not in the data file yet, as small values: where each block's bytes stand.

A block in the overlay is one of
- `HOLE`: zeros;
- `LOST`: bytes that this device could not read when they were needed;
- another non-negative int: a whole block in the journal, `checksum << 64 | position`;
- a `Piece`: bytes in the journal with zeros around them, for blocks that had no bytes before;
- `bytes`: merged from several sources, in memory; bounded by `MERGED_MAX`, then written to a redo file as IMAGEs.

A negative int stands for a block of the data file, minus its checksum; it is never stored in an overlay.
"""

from array import array
from typing import Final, NamedTuple

import xxhash

from daemon.storage.data_file import SUM_FIRST
from store.limits import BLOCK

HOLE: Final = 0
LOST: Final = 1
POSITION_BITS: Final = 64
POSITION_MASK: Final = (1 << POSITION_BITS) - 1

checksum = xxhash.xxh3_64_intdigest


class Piece(NamedTuple):
    where: int  # journal position of the bytes
    lead: int  # zeros before them in the block
    length: int
    total: int  # their xxh3


Block = int | Piece | bytes
Overlay = dict[int, Block]  # block number in the object -> where its bytes stand


def stored_sum(total: int) -> int:
    """A computed checksum as it is kept: the smallest numbers have a meaning of their own."""
    return total if total >= SUM_FIRST else total + SUM_FIRST


def whole_block(position: int, total: int) -> int:
    """A whole block in the journal with the checksum `total`."""
    return stored_sum(total) << POSITION_BITS | position


def blocks_of(size: int) -> int:
    """Blocks that an object of `size` bytes reaches into."""
    return (size + BLOCK - 1) // BLOCK


class Layer:
    """An object as of a freeze."""

    __slots__ = ("exists", "over", "size", "version", "visible")

    def __init__(self, exists: bool, size: int, version: int, over: Overlay, visible: int) -> None:
        self.exists, self.size, self.version = exists, size, version
        self.over = over
        self.visible = visible  # of the layers below only blocks before this one show through


CLEAN: Final = 0  # generation of an object that equals its row in the index


class Obj:
    """An object in memory. `generation`: when it was changed last (CLEAN, the present one, or that of the freeze)."""

    __slots__ = (
        "damaged", "exists", "frozen", "generation", "group", "name", "over", "size", "slot", "stored", "sums",
        "version", "visible",
    )  # fmt: skip

    def __init__(self, group: int, name: bytes) -> None:
        self.group, self.name = group, name
        self.exists = False
        self.size = 0
        self.version = 0
        self.slot = -1
        self.stored = 0  # blocks of the slot before this one may have bytes
        self.sums: array[int] | None = None  # of the slot; None: not in memory
        self.over: Overlay = {}
        self.visible = 0
        self.frozen: Layer | None = None
        self.generation = CLEAN
        self.damaged = False  # its row in the index is: nothing about it can be believed

    def layer(self) -> Layer:
        return Layer(self.exists, self.size, self.version, self.over, self.visible)
