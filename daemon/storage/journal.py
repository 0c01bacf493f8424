"""The journal: a ring of prewritten bytes to which frames of records are appended. FORMAT.md, section Journal.

A *position* counts bytes since the journal was made and never falls; the byte lies at position modulo ring size in
the file. Each frame's checksum is seeded with the journal's id, the lap and the checksum of the frame before it. So a
scan takes neither records of an earlier lap for new ones, nor the rest of a tail that an earlier start gave up.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

import xxhash

from daemon.storage.backend import File, Source, View
from daemon.storage.head import Head, Mark
from daemon.storage.limits import FRAME_BODY_MAX, PREWRITE_STEP
from daemon.storage.records import HEADER_SIZE, well_formed
from daemon.storage.syncers import DiskFailed
from store.limits import MIB

MAGIC: Final = 0x4A594831  # "1HYJ"
FRAME: Final = Struct("<IIIIQQ")  # magic, lap, bytes of the body, records (0 = padding), sequence, checksum
FRAME_SIZE: Final = FRAME.size
HASHED: Final = FRAME_SIZE - 8  # bytes of the header under the checksum
SEED: Final = Struct("<16sQQ")  # journal id, lap, checksum of the frame before
MARKS: Final = 512  # frame boundaries remembered over the ring, where a scan may begin
SCAN_CHUNK: Final = 1 * MIB
PREWRITE_CHUNK: Final = 4 * MIB
NO_BOUNDARY: Final = 1 << 63


START: Final = Mark(0, 1, 0)


class JournalFull(DiskFailed):
    """The ring is full: admission (`Disk.admit`) exists so that this never happens."""


class Frame(NamedTuple):
    position: int  # of the frame header
    body_position: int
    body: memoryview  # valid until the next frame is asked for
    end: Mark


class Journal:
    """Appends frames and reads them back. `tail` is the oldest position still needed: nothing from there on is lost."""

    def __init__(self, file: File, identity: bytes, size: int, start: Mark) -> None:
        self._file, self._identity = file, identity
        self.size: Final = size
        self.position, self.sequence, self.chain = start
        self.tail = start.position
        self._marks = [start]
        self._mark_step = size // MARKS
        self.head: Head | None = None  # kept up to date with every append, once a start has compared it
        self._prewritten = min(file.size(), size)
        self.boundary = NO_BOUNDARY  # while zeros are written from here on, nothing may be appended behind it
        self.foreign = NO_BOUNDARY
        self.aside: Callable[[View, int], int] = _nowhere
        self.appended = 0  # bytes since this process opened the journal

    # Appending
    def reserve(self, size: int) -> int:
        """Make place for a frame whose body has `size` bytes; return the position of that body."""
        if size > FRAME_BODY_MAX:
            raise ValueError("frame beyond the limit")
        need = FRAME_SIZE + size
        left = self.size - self.position % self.size
        if need > left:
            self._room(left + need)
            self._pad(left)
        else:
            self._room(need)
        return self.position + FRAME_SIZE

    def write(self, views: list[Source], size: int) -> None:
        """Append one frame after `reserve(size)`; `views[0]` is a spare place for the header."""
        position = self.position
        lap = position // self.size
        header = FRAME.pack(MAGIC, lap, size, len(views) - 1, self.sequence, 0)
        digest = xxhash.xxh3_64(header[:HASHED], seed=self._seed(lap, self.chain))
        update = digest.update
        for index in range(1, len(views)):
            update(views[index])
        chain = digest.intdigest()
        views[0] = header[:HASHED] + chain.to_bytes(8, "little")
        size += FRAME_SIZE
        self._file.write(views, size, position % self.size)
        self._advance(size, chain)

    def append(self, record: bytes) -> int:
        """A frame of one record; returns the record's position."""
        where = self.reserve(len(record))
        self.write([b"", record], len(record))
        return where

    def _advance(self, size: int, chain: int) -> None:
        self.position += size
        self.sequence += 1
        self.chain = chain
        self.appended += size
        if self.head is not None:
            self.head.store(self.position, self.sequence, chain)
        if self.position - self._marks[-1].position >= self._mark_step:
            self._marks.append(self.mark())

    def _room(self, need: int) -> None:
        if self.position + need > self.tail + self.size:
            raise JournalFull("the journal is full: the data file did not keep up; the daemon stops")

    def _pad(self, left: int) -> None:
        """Frames never wrap: the rest of the lap becomes padding. Too little for a header: the scan skips it."""
        if left < FRAME_SIZE:
            self.position += left
            return
        lap = self.position // self.size
        header = FRAME.pack(MAGIC, lap, left - FRAME_SIZE, 0, self.sequence, 0)[:HASHED]
        chain = xxhash.xxh3_64_intdigest(header, seed=self._seed(lap, self.chain))
        self._file.write([header + chain.to_bytes(8, "little")], FRAME_SIZE, self.position % self.size)
        self._advance(left, chain)

    def _seed(self, lap: int, chain: int) -> int:
        return xxhash.xxh3_64_intdigest(SEED.pack(self._identity, lap, chain))

    # Space
    @property
    def used(self) -> int:
        return self.position - self.tail

    def mark(self) -> Mark:
        return Mark(self.position, self.sequence, self.chain)

    def remember(self) -> Mark:
        """Note the present end as a place where a scan may begin."""
        mark = self.mark()
        if self._marks[-1].position != mark.position:
            self._marks.append(mark)
        return mark

    def mark_before(self, position: int) -> Mark:
        """The last remembered boundary not behind `position`."""
        index = bisect_right(self._marks, position, key=lambda mark: mark.position)
        return self._marks[max(0, index - 1)]

    def trim(self, mark: Mark) -> None:
        """What lies before the mark may be overwritten: the index on disk begins its scan there, or later."""
        index = bisect_right(self._marks, mark.position, key=lambda other: other.position)
        del self._marks[: max(0, index - 1)]
        self.tail = max(self.tail, mark.position)

    def prepare(self) -> tuple[int, int] | None:
        """Range of the file that was never written and is needed soon. Until `prepared` nothing is appended there."""
        begin = self._prewritten
        if begin >= self.size or self.position >= self.size or self.position + 2 * PREWRITE_STEP <= begin:
            return None
        begin = max(begin, self.position + FRAME_BODY_MAX)
        end = min(begin + PREWRITE_STEP, self.size)
        if begin >= end:
            return None
        self.boundary = begin
        return begin, end

    def prewrite(self, begin: int, end: int) -> None:
        """Write zeros ahead of use: an append to bytes that exist needs no metadata at its sync. In any thread."""
        for offset in range(begin, end, PREWRITE_CHUNK):
            count = min(PREWRITE_CHUNK, end - offset)
            self._file.write([bytes(count)], count, offset)

    def prepared(self, end: int) -> None:
        self._prewritten, self.boundary = end, NO_BOUNDARY

    # Reading
    def read(self, view: View, position: int) -> int:
        """Bytes at a position, which may be one of another log (`aside`)."""
        if position >= self.foreign:
            return self.aside(view, position)
        return self._file.read(view, position % self.size)

    def read_now(self, view: View, position: int) -> int:
        if position >= self.foreign:
            return self.aside(view, position)
        return self._file.read_now(view, position % self.size)

    def join(self, first: int, aside: Callable[[View, int], int]) -> None:
        """Positions from `first` on are served by `aside`."""
        self.foreign, self.aside = first, aside

    def holds(self, position: int) -> bool:
        """Whether the bytes at the position are still those that were appended there."""
        return self.position - self.size <= position < self.position

    def frames(self) -> Iterator[Frame]:
        """Every frame from the present end of the journal on, moving the end; stops at the first that is not one.

        Padding comes as a frame with an empty body.
        """
        window = _Window(self)
        while True:
            end = self.position
            left = self.size - end % self.size
            if left < FRAME_SIZE:
                self.position += left
            frame = self._frame_at(window)
            if frame is None:
                self.position = end
                return
            yield frame

    def _frame_at(self, window: "_Window") -> Frame | None:
        position = self.position
        left = self.size - position % self.size
        header = window.view(position, FRAME_SIZE)
        if header is None:
            return None
        magic, lap, size, records, sequence, total = FRAME.unpack_from(header)
        if magic != MAGIC or lap != position // self.size or sequence != self.sequence or size > left - FRAME_SIZE:
            return None
        body = memoryview(b"")
        hashed = bytes(header[:HASHED])
        if records:
            found = window.view(position + FRAME_SIZE, size) if size <= FRAME_BODY_MAX else None
            if found is None:
                return None
            body = found
        digest = xxhash.xxh3_64(hashed, seed=self._seed(lap, self.chain))
        digest.update(body)
        if digest.intdigest() != total or not well_formed(body):
            return None
        self._advance(FRAME_SIZE + size, total)
        return Frame(position, position + FRAME_SIZE, body, self.mark())


