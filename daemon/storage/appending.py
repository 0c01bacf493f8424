"""Writing entries into the journal and reading them back whole."""

from daemon.core.record import RECORD, Entry
from daemon.storage.backend import Source
from daemon.storage.background import Background
from daemon.storage.blocks import matches
from daemon.storage.journal import Journal
from daemon.storage.limits import CARRY_RESERVE, FRAME_BODY_MAX, FRAME_RECORDS_MAX
from daemon.storage.overlay import stored_sum
from daemon.storage.records import HEADER_SIZE, pack_entry
from daemon.storage.retention import Retention
from daemon.storage.syncers import DiskFailed
from daemon.storage.table import ObjectTable


class Appender:
    """One pwritev for a batch whose records are packed and new; the other cases go record by record."""

    def __init__(self, journal: Journal, table: ObjectTable, retention: Retention, background: Background) -> None:
        self._journal, self._table, self._retention, self._background = journal, table, retention, background
        self.records = 0  # appended since the start

    def append(self, entries: list[Entry]) -> None:
        """write() the records now and set each `where`. An entry that has one already is carried to a new place.

        What is carried stays where it is while the ring has no room for a second copy; it holds up the trimming then.
        """
        views: list[Source] = [b""]
        for entry in entries:
            body = entry.body
            if entry.where >= 0 or body is None:
                self._append_slowly(entries)
                return
            views.append(body)
        size = sum(map(len, views))
        if not entries:
            return
        if size <= FRAME_BODY_MAX and len(views) <= FRAME_RECORDS_MAX:
            where = self._write_frame(views, size)
            for index, entry in enumerate(entries, 1):
                entry.where = where
                where += len(views[index])
        else:
            self._append_slowly(entries)

    def _append_slowly(self, entries: list[Entry]) -> None:
        """One frame for each record that is not packed, is carried, or belongs to a batch too large for one frame."""
        journal = self._journal
        for entry in entries:
            old = entry.where
            if old < 0:
                record = entry.body if entry.body is not None else pack_entry(entry, entry.payload or b"")
                entry.where = self._write_frame([b"", record], len(record))
                continue
            record = self.load_record(entry)
            if journal.used + 2 * len(record) + journal.size // CARRY_RESERVE > journal.size:
                self._retention.leave_behind(entry)
            else:
                entry.where = self._write_frame([b"", record], len(record))
                self._table.move(entry.group, entry.name, old, entry.where, len(record))
                self._retention.carried(old)

    def _write_frame(self, views: list[Source], size: int) -> int:
        """Append one frame; returns the position of its first record."""
        journal = self._journal
        where = journal.reserve(size)
        if where + size > journal.boundary:
            self._background.finish_jobs()
        journal.write(views, size)
        self.records += len(views) - 1
        return where

    def load_record(self, entry: Entry) -> bytes:
        """The whole record from the journal. LookupError when it was overwritten; DiskFailed when it is damaged."""
        journal = self._journal
        if not journal.holds(entry.where):
            raise LookupError(f"record {entry.n} of group {entry.group} is no longer in the journal")
        header = bytearray(HEADER_SIZE)
        journal.read(header, entry.where)
        fields = RECORD.unpack(header)
        if (
            fields[4] == entry.group
            and fields[8] == entry.n
            and fields[7] == entry.epoch
            and fields[0] <= FRAME_BODY_MAX
        ):
            record = bytearray(fields[0])
            got = journal.read(record, entry.where)
            payload = memoryview(record)[HEADER_SIZE + fields[5] :]
            if got == len(record) and (not payload or matches(payload, stored_sum(fields[17]))):
                return bytes(record)
        raise DiskFailed(f"the journal is damaged at {entry.where}; the daemon stops")
