"""One seeded life of a disk: random operations, syncs and checkpoints, crashes, and a comparison after each.

The runner stands where the core stands: it keeps a log per group, commits what it likes in order, passes committed
records to `apply` unless it refuses them, cuts tails, carries and releases. A crash leaves the log in some state that
it went through since the last sync; the base must be one that a checkpoint announced; the content must be the model's.
"""

import contextlib
import random
from typing import NamedTuple

from daemon.core.record import Entry
from daemon.core.saved import DEVICE_KEY, Base, DeviceFields
from daemon.storage.creation import make
from daemon.storage.disk import Disk, Opened
from daemon.storage.records import pack_entry
from store.errors import Status
from store.ids import DeviceId, GroupId
from store.limits import BLOCK, OBJECT_MAX
from store.wire.header import Op
from tests.storage import model
from tests.storage.simulated import Crash, SimulatedBackend

RING = 192 * 1024
GROUPS = (GroupId(65536), GroupId(65537))
NAMES = (b"a", b"b", b"c" * 40)
OPS = (Op.WRITE,) * 8 + (Op.REPLACE, Op.CREATE, Op.TRIM, Op.TRIM, Op.TRUNCATE, Op.DELETE, Op.FLUSH)
SIZES = (BLOCK, BLOCK, BLOCK, 100, 2 * BLOCK, 3 * BLOCK + 7, 5000, 0)
Key = tuple[int, int]  # n, epoch


class Item(NamedTuple):
    entry: Entry
    payload: bytes


class Log:
    """One group: every record that was ever given a version, and the log as it is now."""

    def __init__(self, group: GroupId) -> None:
        self.group = group
        self.items: dict[Key, Item] = {}
        self.keys: list[Key] = []  # the log, position n at index n - 1
        self.epoch = 1
        self.committed = 0  # nothing up to here is ever cut
        self.applied = 0
        self.base: Key = (0, 0)
        self.pending_base: Key | None = None
        self.history: list[tuple[int, list[Key]]] = [(0, [])]  # (operation, log after it) since the last sync

    def refuses(self, key: Key) -> bool:
        item = self.items[key]
        return item.entry.op == Op.FLUSH or hash((key, self.group, 5)) % 11 == 0

    def state(self, n: int) -> model.Objects:
        objects: model.Objects = {}
        for key in self.keys[:n]:
            if not self.refuses(key):
                model.apply(objects, *self.items[key])
        return objects