class _Window:
    """A part of the journal in memory, for a scan that goes forward."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._buffer = memoryview(bytearray(SCAN_CHUNK))
        self._begin = self._end = 0

    def view(self, position: int, size: int) -> memoryview | None:
        """Bytes of one lap; None when the file ends before. Valid until the next call."""
        if position < self._begin or position + size > self._end:
            if size > len(self._buffer):
                self._buffer = memoryview(bytearray(FRAME_BODY_MAX))
            left = self._journal.size - position % self._journal.size
            self._begin = position
            self._end = position + self._journal.read(self._buffer[:left], position)
            if position + size > self._end:
                return None
        return self._buffer[position - self._begin : position - self._begin + size]


def _nowhere(view: View, position: int) -> int:
    """No other log has joined."""
    return 0


def prewrite_all(file: File, size: int) -> None:
    """Fill a new journal with zeros and sync it once."""
    step = min(8 * MIB, size)
    zeros = bytes(step)
    for offset in range(0, size, step):
        count = min(step, size - offset)
        file.write([zeros[:count]] if count < step else [zeros], count, offset)
    file.sync()


def payload_position(where: int, name: bytes) -> int:
    """Position of the payload of the record at `where`."""
    return where + HEADER_SIZE + len(name)


assert FRAME_SIZE == 32 and HEADER_SIZE == 88
