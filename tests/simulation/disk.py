"""A device's disk: a journal with unsynced tail, an index of checkpoints, objects as dicts. All groups share it."""

from __future__ import annotations

import random
from typing import NamedTuple

import msgspec

from daemon.core.record import Entry
from daemon.core.saved import DEVICE_KEY, Base, DeviceFields, GroupFields, SavedGroup
from store.errors import Status
from store.ids import GroupId
from store.placement.config import GroupConfig
from store.wire.header import Op

Held = tuple[int | None, int, int]  # value, epoch, n
Rows = dict[bytes, Held]
COUNTER = b"n"  # objects whose name begins so are counters: WRITE adds one and tells the sum as size


def copy_entry(entry: Entry, where: int) -> Entry:
    """The record as another device, or the next process, would decode it."""
    new = Entry()
    new.group, new.epoch, new.n, new.prev_epoch = entry.group, entry.epoch, entry.n, entry.prev_epoch
    new.flags, new.op = entry.flags, entry.op
    new.serial, new.sequence, new.floor = entry.serial, entry.sequence, entry.floor
    new.scope, new.generation, new.name = entry.scope, entry.generation, entry.name
    new.offset, new.size, new.payload, new.payload_sum = entry.offset, entry.size, entry.payload, entry.payload_sum
    new.where, new.body, new.reply = where, None, None
    return new


class Piece(NamedTuple):
    key: bytes
    data: bytes
    cursor: bytes


class Objects:
    """daemon.core.objects.Objects over dicts."""

    def __init__(self, disk: Disk, stubborn: bool) -> None:
        self._disk = disk
        self._stubborn = stubborn  # a store that cannot go back to its base
        self.applied: dict[int, Rows] = {group: dict(rows) for group, rows in disk.objects.items()}
        self.frozen: dict[int, Rows] = {}

    def apply(self, entry: Entry) -> tuple[Status, int]:
        return apply_to(self.applied.setdefault(entry.group, {}), entry)

    def freeze(self) -> None:
        self.frozen = {group: dict(rows) for group, rows in self.applied.items()}

    def rewind(self, group: GroupId) -> bytes | None:
        if self._stubborn:
            return None
        self.applied[group] = dict(self._disk.objects.get(group, {}))
        return self._disk.bases[group].tables if group in self._disk.bases else b""

    def copy_next(self, group: GroupId, cursor: bytes) -> Piece | None:
        rows = self.applied.get(group, {})
        key = min((key for key in rows if key > cursor), default=None)
        return None if key is None else Piece(key, msgspec.msgpack.encode((key, *rows[key])), key)

    def begin_copy(self, group: GroupId) -> None:
        """The copy replaces the base piece by piece: until it stands there is none."""
        self.applied[group] = {}
        self._disk.objects[group] = {}

    def install(self, group: GroupId, piece: bytes) -> None:
        key, value, epoch, n = msgspec.msgpack.decode(piece)
        self.applied[group][key] = self._disk.objects[group][key] = (value, epoch, n)

    def end_copy(self, group: GroupId) -> None:
        """Nothing to remove: the copy began empty."""


def apply_to(rows: Rows, entry: Entry) -> tuple[Status, int]:
    held = rows.get(entry.name)
    if held is not None and held[2] >= entry.n:
        return Status.OK, 0  # an inventory already brought a later copy
    if entry.op == Op.DELETE:
        return (Status.OK if rows.pop(entry.name, None) else Status.NOT_FOUND), 0
    if entry.name.startswith(COUNTER):
        value = (held[0] or 0 if held else 0) + 1
        rows[entry.name] = (value, entry.epoch, entry.n)
        return Status.OK, value
    rows[entry.name] = (entry.payload, entry.epoch, entry.n)
    return Status.OK, entry.size


class Cut(NamedTuple):
    group: int
    n: int


class Meta(NamedTuple):
    rows: list[tuple[int, DeviceFields | GroupFields]]


class Disk:
    """What survives a process is `ops`; what survives a power cut is the first `synced` of them and perhaps more."""

    def __init__(self) -> None:
        self.device = DeviceFields()
        self.fields: dict[int, GroupFields] = {}
        self.bases: dict[int, Base] = {}
        self.objects: dict[int, Rows] = {}
        self.ops: list[Entry | Cut | Meta] = []
        self.first = 0  # offset of ops[0] in the journal
        self.synced = 0

    @property
    def end(self) -> int:
        return self.first + len(self.ops)

    def append(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.where = self.end
            self.ops.append(copy_entry(entry, entry.where))

    def checkpoint(self, bases: dict[GroupId, Base], frozen: dict[int, Rows]) -> None:
        for group, base in bases.items():
            self.bases[group] = base
            self.objects[group] = frozen.get(group, {})

    def trim(self, before: int) -> None:
        """Forget the journal before this offset; saved fields there go to the index."""
        count = max(0, min(before - self.first, len(self.ops)))
        for op in self.ops[:count]:
            if isinstance(op, Meta):
                self._keep(op)
        del self.ops[:count]
        self.first += count
        self.synced = max(self.synced, self.first)

    def _keep(self, meta: Meta) -> None:
        for key, fields in meta.rows:
            if key == DEVICE_KEY:
                assert isinstance(fields, DeviceFields)
                self.device = fields
            else:
                assert isinstance(fields, GroupFields)
                self.fields[key] = fields

    def adopted(self, group: int) -> GroupConfig | None:
        """The newest configuration of the group that is stable here."""
        fields = self.fields.get(group)
        for op in self.ops[: self.synced - self.first]:
            if isinstance(op, Meta):
                fields = next((f for key, f in op.rows if key == group and isinstance(f, GroupFields)), fields)
        return fields.config if fields else None

    def power_cut(self, rng: random.Random) -> None:
        """Only a prefix of the unsynced operations reached the platter."""
        count = self.synced - self.first
        kept = count + rng.randint(0, len(self.ops) - count)
        del self.ops[kept:]
        self.synced = self.end

    def open(self) -> tuple[DeviceFields, dict[GroupId, SavedGroup]]:
        """Replay: the newest fields, and the run of records behind each base."""
        tails: dict[int, dict[int, Entry]] = {}
        for where, op in enumerate(self.ops, self.first):
            if isinstance(op, Meta):
                self._keep(op)
            elif isinstance(op, Cut):
                tail = tails.get(op.group, {})
                for n in [n for n in tail if n >= op.n]:
                    del tail[n]
            else:
                tails.setdefault(op.group, {})[op.n] = copy_entry(op, where)
        return self.device, {GroupId(group): self._saved(group, tails.get(group, {})) for group in self.fields}

    def _saved(self, group: int, held: dict[int, Entry]) -> SavedGroup:
        base = self.bases.get(group, Base(0, 0, b""))
        tail: list[Entry] = []
        epoch = base.epoch
        while (n := base.n + 1 + len(tail)) in held and held[n].prev_epoch == epoch:
            tail.append(held[n])
            epoch = held[n].epoch
        return SavedGroup(self.fields[group], base, tail)

    def platter(self) -> Disk:
        """What a copy of the disk would hold."""
        other = Disk()
        other.device, other.fields = self.device, dict(self.fields)
        other.bases = dict(self.bases)
        other.objects = {group: dict(rows) for group, rows in self.objects.items()}
        other.first, other.synced = self.first, self.synced
        other.ops = self.ops[: self.synced - self.first]
        return other
