"""What a start makes of the journal: saved fields, bases, tails; and an interrupted checkpoint is finished.

The scan begins where the index says and goes to the first frame that is not whole. Records of a group form a map
n -> record: a later record replaces one of the same n, CUT(n) removes all from n on.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from daemon.core.record import RECORD, Entry, RecordKind
from daemon.core.saved import DEVICE_KEY, Base, GroupFields, SavedGroup
from daemon.storage.head import Mark
from daemon.storage.index import BaseRow, FieldsRow, Index
from daemon.storage.journal import Journal, payload_position
from daemon.storage.operations import Operations
from daemon.storage.overlay import whole_block
from daemon.storage.records import unpack_entry, unpack_note
from daemon.storage.redo import Announced, RedoLog
from daemon.storage.table import ObjectTable
from store.ids import GroupId
from store.limits import BLOCK
from store.wire.header import Op

NO_EFFECT: Final = (Op.FLUSH, Op.FENCE)


class GroupLog:
    """Records of one group, as the scan finds them."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def cut(self, n: int) -> None:
        for position in [position for position in self.entries if position >= n]:
            del self.entries[position]

    def run_from(self, n: int, epoch_before: int) -> list[Entry]:
        """The contiguous records from n on, if they continue a log whose record n - 1 has that epoch."""
        entries = self.entries
        if n in entries and entries[n].prev_epoch != epoch_before:
            return []
        run = []
        while n in entries:
            run.append(entries[n])
            n += 1
        return run


class Scanned(NamedTuple):
    groups: dict[int, GroupLog]
    fields: dict[int, bytes]  # by key: what was saved last, index included
    bases: dict[int, BaseRow]
    passed: bool  # the scan came to the end that was asked about, and the same bytes stand there
    end: Mark


def scan(journal: Journal, index: Index, expected: Mark | None) -> Scanned:
    """Read the journal from its present end, the start of the scan, to its true end. Raises ConfigError."""
    fields = {row.key: row.content for row in index.fields()}
    bases = {row.group: row for row in index.bases()}
    groups: dict[int, GroupLog] = {}
    passed = expected == journal.mark()
    for frame in journal.frames():
        at, size = 0, len(frame.body)
        while at < size:
            _take(frame.body, at, frame.body_position + at, groups, fields)
            at += RECORD.unpack_from(frame.body, at)[0]
        passed = passed or frame.end == expected
    return Scanned(groups, fields, bases, passed, journal.mark())


def _take(
    body: memoryview,
    at: int,
    where: int,
    groups: dict[int, GroupLog],
    fields: dict[int, bytes],
) -> None:
    record = unpack_note(body, at, where)
    log = groups.get(record.group)
    if log is None:
        log = groups[record.group] = GroupLog()
    start = at + payload_position(0, record.name)
    if record.kind == RecordKind.ENTRY:
        log.entries[record.n] = unpack_entry(body, at, where)
    elif record.kind == RecordKind.CUT:
        log.cut(record.n)
    elif record.kind == RecordKind.META:
        fields[record.group] = bytes(body[start : start + record.payload_size])


def roll_forward(
    scanned: Scanned, redo: RedoLog, table: ObjectTable, operations: Operations
) -> tuple[dict[GroupId, Base], list[GroupId]]:
    """Apply what a checkpoint had announced: the bases to finish, and groups of which the journal lacks a part."""
    bases: dict[GroupId, Base] = {}
    incomplete: list[GroupId] = []
    for number, row in scanned.bases.items():
        table.shelf(number).since = row.since
        table.shelf(number).rebase(row.n, row.epoch)
    for number, announced in sorted(redo.announced().items()):
        group, shelf = GroupId(number), table.shelf(number)
        if announced.since < shelf.since or announced.base.n <= shelf.base_n:
            continue  # it was completed
        redo.resume(announced.which)
        log = scanned.groups.get(number)
        if log is not None and _replay(log, announced, group, table, operations):
            bases[group] = announced.base
        else:
            incomplete.append(group)
    return bases, incomplete


def _replay(log: GroupLog, announced: Announced, group: GroupId, table: ObjectTable, operations: Operations) -> bool:
    """Bring the group from the base in the index to the announced one; False if records are missing."""
    shelf, base = table.shelf(group), announced.base
    for n in range(shelf.base_n + 1, base.n + 1):
        entry = log.entries.get(n)
        if entry is None:
            return False
        if entry.op not in NO_EFFECT and not announced.refuses(n):
            operations.apply(entry)
        for image in announced.images.get(n, ()):
            if image.epoch == entry.epoch:
                obj = table.find(group, image.name)
                if obj.exists and obj.generation == table.generation:
                    position = payload_position(image.where, image.name)
                    obj.over[image.offset // BLOCK] = whole_block(position, image.payload_sum)
    shelf.note_reached(base.n, base.epoch)
    return True


def fields_rows(fields: dict[int, bytes], keys: set[int]) -> list[FieldsRow]:
    return [FieldsRow(key, fields[key]) for key in sorted(keys)]


def saved_groups(
    scanned: Scanned, incomplete: Sequence[GroupId], table: ObjectTable, index: Index
) -> dict[GroupId, SavedGroup]:
    """What the core starts from: saved fields, bases, and the records behind them."""
    groups = {}
    for key in sorted({*scanned.fields, *scanned.groups, *scanned.bases} - {DEVICE_KEY}):
        group = GroupId(key)
        fields = GroupFields()
        if key in scanned.fields:
            fields = msgspec.msgpack.decode(scanned.fields[key], type=GroupFields)
        if group in incomplete:
            fields = msgspec.structs.replace(fields, whole=False)
        shelf = table.shelf(key)
        base = Base(shelf.base_n, shelf.base_epoch, index.tables(key))
        log = scanned.groups.get(key)
        tail = [] if log is None else log.run_from(base.n + 1, base.epoch)
        groups[group] = SavedGroup(fields, base, tail)
    return groups
