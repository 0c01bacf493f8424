"""One disk: the facade that a daemon's shell and core use. Everything is called from the loop's thread.

Appends are write()s into the journal; syncs and checkpoints end in callbacks that run inside `on_ready`, never inside
the call that asked for them. The shell watches `fileno()` and calls `on_ready()`; a program without a loop calls
`wait()`. `DiskFailed` (a SystemExit) from any method means that the disk can no longer be trusted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from daemon.core.record import Entry, RecordKind
from daemon.core.saved import DEVICE_KEY, Base, DeviceFields, GroupFields, SavedGroup
from daemon.storage import identity, recovery
from daemon.storage.appending import Appender
from daemon.storage.backend import Backend
from daemon.storage.background import Background, Done
from daemon.storage.blocks import BlockReader
from daemon.storage.checkpoint import Checkpoint, Phase
from daemon.storage.copying import Copied, Copying
from daemon.storage.creation import make, read_identity
from daemon.storage.data_file import DataFile
from daemon.storage.head import Head, Mark, leave_clean_mark, take_clean_mark
from daemon.storage.index import Index
from daemon.storage.journal import START, Journal
from daemon.storage.limits import (
    CHECKPOINT_BEGIN,
    HURRY,
    HURRY_AT,
    IDLE_SLICE,
    JOURNAL_MAX,
    JOURNAL_MIN,
    MERGED_MAX,
    PACE,
)
from daemon.storage.listing import Listed, Listing
from daemon.storage.operations import Operations
from daemon.storage.reading import Answer, ColdRead, Reader
from daemon.storage.records import pack_note
from daemon.storage.redo import ASIDE, RedoLog
from daemon.storage.retention import Retention
from daemon.storage.space import Room, Space
from daemon.storage.table import ObjectTable
from store.errors import ConfigError, Status
from store.ids import DeviceId, GroupId
from store.limits import BLOCK

Rows = list[Listed]
Extents = list[tuple[int, int, bool]]


class SavedDevice(msgspec.Struct, frozen=True, array_like=True):
    """What stands under the device's key: the fields, and the boot in which they were saved."""

    boot_id: str
    fields: DeviceFields


class Pressure(NamedTuple):
    """What the shell looks at after each batch."""

    fill: float  # share of the ring that is in use
    checkpoint: bool  # ask the core for a checkpoint now
    carry_before: int  # the core should carry its records before this position, then Release it; 0 = no need


class Opened(NamedTuple):
    """A disk, and all that its last process left (R3)."""

    disk: "Disk"
    device: DeviceId
    fields: DeviceFields
    groups: dict[GroupId, SavedGroup]
    same_boot: bool  # the device fields were saved in the running boot
    head_kept: bool  # the journal holds everything that the last process appended
    clean: bool  # the last process synced everything and said so

    @property
    def lossless(self) -> bool:
        """No tail can be missing; whether a claim is open is the core's to judge."""
        return self.clean or (self.same_boot and self.head_kept)


