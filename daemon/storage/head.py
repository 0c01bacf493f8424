"""What tells a start that lost nothing from one that may have (replication rule R3).

The *head* lies on tmpfs: where the journal ended after the last append. It outlives a process, not a boot. The
*clean mark* is a file written after a full sync at a clean stop, and consumed by the next start.
"""

import mmap
from struct import Struct
from typing import Final, NamedTuple

import xxhash

from daemon.storage.backend import HEAD_SIZE, Backend

SLOT: Final = Struct("<QQQQ")  # position, sequence, chain, checksum of these
CLEAN: Final = "clean"


class Mark(NamedTuple):
    """A frame boundary of the journal: where a scan may begin, and what it must know to begin there."""

    position: int
    sequence: int  # of the frame that begins here
    chain: int  # checksum of the frame before


def _sum(position: int, sequence: int, chain: int) -> int:
    return (position * 0x9E3779B97F4A7C15 ^ sequence * 0xC2B2AE3D27D4EB4F ^ chain ^ 0xA5) & 0xFFFF_FFFF_FFFF_FFFF


class Head:
    """Two slots written in turn: a process killed while it writes one leaves the other."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory

    def load(self) -> Mark | None:
        """Where the journal ended when its last process died; None if that is not known."""
        found = []
        for offset in (0, SLOT.size):
            position, sequence, chain, total = SLOT.unpack_from(self._memory, offset)
            if sequence and total == _sum(position, sequence, chain):
                found.append(Mark(position, sequence, chain))
        return max(found, key=lambda mark: mark.sequence, default=None)

    def store(self, position: int, sequence: int, chain: int) -> None:
        SLOT.pack_into(
            self._memory, SLOT.size * (sequence & 1), position, sequence, chain, _sum(position, sequence, chain)
        )

    def close(self) -> None:
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()


def leave_clean_mark(backend: Backend, end: Mark) -> None:
    content = SLOT.pack(*end, _sum(*end))
    backend.store(CLEAN, content + xxhash.xxh3_64_digest(content))


def take_clean_mark(backend: Backend) -> Mark | None:
    """The mark, which is gone from the disk when this returns; None if there is none or it is damaged."""
    content = backend.load(CLEAN)
    if content is None:
        return None
    backend.remove(CLEAN)
    if len(content) != SLOT.size + 8 or xxhash.xxh3_64_digest(content[: SLOT.size]) != content[SLOT.size :]:
        return None
    position, sequence, chain, _ = SLOT.unpack_from(content)
    return Mark(position, sequence, chain)


assert SLOT.size * 2 == HEAD_SIZE