class Life:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.far = self.rng.choice((9, 9, 20, 20, 60, 60, 60, 1023))  # a block that lies alone
        self.busy = self.rng.random() < 0.5  # many checkpoints: the ring goes round
        self.backend = SimulatedBackend(self.rng)
        make(self.backend, cluster=b"c" * 16, device=DeviceId(b"d" * 16), journal_size=RING, capacity=0)
        self.logs = {group: Log(group) for group in GROUPS}
        self.operations = 0  # counted over appends and cuts
        self.settled = 0  # the operation before the last batch: a killed process leaves no less
        self.synced = 0
        self.saved = self.saved_synced = self.saved_in_boot = 0
        self.opened = self._open()

    @property
    def disk(self) -> Disk:
        return self.opened.disk

    # Running
    def run(self, steps: int) -> None:
        rng = self.rng
        actions = (
            [self.append] * 8 + [self.commit] * 4 + [self.sync] * 2 + [self.tick] * (8 if self.busy else 4)
            + [self.checkpoint] * (3 if self.busy else 1) + [self.check_some, self.cut, self.save, self.rewind]
        )  # fmt: skip
        if rng.random() < 0.7:
            self.backend.fuse = rng.randrange(1, steps * 3)
        crashed = True
        with contextlib.suppress(Crash):
            for _ in range(steps):
                rng.choice(actions)()
            crashed = False
        self.crash(stoppable=not crashed)

    def append(self) -> None:
        rng = self.rng
        if self.disk.admit(Op.WRITE, 80_000) != Status.OK:
            self.relieve()
        batch: list[Entry] = []
        self.settled = self.operations
        for _ in range(rng.choice((1, 1, 2, 5))):
            log = self.logs[rng.choice(GROUPS)]
            op = rng.choice(OPS)
            payload = rng.randbytes(rng.choice(SIZES)) if op in (Op.WRITE, Op.REPLACE, Op.CREATE) else b""
            entry = model.make_entry(
                log.group, len(log.keys) + 1, op, rng.choice(NAMES), payload, offset=self.offset(),
                size=rng.choice((0, 100, BLOCK, 3 * BLOCK, 5 * BLOCK + 9)), epoch=log.epoch,
                prev_epoch=log.keys[-1][1] if log.keys else 0,
            )  # fmt: skip
            log.items[entry.n, entry.epoch] = Item(entry, payload)
            log.keys.append((entry.n, entry.epoch))
            batch.append(entry)
            self.note(log)
            if rng.random() < 0.7:
                entry.body = memoryview(pack_entry(entry, payload))
        self.disk.append(batch)
        for entry in batch:
            entry.body = None
            if rng.random() < 0.5:
                entry.payload = None
        self.disk.pace()

    def note(self, log: Log) -> None:
        """The log changes now; a crash may leave it as it was or as it is."""
        self.operations += 1
        log.history.append((self.operations, list(log.keys)))

    def offset(self) -> int:
        rng = self.rng
        block = rng.choice((0, 0, 1, 2, 3, 4, self.far))
        return min(OBJECT_MAX - 1, block * BLOCK + rng.choice((0, 0, 0, 7, 512, 4000)))

    def commit(self) -> None:
        log = self.logs[self.rng.choice(GROUPS)]
        log.committed = self.rng.randint(log.committed, len(log.keys))
        self.apply_committed(log)

    def apply_committed(self, log: Log) -> None:
        expected = log.state(log.applied)
        while log.applied < log.committed:
            key = log.keys[log.applied]
            log.applied += 1
            if log.refuses(key):
                continue
            entry, payload = log.items[key]
            outcome = self.disk.apply(entry)
            assert outcome == model.apply(expected, entry, payload), (entry.op, outcome)

    def sync(self) -> None:
        operations, saved = self.operations, self.saved
        self.disk.sync(lambda: self.is_synced(operations, saved))

    def is_synced(self, operations: int, saved: int) -> None:
        self.synced = max(self.synced, operations)
        self.saved_synced = max(self.saved_synced, saved)
        for log in self.logs.values():
            while len(log.history) > 1 and log.history[1][0] <= self.synced:
                del log.history[0]

    def tick(self) -> None:
        self.disk.on_ready()
        if self.rng.random() < 0.5:
            self.disk.work()

    def cut(self) -> None:
        log = self.logs[self.rng.choice(GROUPS)]
        if len(log.keys) > log.committed:
            n = self.rng.randint(log.committed + 1, len(log.keys))
            del log.keys[n - 1 :]
            log.epoch += 1
            self.settled = self.operations
            self.note(log)
            self.disk.cut(log.group, n)

    def save(self) -> None:
        self.saved += 1
        number = self.saved
        self.disk.save([(DEVICE_KEY, DeviceFields((number,), number, 0))], lambda: self.is_synced(0, number))

    def checkpoint(self) -> None:
        if self.disk._checkpoint.phase.name != "IDLE":
            return
        bases = {}
        self.disk.freeze()
        for log in self.logs.values():
            if self.rng.random() < 0.8 and log.applied > log.base[0]:
                log.pending_base = log.keys[log.applied - 1]
                bases[log.group] = Base(*log.pending_base, b"tables %d" % log.applied)
        self.disk.checkpoint(bases, lambda: self.checkpointed(bases))

    def checkpointed(self, bases: dict[GroupId, Base]) -> None:
        for group in bases:
            log = self.logs[group]
            assert log.pending_base is not None
            log.base, log.pending_base = log.pending_base, None
        if self.rng.random() < 0.8:
            self.carry()

    def carry(self) -> None:
        before = self.disk._retention.checkpointed if self.busy else self.disk.pressure().carry_before
        if not before:
            return
        self.disk.append(
            [
                log.items[key].entry
                for log in self.logs.values()
                for key in log.keys[log.base[0] :]
                if log.items[key].entry.where < before
            ]
        )
        self.sync()
        self.disk.sync(lambda: self.disk.release(before))

    def relieve(self) -> None:
        """The ring is full: everything is committed, checkpointed and released."""
        for log in self.logs.values():
            log.committed = len(log.keys)
            self.apply_committed(log)
        for _ in range(2):
            self.settle()
            self.disk.freeze()
            bases = {}
            for log in self.logs.values():
                if log.applied > log.base[0]:
                    log.pending_base = log.keys[log.applied - 1]
                    bases[log.group] = Base(*log.pending_base, b"tables %d" % log.applied)
            self.disk.checkpoint(bases, lambda bases=bases: self.checkpointed(bases))  # type: ignore[misc]
            self.settle()
            self.carry()
            self.settle()
        assert self.disk.admit(Op.WRITE, 80_000) == Status.OK

    def settle(self) -> None:
        while self.disk.pending or self.disk.working:
            self.disk.work()
            self.disk.on_ready()

    def rewind(self) -> None:
        log = self.logs[self.rng.choice(GROUPS)]
        if self.rng.random() < 0.3:
            tables = self.disk.rewind(log.group)
            if tables is not None:
                assert tables == (b"tables %d" % log.base[0] if log.base[0] else b"")
                log.applied = log.base[0]
                self.check(log)
                self.apply_committed(log)

    # Comparing
    def check_some(self) -> None:
        self.check(self.logs[self.rng.choice(GROUPS)])

    def check(self, log: Log) -> None:
        expected = log.state(log.applied)
        listed = self.disk.list(log.group, b"", b"", 10)
        assert [row.name for row in listed] == sorted(expected)
        for name in NAMES:
            status, version, size = self.disk.stat(log.group, name)
            held = expected.get(name)
            if held is None:
                assert status == Status.NOT_FOUND
                continue
            assert (status, version, size) == (Status.OK, held.version, len(held.content))
            self.compare(log.group, name, bytes(held.content))

    def compare(self, group: GroupId, name: bytes, content: bytes) -> None:
        rng = self.rng
        offset = rng.choice((0, 0, BLOCK, 100))
        pieces = [rng.choice((BLOCK, 1300, 5 * BLOCK)) for _ in range(rng.randint(1, 5))] + [6 * BLOCK]
        views = [memoryview(bytearray(size)) for size in pieces]
        self.backend.cold = rng.random() < 0.2
        answer = self.disk.read(group, name, offset, views)
        if answer is None:
            cold = self.disk.cold_read(group, name, offset, views)
            while answer is None:
                cold.run()
                answer = cold.answer()
        self.backend.cold = False
        assert answer[0] == Status.OK
        found = b"".join(views)[: max(0, len(content) - offset)]
        assert found == content[offset : offset + len(found)], "wrong bytes"
        covered = 0
        for at, size, has_data in self.disk.extents(group, name, 0, OBJECT_MAX):
            assert at == covered
            covered += size
            assert has_data or not any(content[at : at + size])
        assert covered == len(content)

    # Crashes
    def crash(self, stoppable: bool) -> None:
        self.backend.fuse = None
        power = self.rng.random() < 0.5
        clean = stoppable and self.rng.random() < 0.2
        if clean:
            self.disk.close()
            self.is_synced(self.operations, self.saved)
        self.backend = self.backend.power_cut() if power else self.backend.killed()
        if self.rng.random() < 0.2:
            self.crash_while_opening()
            clean = False
        self.opened = self._open()
        if power:
            self.saved_in_boot = self.opened.fields.accepted
        elif self.opened.fields.accepted > self.saved_in_boot:
            assert self.opened.lossless
        if clean:
            assert self.opened.clean
        self.compare_logs(power)

    def crash_while_opening(self) -> None:
        """A start that does not get far consumes a clean mark all the same."""
        self.backend.fuse = self.rng.randrange(1, 12)
        with contextlib.suppress(Crash):
            self._open()
        self.backend.fuse = None
        self.backend = self.backend.killed()

    def _open(self) -> Opened:
        return Disk.open(self.backend, cluster=b"c" * 16)

    def compare_logs(self, power: bool) -> None:
        fields = self.opened.fields
        low = self.saved_synced if power else max(0, self.saved - 1)
        assert low <= fields.accepted <= self.saved
        self.saved = self.saved_synced = fields.accepted
        for log in self.logs.values():
            self.compare_log(log, power)
            self.check(log)
            self.apply_committed(log)
            self.check(log)

    def compare_log(self, log: Log, power: bool) -> None:
        saved = self.opened.groups.get(log.group)
        base = (0, 0) if saved is None else (saved.base.n, saved.base.epoch)
        tail = [] if saved is None else saved.tail
        assert base in (log.base, log.pending_base), (base, log.base, log.pending_base)
        if saved is not None and base[0]:
            assert saved.base.tables == b"tables %d" % base[0]
        found = [(entry.n, entry.epoch) for entry in tail]
        possible = log.history
        if not power:
            while len(possible) > 1 and possible[1][0] <= self.settled:
                del possible[0]
        for _, keys in reversed(possible):
            if len(keys) >= base[0] and keys[base[0] :] == found:
                break
        else:
            raise AssertionError(f"{found} after {base} is none of {[keys[base[0] :] for _, keys in possible]}")
        log.keys = list(keys)
        for entry in tail:
            log.items[entry.n, entry.epoch] = Item(entry, log.items[entry.n, entry.epoch].payload)
        log.history = [(self.operations, list(keys))]
        log.epoch += 1
        log.base, log.pending_base = base, None
        log.applied = base[0]
        log.committed = max(base[0], min(log.committed, len(log.keys)))