class Disk:
    """See the module. `create` once, then `open`."""

    def __init__(self, backend: Backend, who: identity.Identity, index: Index, start: Mark) -> None:
        self._backend, self.identity, self._index = backend, who, index
        self.usage = index.usage
        self._journal_file = backend.file("journal")
        journal = self._journal = Journal(self._journal_file, who.journal, who.journal_size, start)
        data = self._data = DataFile(backend.file("data"), backend.file("sums"))
        table = self._table = ObjectTable(index, data)
        blocks = self._blocks = BlockReader(journal, data)
        self._operations = Operations(table, blocks)
        redo = self._redo_log = RedoLog(backend, who.journal)
        journal.join(ASIDE, redo.read)
        self._checkpoint = Checkpoint(table, self._operations, blocks, journal, data, index, redo)
        self._listing = Listing(table, index)
        self._reader = Reader(table, blocks, journal, data)
        self._copying = Copying(table, blocks, data, self._listing)
        self._space = Space(backend, journal, data, who.capacity)
        self._background = Background(backend, backend.syncer(self._journal_file))
        self._retention = Retention(journal, index, table, self._background)
        self._appender = Appender(journal, table, self._retention, self._background)
        self._fields: dict[int, bytes] = {}
        self._unsaved: set[int] = set()  # keys whose newest fields are not in the index
        self._after_checkpoint: Done = _nothing
        self._paced_bytes = self._paced_records = 0
        self.starved = False  # a checkpoint waits for space
        self.checkpoints = 0

    # Creation and opening
    @classmethod
    def create(
        cls, backend: Backend, *, cluster: bytes, device: DeviceId, journal_size: int, capacity: int = 0
    ) -> None:
        """Make an empty disk in the backend's directory. ConfigError when there is one, or sizes are out of range."""
        if not JOURNAL_MIN <= journal_size <= JOURNAL_MAX:
            raise ConfigError(f"a journal has {JOURNAL_MIN >> 20} to {JOURNAL_MAX >> 20} MiB")
        make(backend, cluster=cluster, device=device, journal_size=journal_size, capacity=capacity)

    @classmethod
    def open(cls, backend: Backend, *, cluster: bytes | None = None) -> Opened:
        """Take the disk into use: find the journal's end, finish an interrupted checkpoint, say what is there.

        ConfigError when the directory holds no disk, a damaged one, one of another cluster, or is in use.
        """
        backend.lock()
        who = read_identity(backend, cluster)
        clean = take_clean_mark(backend)
        index = Index(backend)
        disk = cls(backend, who, index, index.scan_start() or START)
        return disk._recover(clean)

    def _recover(self, clean: Mark | None) -> Opened:
        head = Head(self._backend.head(self.identity.journal.hex()))
        expected = head.load()
        scanned = recovery.scan(self._journal, self._index, expected)
        for slot in self._index.slots():
            self._data.slots.take(slot)
        if clean != scanned.end:
            self._data.punch_slots(self._data.slots.unused(self._data.slots_in_file()))
        self._fields = scanned.fields
        self._unsaved = set(scanned.fields)
        bases, incomplete = recovery.roll_forward(scanned, self._redo_log, self._table, self._operations)
        self._journal.head = head
        self._journal.append(pack_note(RecordKind.START, 0, 0, 0, self._backend.fresh_id()))
        if bases:
            self._redo(bases)
        device = SavedDevice("", DeviceFields())
        if DEVICE_KEY in self._fields:
            device = msgspec.msgpack.decode(self._fields[DEVICE_KEY], type=SavedDevice)
        return Opened(
            self,
            self.identity.device,
            device.fields,
            recovery.saved_groups(scanned, incomplete, self._table, self._index),
            same_boot=device.boot_id == self._backend.boot_id(),
            head_kept=expected is not None and scanned.passed,
            clean=clean is not None and clean == scanned.end and expected in (None, clean),
        )

    def _redo(self, bases: dict[GroupId, Base]) -> None:
        self.freeze()
        self._checkpoint.redo(bases)
        while not self._checkpoint.work(1 << 30):
            pass
        self._commit_checkpoint()
        self._background.finish()

    def close(self) -> None:
        """A clean stop: everything synced, and said so; after DiskFailed only the files are let go."""
        if not self._background.failed:
            self._background.finish()
            self._journal_file.sync()
            leave_clean_mark(self._backend, self._journal.mark())
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files without a word, as a crash would."""
        self._background.close()
        self._index.close()
        self._data.close()
        self._redo_log.close()
        self._journal_file.close()
        if self._journal.head is not None:
            self._journal.head.close()
        self._backend.close()

    # Journal
    def append(self, entries: list[Entry]) -> None:
        """write() the records now and set each `where`. An entry that has one already is carried to a new place."""
        self._appender.append(entries)

    def load_record(self, entry: Entry) -> bytes:
        """The whole record from the journal. LookupError when it was overwritten; DiskFailed when it is damaged."""
        return self._appender.load_record(entry)

    def cut(self, group: GroupId, n: int) -> None:
        """The group's records from position n on are void."""
        self._retention.cut(group, n)
        self._journal.append(pack_note(RecordKind.CUT, group, n, 0, b""))

    def save(self, rows: Sequence[tuple[int, DeviceFields | GroupFields]], on_done: Done) -> None:
        """META records for all rows, synced; then `on_done`."""
        for key, fields in rows:
            content: object = fields
            if isinstance(fields, DeviceFields):
                content = SavedDevice(self._backend.boot_id(), fields)
            self._fields[key] = encoded = msgspec.msgpack.encode(content)
            self._unsaved.add(key)
            self._journal.append(pack_note(RecordKind.META, key, 0, 0, encoded))
        self.sync(on_done)

    def sync(self, on_done: Done) -> None:
        """Make everything appended so far durable, then `on_done`. Group commit: one sync for all that wait."""
        self._background.sync(on_done)

    # Completions
    def fileno(self) -> int:
        """Readable when `on_ready` has something to do."""
        return self._backend.fileno()

    def on_ready(self) -> None:
        """Take up what has ended since and run its callbacks."""
        self._background.collect()

    def wait(self) -> None:
        """Block until something has ended, and take it up; for programs without a loop. Only while `pending`."""
        self._background.wait()

    @property
    def pending(self) -> bool:
        """Whether a sync or a background job is under way."""
        return self._background.pending

    @property
    def syncs(self) -> int:
        return self._background.syncs

    # Checkpoints
    def freeze(self) -> None:
        """Objects protocol: the checkpoint that begins holds what is applied now."""
        self._checkpoint.freeze()
        self._retention.frozen(self._checkpoint.mark.position)

    def checkpoint(self, bases: dict[GroupId, Base], on_done: Done) -> None:
        """Make the frozen state the base of these groups; other groups keep theirs."""
        self._after_checkpoint = on_done
        self.sync(lambda: self._announce(bases))

    def _announce(self, bases: dict[GroupId, Base]) -> None:
        """The journal is stable up to the bases. What is announced must be so, too, before anything is overwritten."""
        self._checkpoint.announce(bases)
        self._background.start(self._redo_log.sync, self._checkpoint.start)

    def pace(self) -> None:
        """After each batch: apply old blocks in proportion to what was appended since the last call."""
        appended, size = self._appender.records, self._journal.appended
        records, grown = appended - self._paced_records, size - self._paced_bytes
        self._paced_records, self._paced_bytes = appended, size
        if self._checkpoint.phase is Phase.APPLYING:
            units = int((records + grown // BLOCK) * PACE) + 1
            if self._journal.used > self._journal.size * HURRY_AT:
                units *= HURRY
            self._work(units)
        prepare = self._journal.prepare() if not self._background.busy else None
        if prepare is not None:
            begin, end = prepare
            self._background.start(lambda: self._journal.prewrite(begin, end), lambda: self._journal.prepared(end))

    @property
    def working(self) -> bool:
        """Whether `work` has something to do: then the shell calls it every few milliseconds while it is idle."""
        return self._checkpoint.phase is Phase.APPLYING

    def work(self) -> None:
        """A slice of the checkpoint under way, below a millisecond of this process."""
        if self._checkpoint.phase is Phase.APPLYING:
            self._work(IDLE_SLICE)

    def _work(self, units: int) -> None:
        try:
            done = self._checkpoint.work(units)
        except OSError:  # only of a full device: the journal still has everything
            self.starved = True
            return
        self.starved = False
        if done:
            self._commit_checkpoint()

    def _commit_checkpoint(self) -> None:
        keys, self._unsaved = self._unsaved, set()
        job = self._checkpoint.prepare_commit(recovery.fields_rows(self._fields, keys))
        self._background.start(job, self._checkpoint_done)

    def _checkpoint_done(self) -> None:
        position = min(self._checkpoint.mark.position, self._checkpoint.held_at)
        self._checkpoint.finish()
        self._space.refresh()
        self.checkpoints += 1
        on_done, self._after_checkpoint = self._after_checkpoint, _nothing
        self._retention.checkpoint_done(position)
        on_done()

    def release(self, before: int) -> None:
        """The core needs no record before this position: carried ones are synced in their new place."""
        self._retention.release(before)

    # Room
    def pressure(self) -> Pressure:
        journal = self._journal
        fill = journal.used / journal.size
        checkpointed = self._retention.checkpointed
        since = journal.position - max(checkpointed, journal.tail)
        behind = since > journal.size * CHECKPOINT_BEGIN or (fill > HURRY_AT and bool(self._table.dirty))
        due = self._checkpoint.phase is Phase.IDLE and behind
        carry = checkpointed if fill > CHECKPOINT_BEGIN and checkpointed > journal.tail else 0
        return Pressure(fill, due, carry)

    @property
    def tail(self) -> int:
        """Records from this position on can be loaded. It moves in steps, ahead of what is overwritten."""
        return self._retention.loadable_from()

    @property
    def dirty(self) -> bool:
        """Whether a checkpoint would find something to do: an idle daemon starts one after a while."""
        return bool(self._table.dirty) and self._checkpoint.phase is Phase.IDLE

    def admit(self, op: int, size: int) -> Status:
        """Whether a client's mutation may be taken: OK, BUSY (the ring is full for now) or NO_SPACE."""
        return self._space.admit(op, size)

    def may_take(self, size: int) -> bool:
        """Whether `size` bytes of records from a primary fit beside what the journal keeps for itself."""
        return self._space.may_take(size)

    def room(self) -> Room:
        return self._space.room()

    # Objects: the core's seam (daemon/core/objects.py)
    def apply(self, entry: Entry) -> tuple[Status, int]:
        outcome = self._operations.apply(entry)
        self._retention.applied(entry)
        if len(self._operations.merged) >= MERGED_MAX:
            self._checkpoint.spill()
        return outcome

    def rewind(self, group: GroupId) -> bytes | None:
        if self._checkpoint.phase is not Phase.IDLE or self._table.shelf(group).copied:
            return None
        self._table.drop(self._table.shelf(group))
        return self._index.tables(group)

    def copy_next(self, group: GroupId, cursor: bytes) -> Copied | None:
        return self._copying.next(group, cursor)

    def begin_copy(self, group: GroupId) -> None:
        if self._checkpoint.phase is Phase.IDLE:
            self._copying.give_back(group)
        self._copying.begin(group)

    def install(self, group: GroupId, piece: bytes) -> None:
        self._copying.install(group, piece)

    def end_copy(self, group: GroupId) -> None:
        self._copying.end(group)

    # Reads of the applied state
    def stat(self, group: GroupId, name: bytes) -> Answer:
        """Status, version token, size."""
        obj = self._table.find(group, name)
        if obj.exists:
            return (Status.OK, obj.version, obj.size)
        return (Status.DAMAGED if obj.damaged else Status.NOT_FOUND, 0, 0)

    def list(self, group: GroupId, prefix: bytes, after: bytes, limit: int) -> Rows:
        """Objects in name order behind `after`; raises index.DamagedRow."""
        return self._listing.rows(group, prefix, after, limit)

    def extents(self, group: GroupId, name: bytes, offset: int, length: int) -> Extents:
        """(offset, length, has data) of the range, cut at the object's end; holes and data alternate."""
        return self._reader.extents(group, name, offset, length)

    def read(self, group: GroupId, name: bytes, offset: int, views: Sequence[memoryview]) -> Answer | None:
        """Fill the views from the object's `offset` on; None when that would wait for the medium: `cold_read`."""
        return self._reader.read(group, name, offset, views)

    def cold_read(self, group: GroupId, name: bytes, offset: int, views: Sequence[memoryview]) -> ColdRead:
        """A read for a thread: `run()` there, then `answer()` here, again while that gives None."""
        return ColdRead(self._reader, self._table, group, name, offset, views)


def _nothing() -> None:
    """Nobody waits for the checkpoint that a start finishes."""
