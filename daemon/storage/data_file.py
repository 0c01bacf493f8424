"""The data file: one sparse 4 MiB slot for each object that has bytes, and a checksum for every 4 KiB beside it."""

import errno
from array import array
from collections.abc import Iterable
from typing import Final

from daemon.storage.backend import File, Source
from daemon.storage.limits import SLOT
from store.errors import ConfigError
from store.limits import BLOCK, BLOCKS_PER_OBJECT

SUMS_SIZE: Final = BLOCKS_PER_OBJECT * 8  # bytes of checksums of one slot
# Values in the sums file that are no checksums; a computed checksum below 3 is stored 3 higher.
SUM_NEVER: Final = 0  # nothing was written here: a lost or foreign page of the sums file
SUM_HOLE: Final = 1
SUM_LOST: Final = 2  # the bytes are known to be wrong: only another member has the block
SUM_FIRST: Final = 3
NO_SLOT: Final = -1

EMPTY_SUMS: Final = array("Q", [SUM_HOLE]) * BLOCKS_PER_OBJECT


class Slots:
    """Which slots are taken. Built from the index at every start, so it can never disagree with it."""

    def __init__(self) -> None:
        self._taken = bytearray()
        self._hint = 0
        self.count = 0

    def take(self, slot: int) -> None:
        """Raises ConfigError when two objects claim the same slot."""
        if slot >= len(self._taken):
            self._taken.extend(bytes(max(64, slot + 1 - len(self._taken))))
        if self._taken[slot]:
            raise ConfigError(f"the index is damaged: slot {slot} is used twice; see `python -m daemon.storage.check`")
        self._taken[slot] = 1
        self.count += 1

    def allocate(self) -> int:
        """The lowest free slot: the file stays short."""
        slot = self._taken.find(0, self._hint)
        if slot < 0:
            slot = len(self._taken)
        self.take(slot)
        self._hint = slot + 1
        return slot

    def free(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._taken[slot] = 0
            self._hint = min(self._hint, slot)
            self.count -= 1

    def unused(self, end: int) -> list[int]:
        """Free slots below `end`."""
        taken = self._taken
        return [slot for slot in range(end) if slot >= len(taken) or not taken[slot]]


class DataFile:
    """Bytes and checksums by slot. Nothing here is atomic: what is overwritten in place is in the journal as well."""

    def __init__(self, data: File, sums: File) -> None:
        self.data, self._sums = data, sums
        self.writes = 0  # changes with everything that is overwritten in place
        self.slots: Final = Slots()

    def load_sums(self, slot: int) -> "array[int]":
        """Checksums of a slot; what the file does not have reads as SUM_NEVER, which matches nothing."""
        content = bytearray(SUMS_SIZE)
        try:
            self._sums.read(content, slot * SUMS_SIZE)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            content = bytearray(SUMS_SIZE)
        return array("Q", bytes(content))

    def load_sums_now(self, slot: int) -> "array[int] | None":
        """The same if it need not wait for the medium, else None."""
        content = bytearray(SUMS_SIZE)
        try:
            got = self._sums.read_now(content, slot * SUMS_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return self.load_sums(slot)
        return array("Q", bytes(content)) if got == SUMS_SIZE else None

    def store_sums(self, slot: int, sums: "array[int]", low: int = 0, high: int = BLOCKS_PER_OBJECT) -> None:
        """Write the checksums of blocks low..high-1."""
        self.writes += 1
        part = memoryview(sums).cast("B")[low * 8 : high * 8]
        self._sums.write([part], len(part), slot * SUMS_SIZE + low * 8)

    def write(self, slot: int, block: int, views: list[Source], size: int) -> None:
        self.writes += 1
        self.data.write(views, size, slot * SLOT + block * BLOCK)

    def read(self, view: memoryview, slot: int, block: int) -> int:
        return self.data.read(view, slot * SLOT + block * BLOCK)

    def punch(self, slot: int, block: int, count: int) -> None:
        self.writes += 1
        self.data.punch(slot * SLOT + block * BLOCK, count * BLOCK)

    def punch_slots(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self.data.punch(slot * SLOT, SLOT)

    def slots_in_file(self) -> int:
        """Slots that the file reaches into."""
        return -(-self.data.size() // SLOT)

    def sync(self) -> None:
        self.data.sync()
        self._sums.sync()

    def close(self) -> None:
        self.data.close()
        self._sums.close()
