"""Bytes of blocks from wherever they stand, always compared with their checksums."""

import errno
from typing import Final

from daemon.core.record import Entry
from daemon.storage.data_file import DataFile
from daemon.storage.journal import Journal, payload_position
from daemon.storage.overlay import HOLE, LOST, POSITION_BITS, POSITION_MASK, Block, Obj, Piece, checksum, stored_sum
from daemon.storage.syncers import DiskFailed
from store.limits import BLOCK

ZEROS: Final = bytes(BLOCK)


def matches(view: memoryview, total: int) -> bool:
    """Whether the bytes have the stored checksum."""
    return stored_sum(checksum(view)) == total


class BlockReader:
    """Reads single blocks and payloads, blocking. Long reads have their own way (`reading.py`)."""

    def __init__(self, journal: Journal, data: DataFile) -> None:
        self._journal, self._data = journal, data

    def fetch(self, obj: Obj, block: int, found: Block, into: memoryview) -> bool:
        """Fill `into` (one block) with what `found` names; False when those bytes are lost or wrong."""
        if type(found) is bytes:
            into[:] = found
            return True
        if isinstance(found, Piece):
            into[:] = ZEROS
            part = into[found.lead : found.lead + found.length]
            return self._read_journal(part, found.where) and checksum(part) == found.total
        assert isinstance(found, int)
        if found == HOLE:
            into[:] = ZEROS
            return True
        if found == LOST:
            return False
        if found > 0:
            return self._read_journal(into, found & POSITION_MASK) and matches(into, found >> POSITION_BITS)
        return self._read_data(into, obj.slot, block) and matches(into, -found)

    def _read_journal(self, view: memoryview, position: int) -> bool:
        try:
            return self._journal.read(view, position) == len(view)
        except OSError as error:
            return _is_damage(error)

    def _read_data(self, view: memoryview, slot: int, block: int) -> bool:
        try:
            return self._data.read(view, slot, block) == BLOCK
        except OSError as error:
            return _is_damage(error)

    def payload(self, entry: Entry) -> memoryview | bytes:
        """The payload, from memory or the journal."""
        if entry.payload is not None:
            return entry.payload  # type: ignore[no-any-return]
        size = entry.size
        content = memoryview(bytearray(size))
        got = self._journal.read(content, payload_position(entry.where, entry.name))
        if got != size or checksum(content) != entry.payload_sum:
            raise DiskFailed(f"the journal is damaged at {entry.where}; the daemon stops")
        return content


def _is_damage(error: OSError) -> bool:
    """A medium error of a read is damage (False); any other error is not expected here."""
    if error.errno == errno.EIO:
        return False
    raise error
