"""One disk: the facade that a daemon's shell and core use. Everything is called from the loop's thread.

Appends are write()s into the journal; syncs and checkpoints end in callbacks that run inside `on_ready`, never inside
the call that asked for them. The shell watches `fileno()` and calls `on_ready()`; a program without a loop calls
`wait()`. `DiskFailed` (a SystemExit) from any method means that the disk can no longer be trusted.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from daemon.core.record import RECORD, Entry, RecordKind
from daemon.core.saved import DEVICE_KEY, Base, DeviceFields, GroupFields, SavedGroup
from daemon.storage import identity, recovery
from daemon.storage.backend import Backend, Source
from daemon.storage.blocks import BlockReader, matches
from daemon.storage.checkpoint import Checkpoint, Phase
from daemon.storage.copying import Copied, Copying
from daemon.storage.data_file import DataFile
from daemon.storage.head import Head, Mark, leave_clean_mark, take_clean_mark
from daemon.storage.index import Index
from daemon.storage.journal import START, Journal, prewrite_all
from daemon.storage.limits import (
    CHECKPOINT_BEGIN,
    FRAME_BODY_MAX,
    FRAME_RECORDS_MAX,
    HURRY,
    HURRY_AT,
    IDLE_SLICE,
    JOURNAL_MAX,
    JOURNAL_MIN,
    MERGED_MAX,
    PACE,
    PREWRITTEN_AT_CREATION,
    RECORD_MAX,
)
from daemon.storage.listing import Listed, Listing
from daemon.storage.operations import Operations
from daemon.storage.overlay import stored_sum
from daemon.storage.reading import Answer, ColdRead, Reader
from daemon.storage.records import HEADER_SIZE, pack_entry, pack_note
from daemon.storage.space import Room, Space
from daemon.storage.syncers import DiskFailed
from daemon.storage.table import ObjectTable
from store.errors import ConfigError, Status
from store.ids import DeviceId, GroupId
from store.limits import BLOCK

Done = Callable[[], None]
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
        self._journal_file = backend.file("journal")
        journal = self._journal = Journal(self._journal_file, who.journal, who.journal_size, start)
        data = self._data = DataFile(backend.file("data"), backend.file("sums"))
        table = self._table = ObjectTable(index, data)
        blocks = self._blocks = BlockReader(journal, data)
        self._operations = Operations(table, blocks)
        self._checkpoint = Checkpoint(table, self._operations, blocks, journal, data, index)
        self._listing = Listing(table, index)
        self._reader = Reader(table, blocks, journal, data)
        self._copying = Copying(table, blocks, data, self._listing)
        self._space = Space(backend, journal, data, who.capacity)
        self._syncer = backend.syncer(self._journal_file)
        self._waiting: list[Done] = []  # for a sync that has not begun
        self._covered: list[Done] = []  # by the sync in flight
        self._syncing = False
        self._jobs: deque[tuple[Done, Done]] = deque()  # for the background thread, with what follows; [0] runs
        self._fields: dict[int, bytes] = {}
        self._unsaved: set[int] = set()  # keys whose newest fields are not in the index
        self._checkpointed = 0  # nothing before this position is needed by the data file
        self._released = 0  # nor by the core
        # Records that stand before what could be trimmed, by position: applied after the last freeze, after the one
        # before it (until that is in the data file), and not carried for want of room.
        self._stragglers: dict[int, Entry] = {}
        self._old_stragglers: dict[int, Entry] = {}
        self._left_behind: dict[int, Entry] = {}
        self._trimming = False
        self._after_checkpoint: Done = _nothing
        self._paced_bytes = self._paced_records = self._records = 0
        self._failed = False
        self.starved = False  # a checkpoint waits for space
        self.checkpoints = 0
        self.syncs = 0

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
        bases, incomplete = recovery.roll_forward(scanned, self._table, self._operations)
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
            self._saved_groups(scanned, incomplete),
            same_boot=device.boot_id == self._backend.boot_id(),
            head_kept=expected is not None and scanned.passed,
            clean=clean is not None and clean == scanned.end,
        )

    def _redo(self, bases: dict[GroupId, Base]) -> None:
        self._checkpoint.freeze()
        self._checkpoint.redo(bases)
        while not self._checkpoint.work(1 << 30):
            pass
        self._commit_checkpoint()
        while self._jobs:
            self.wait()

    def _saved_groups(self, scanned: recovery.Scanned, incomplete: Sequence[GroupId]) -> dict[GroupId, SavedGroup]:
        groups = {}
        for key in sorted({*scanned.fields, *scanned.groups, *scanned.bases} - {DEVICE_KEY}):
            group = GroupId(key)
            fields = GroupFields()
            if key in scanned.fields:
                fields = msgspec.msgpack.decode(scanned.fields[key], type=GroupFields)
            if group in incomplete:
                fields = msgspec.structs.replace(fields, whole=False)
            shelf = self._table.shelf(key)
            base = Base(shelf.base_n, shelf.base_epoch, self._index.tables(key))
            log = scanned.groups.get(key)
            tail = [] if log is None else log.run_from(base.n + 1, base.epoch)
            groups[group] = SavedGroup(fields, base, tail)
        return groups

    def close(self) -> None:
        """A clean stop: everything synced, and said so. Not to be called after DiskFailed."""
        while self._syncing or self._jobs:
            self.wait()
        if not self._failed:
            self._journal_file.sync()
            leave_clean_mark(self._backend, self._journal.mark())
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files without a word, as a crash would."""
        self._syncer.close()
        self._index.close()
        self._data.close()
        self._journal_file.close()
        if self._journal.head is not None:
            self._journal.head.close()
        self._backend.close()

    # Journal
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
            elif journal.used + RECORD_MAX + journal.size // 32 > journal.size:
                self._left_behind[old] = entry
            else:
                record = self.load_record(entry)
                entry.where = self._write_frame([b"", record], len(record))
                self._table.move(entry.group, entry.name, old, entry.where, len(record))
                for places in (self._stragglers, self._old_stragglers, self._left_behind):
                    places.pop(old, None)

    def _write_frame(self, views: list[Source], size: int) -> int:
        """Append one frame; returns the position of its first record."""
        journal = self._journal
        where = journal.reserve(size)
        if where + size > journal.boundary:
            self._finish_jobs()
        journal.write(views, size)
        self._records += len(views) - 1
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

    def cut(self, group: GroupId, n: int) -> None:
        """The group's records from position n on are void."""
        self._left_behind = {
            where: entry for where, entry in self._left_behind.items() if entry.group != group or entry.n < n
        }
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
        self._waiting.append(on_done)
        if not self._syncing:
            self._submit()

    def _submit(self) -> None:
        self._covered, self._waiting = self._waiting, []
        self._syncing = True
        self._syncer.submit()

    # Completions
    def fileno(self) -> int:
        """Readable when `on_ready` has something to do."""
        return self._backend.fileno()

    def on_ready(self) -> None:
        """Take up what has ended since and run its callbacks."""
        self._backend.settle()
        try:
            synced = self._syncing and self._syncer.finished()
            job_ended = bool(self._jobs) and self._backend.job_finished()
        except DiskFailed:
            self._failed = True
            raise
        if synced:
            self.syncs += 1
            covered, self._covered, self._syncing = self._covered, [], False
            if self._waiting:
                self._submit()
            for on_done in covered:
                on_done()
        if job_ended:
            _, then = self._jobs.popleft()
            if self._jobs:
                self._backend.start(self._jobs[0][0])
            then()

    def wait(self) -> None:
        """Block until something has ended, and take it up; for programs without a loop. Only while `pending`."""
        self._backend.wait()
        self.on_ready()

    @property
    def pending(self) -> bool:
        """Whether a sync or a background job is under way."""
        return self._syncing or bool(self._jobs)

    def _start_job(self, job: Done, then: Done) -> None:
        self._jobs.append((job, then))
        if len(self._jobs) == 1:
            self._backend.start(job)

    def _finish_jobs(self) -> None:
        """Appends have caught up with the zeros being written ahead of them: wait for those."""
        while self._jobs:
            self.wait()

    # Checkpoints
    def freeze(self) -> None:
        """Objects protocol: the checkpoint that begins holds what is applied now."""
        self._checkpoint.freeze()
        self._old_stragglers, self._stragglers = self._stragglers, {}

    def checkpoint(self, bases: dict[GroupId, Base], on_done: Done) -> None:
        """Make the frozen state the base of these groups; other groups keep theirs."""
        self._after_checkpoint = on_done
        self._checkpoint.announce(bases)
        self.sync(self._checkpoint.start)

    def pace(self) -> None:
        """After each batch: apply old blocks in proportion to what was appended since the last call."""
        records, size = self._records - self._paced_records, self._journal.appended - self._paced_bytes
        self._paced_records, self._paced_bytes = self._records, self._journal.appended
        if self._checkpoint.phase is Phase.APPLYING:
            units = int((records + size // BLOCK) * PACE) + 1
            if self._journal.used > self._journal.size * HURRY_AT:
                units *= HURRY
            self._work(units)
        prepare = self._journal.prepare() if not self._jobs else None
        if prepare is not None:
            begin, end = prepare
            self._start_job(lambda: self._journal.prewrite(begin, end), lambda: self._journal.prepared(end))

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
        self._start_job(job, self._checkpoint_done)

    def _checkpoint_done(self) -> None:
        self._checkpointed = min(self._checkpoint.mark.position, self._checkpoint.held_at)
        self._old_stragglers.clear()
        self._checkpoint.finish()
        shelf = self._table.shelf
        self._left_behind = {
            where: entry for where, entry in self._left_behind.items() if entry.n > shelf(entry.group).base_n
        }
        self._space.refresh()
        self.checkpoints += 1
        on_done, self._after_checkpoint = self._after_checkpoint, _nothing
        on_done()
        self._trim()

    def release(self, before: int) -> None:
        """The core needs no record before this position: carried ones are synced in their new place."""
        self._released = max(self._released, before)
        self._trim()

    def _trim(self) -> None:
        """Give the ring back what neither data file nor core needs, once the index says where to begin instead."""
        held = (*self._stragglers, *self._old_stragglers, *self._left_behind)
        target = min(self._released, self._checkpointed, *held)
        mark = self._journal.mark_before(target)
        if self._trimming or mark.position <= self._journal.tail or mark.position > target:
            return
        self._trimming = True
        self._start_job(lambda: self._index.commit_scan_start(mark), lambda: self._trimmed(mark))

    def _trimmed(self, mark: Mark) -> None:
        self._trimming = False
        self._journal.trim(mark)
        self._trim()

    # Room
    def pressure(self) -> Pressure:
        journal = self._journal
        fill = journal.used / journal.size
        since = journal.position - max(self._checkpointed, journal.tail)
        due = self._checkpoint.phase is Phase.IDLE and since > journal.size * CHECKPOINT_BEGIN
        carry = self._checkpointed if fill > CHECKPOINT_BEGIN and self._checkpointed > journal.tail else 0
        return Pressure(fill, due, carry)

    @property
    def tail(self) -> int:
        """Records from this position on can be loaded. It moves in steps, ahead of what is overwritten."""
        journal = self._journal
        step = journal.size // 16
        return min(journal.tail, max(0, ((journal.position - journal.size) // step + 2) * step))

    @property
    def dirty(self) -> bool:
        """Whether a checkpoint would find something to do: an idle daemon starts one after a while."""
        return bool(self._table.dirty) and self._checkpoint.phase is Phase.IDLE

    def admit(self, op: int, size: int) -> Status:
        """Whether a client's mutation may be taken: OK, BUSY (the ring is full for now) or NO_SPACE."""
        return self._space.admit(op, size)

    def room(self) -> Room:
        return self._space.room()

    # Objects: the core's seam (daemon/core/objects.py)
    def apply(self, entry: Entry) -> tuple[Status, int]:
        outcome = self._operations.apply(entry)
        if entry.where < self._checkpoint.mark.position:
            self._stragglers[entry.where] = entry
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


def read_identity(backend: Backend, cluster: bytes | None) -> identity.Identity:
    """Whose disk this is. ConfigError when that is not known, or not the cluster's."""
    content = backend.load(identity.NAME)
    if content is None:
        raise ConfigError("no disk here: the id file 'device' is missing; restore it or make a new disk")
    who = identity.decode(content, "this disk")
    if cluster is not None and who.cluster != cluster:
        raise ConfigError(
            f"this disk belongs to cluster {who.cluster.hex()}, not {cluster.hex()}; use another directory"
        )
    return who


def make(backend: Backend, *, cluster: bytes, device: DeviceId, journal_size: int, capacity: int) -> None:
    """`Disk.create` for any ring size; tests use small ones. The id file comes last: half a disk is none."""
    backend.lock()
    if backend.load(identity.NAME) is not None:
        raise ConfigError("there is a disk here already; use an empty directory")
    journal = backend.file("journal")
    prewrite_all(journal, min(journal_size, PREWRITTEN_AT_CREATION))
    journal.close()
    Index(backend).close()
    who = identity.Identity(cluster, device, backend.fresh_id(), journal_size, capacity)
    backend.store(identity.NAME, identity.encode(who))
    backend.close()


__all__: Final = ["Disk", "DiskFailed", "Opened", "Pressure", "make", "read_identity"]
