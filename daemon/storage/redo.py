"""What a start needs to finish a checkpoint that was cut short: two files used in turn. FORMAT.md, section Checkpoint.

From one freeze to the next, blocks that were merged in memory go to one file as IMAGE records, and the BASE records of
the freeze end it; meanwhile the next interval uses the other. They are frames as in the journal, from position 0, so a
scan takes a file's newest interval and nothing older. They are not in the ring because their number has nothing to do
with what was appended: a hundred bytes written into a block are an image of four thousand.
"""

from typing import Final, NamedTuple

import msgspec

from daemon.core.record import RECORD, RecordKind
from daemon.core.saved import Base
from daemon.storage.backend import Backend, View
from daemon.storage.head import Mark
from daemon.storage.journal import START, Journal, payload_position
from daemon.storage.limits import REDO_KEPT, TABLES_PART
from daemon.storage.records import BaseNote, Record, pack_note, unpack_note

ASIDE: Final = 1 << 62  # positions from here on stand in the redo files, not in the ring
SECOND: Final = 1 << 61  # ... in the second of them
NAMES: Final = ("redo.0", "redo.1")
ENDLESS: Final = 1 << 60  # these files never wrap


class Announced(NamedTuple):
    """A checkpoint of one group that was about to be written."""

    base: Base
    first: int  # position of the first bit of `refused`
    refused: bytes
    since: int
    which: int  # the file it stands in
    images: dict[int, list[Record]]  # by the position of the record they stand behind

    def refuses(self, n: int) -> bool:
        """Whether record n had no effect when it was applied."""
        bit = n - self.first
        return bit >> 3 < len(self.refused) and bool(self.refused[bit >> 3] >> (bit & 7) & 1)


class RedoLog:
    """The two files. `turn` to the other at a freeze; then the older interval is announced and synced."""

    def __init__(self, backend: Backend, identity: bytes) -> None:
        self._backend, self._identity = backend, identity
        self._files = tuple(backend.file(name) for name in NAMES)
        self._logs: list[Journal | None] = [None, None]
        self._live = 0

    def _log(self, which: int) -> Journal:
        """The interval's log; begins the file anew when it is the interval's first record."""
        log = self._logs[which]
        if log is None:
            log = self._logs[which] = Journal(self._files[which], self._identity, ENDLESS, START)
            log.append(pack_note(RecordKind.START, 0, 0, 0, self._backend.fresh_id()))
        return log

    def add_image(self, record: bytes) -> int:
        """Append an IMAGE of the present interval; returns its position."""
        return ASIDE + self._live * SECOND + self._log(self._live).append(record)

    def turn(self) -> None:
        """A freeze: what comes now belongs to the next interval."""
        self._live = 1 - self._live
        self._logs[self._live] = None

    def announce(self, group: int, base: Base, first: int, refused: bytes, since: Mark) -> None:
        """The BASE of one group of the interval that ended with the last `turn`."""
        log = self._log(1 - self._live)
        tables = base.tables
        parts = max(1, -(-len(tables) // TABLES_PART))
        for part in range(parts):
            piece = tables[part * TABLES_PART : (part + 1) * TABLES_PART]
            note = BaseNote(piece, part, parts, first, refused, since.position)
            log.append(pack_note(RecordKind.BASE, group, base.n, base.epoch, msgspec.msgpack.encode(note)))

    def sync(self) -> None:
        """Make the announced interval durable; in any thread."""
        self._files[1 - self._live].sync()

    def finished(self) -> None:
        """The checkpoint is complete: its file is of no use, and keeps little space."""
        which = 1 - self._live
        file = self._files[which]
        if self._logs[which] is not None and file.size() > REDO_KEPT:
            file.punch(REDO_KEPT, file.size() - REDO_KEPT)
        self._logs[which] = None

    def read(self, view: View, position: int) -> int:
        """Bytes of an image; blocking, but written lately and so in memory."""
        position -= ASIDE
        return self._files[position // SECOND].read(view, position % SECOND)

    def announced(self) -> dict[int, Announced]:
        """The newest complete announcement of each group, of checkpoints that were completed as well."""
        found: dict[int, Announced] = {}
        for which in range(2):
            log = Journal(self._files[which], self._identity, ENDLESS, START)
            for group, announced in _scan(which, log).items():
                other = found.get(group)
                if other is None or (announced.since, announced.base.n) > (other.since, other.base.n):
                    found[group] = announced
        return found

    def resume(self, which: int) -> None:
        """The interval in this file is not done with: it must stay until a checkpoint has been finished."""
        self._live = which
        log = self._logs[which] = Journal(self._files[which], self._identity, ENDLESS, START)
        for _ in log.frames():
            pass

    def close(self) -> None:
        for file in self._files:
            file.close()


def _scan(which: int, log: Journal) -> dict[int, Announced]:
    images: dict[int, dict[int, list[Record]]] = {}
    parts: dict[int, list[tuple[Record, BaseNote]]] = {}
    for frame in log.frames():
        at = 0
        while at < len(frame.body):
            where = ASIDE + which * SECOND + frame.body_position + at
            record = unpack_note(frame.body, at, where)
            if record.kind == RecordKind.IMAGE:
                images.setdefault(record.group, {}).setdefault(record.n, []).append(record)
            elif record.kind == RecordKind.BASE:
                start = at + payload_position(0, record.name)
                note = msgspec.msgpack.decode(frame.body[start : start + record.payload_size], type=BaseNote)
                parts.setdefault(record.group, []).append((record, note))
            at += RECORD.unpack_from(frame.body, at)[0]
    return {
        group: _joined(which, pieces, images.get(group, {}))
        for group, pieces in parts.items()
        if len(pieces) == pieces[0][1].parts
    }


def _joined(which: int, pieces: list[tuple[Record, BaseNote]], images: dict[int, list[Record]]) -> Announced:
    record, note = pieces[0]
    tables = b"".join(piece.tables for _, piece in pieces)
    return Announced(Base(record.n, record.epoch, tables), note.first, note.refused, note.since, which, images)
