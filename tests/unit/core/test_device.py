"""The face that the shell drives: what comes back, in which order, in how few effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from daemon.core import effects as fx
from daemon.core.device import DeviceCore
from daemon.core.limits import Limits
from daemon.core.record import Entry
from daemon.core.saved import Base, DeviceFields, GroupFields, SavedGroup
from store.control.arbiter import Register, Registered
from store.errors import Status
from store.ids import DeviceId, GroupId, Who
from store.placement.config import GroupConfig
from store.wire.header import Flag, Op
from tests.simulation.disk import Disk, Objects

DEVICES = tuple(DeviceId(bytes([i]) * 16) for i in range(3))
WHOS = tuple(Who(device, 100 + i) for i, device in enumerate(DEVICES))
SCOPE = 9
T = TypeVar("T")


class Bench:
    """One core; effects are executed as far as the journal goes, the rest is collected."""

    def __init__(self, copies: int, me: int = 0, groups: int = 1) -> None:
        saved = {}
        for number in range(1, groups + 1):
            config = GroupConfig(0, 1, DEVICES[:copies], WHOS[0], WHOS[:copies], 5)
            fields = GroupFields(config=config, promised=1, whole=True)
            saved[GroupId(number)] = SavedGroup(fields, Base(0, 0, b""), [])
        device_fields = DeviceFields((100 + me,), 100 + me, 0)
        self.now, self.written = 0.0, 0
        self.core = DeviceCore(
            self.now, DEVICES[me], device_fields, saved, lossless=True, draw=lambda: 7,
            objects=Objects(Disk(), stubborn=False), limits=Limits(),
        )  # fmt: skip

    def run(self) -> list[fx.Effect]:
        out: list[fx.Effect] = []
        while batch := self.core.effects():
            for effect in batch:
                if isinstance(effect, fx.Journal):
                    for entry in effect.entries:
                        self.written += 1
                        entry.where = self.written
            out += batch
        return out

    def lead(self, copies: int) -> None:
        """Peer with the others, so that the groups are active and leased."""
        rows = [(g, self.core.groups[g].order, 0, 0, True, 0) for g in self.core.groups]
        for who in WHOS[1:copies]:
            self.core.beat_oks(self.now, who, self.now, rows)
        self.run()


def write(sequence: int = 1, group: int = 1, durable: bool = False, lock: int = 0, op: Op = Op.REPLACE) -> Entry:
    entry = Entry()
    entry.group, entry.op, entry.flags = group, op, int(Flag.DURABLE) if durable else 0
    entry.serial, entry.sequence, entry.floor = 1, sequence, max(1, sequence - 8)
    entry.scope, entry.generation = (SCOPE, lock) if lock else (0, 0)
    entry.name, entry.offset, entry.size, entry.payload, entry.payload_sum = b"x", 0, 0, 1, 0
    entry.where, entry.body, entry.reply = -1, None, f"client {sequence}"
    return entry


def kinds(effects: Sequence[fx.Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def find(effects: Sequence[fx.Effect], kind: type[T]) -> T:
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


def test_a_sole_member_answers_only_what_is_in_its_journal() -> None:
    bench = Bench(1)
    bench.run()
    assert bench.core.admit(0.0, write()) is None
    assert kinds(bench.core.effects()) == [fx.Journal]
    assert bench.core.effects() == []  # the shell did not write it: nothing may be answered
    assert bench.core.groups[1].commit == 0


def test_unstable_writes_of_a_sole_member_are_answered_when_written() -> None:
    bench = Bench(1)
    bench.run()
    assert bench.core.admit(0.0, write()) is None
    effects = bench.run()
    assert kinds(effects) == [fx.Journal, fx.Replies]
    assert find(effects, fx.Replies).rows == [("client 1", Status.OK, 0, 5, 1, 1 << 40 | 1)]


def test_durable_writes_wait_for_the_sync() -> None:
    bench = Bench(1)
    bench.run()
    bench.core.admit(0.0, write(durable=True))
    effects = bench.run()
    assert kinds(effects) == [fx.Journal, fx.Sync]
    bench.core.complete(0.0, find(effects, fx.Sync).token)
    assert kinds(bench.run()) == [fx.Replies]


def test_records_are_written_before_anybody_hears_of_them() -> None:
    """R13; and one Feed for each device, whatever the number of writes and groups."""
    bench = Bench(3, groups=4)
    bench.run()
    bench.lead(3)
    for group in range(1, 5):
        for sequence in (1, 2):
            assert bench.core.admit(0.0, write(sequence, group, durable=True)) is None
    effects = bench.run()
    assert kinds(effects) == [fx.Journal, fx.Feed, fx.Feed, fx.Sync]
    assert [len(append.entries) for append in effects[1].appends] == [2] * 4  # type: ignore[union-attr]


def test_one_beat_for_each_device_carries_all_groups() -> None:
    bench = Bench(3, groups=50)
    bench.run()
    bench.lead(3)
    bench.core.tick(1.6)
    beats = [effect for effect in bench.run() if isinstance(effect, fx.Beats)]
    assert [(beat.device, len(beat.rows)) for beat in beats] == [(DEVICES[1], 50), (DEVICES[2], 50)]


def test_a_secondary_redirects_and_follows() -> None:
    bench = Bench(2, me=1)
    bench.run()
    assert bench.core.admit(0.0, write()) == Status.REDIRECT
    assert bench.core.may_read(0.0, GroupId(1), 0, 0) == Status.REDIRECT
    entry = write()
    entry.n, entry.epoch, entry.prev_epoch, entry.reply = 1, 1, 0, None
    bench.core.take(0.0, WHOS[0], [fx.Append(1, 1, 0, 0, [entry])])
    effects = bench.run()
    assert kinds(effects) == [fx.Journal, fx.Acks]
    assert find(effects, fx.Acks).rows == [(1, 1, 1, 0, True, 0)]


def test_a_beat_of_a_newer_configuration_makes_the_member_ask() -> None:
    bench = Bench(2, me=1)
    bench.run()
    bench.core.beats(0.0, WHOS[0], 0.0, [(1, 2, 0, 0), (77, 1, 0, 0)])
    asked = find(bench.run(), fx.Send)
    assert asked.device == DEVICES[0]
    assert getattr(asked.message, "groups", None) == (1, 77)


def test_early_verdicts() -> None:
    bench = Bench(2)
    bench.run()
    assert bench.core.admit(0.0, write(group=9)) == Status.UNKNOWN_GROUP
    assert bench.core.admit(0.0, write()) == Status.REDIRECT  # it has not peered
    bench.lead(2)
    far = write(100)
    far.floor = 1
    assert bench.core.admit(0.0, far) == Status.BUSY
    assert bench.core.admit(0.0, write(1, lock=3, op=Op.FENCE)) is None
    bench.run()
    bench.core.appended(0.0, WHOS[1], [(1, 1, 1, 1, True, 0)])
    assert bench.core.admit(0.0, write(2, lock=2)) == Status.FENCED
    assert bench.core.may_read(0.0, GroupId(1), SCOPE, 2) == Status.FENCED
    assert bench.core.may_read(0.0, GroupId(1), SCOPE, 3) == Status.OK
    assert bench.core.may_read(100.0, GroupId(1), SCOPE, 3) == Status.BUSY  # the leases are over


def test_a_repeated_request_is_answered_from_the_table() -> None:
    bench = Bench(1)
    bench.run()
    for _ in range(2):
        assert bench.core.admit(0.0, write()) is None
        assert find(bench.run(), fx.Replies).rows[0][:2] == ("client 1", Status.OK)
    assert bench.core.groups[1].log.last == 1


def test_a_repeat_of_what_is_in_flight_changes_only_whom_to_answer() -> None:
    bench = Bench(2)
    bench.run()
    bench.lead(2)
    bench.core.admit(0.0, write())
    again = write()
    again.reply = "another session"
    assert bench.core.admit(0.0, again) is None
    bench.run()
    bench.core.appended(0.0, WHOS[1], [(1, 1, 1, 0, True, 0)])
    assert find(bench.run(), fx.Replies).rows[0][0] == "another session"


def test_a_checkpoint_waits_until_its_log_is_stable() -> None:
    bench = Bench(1)
    bench.run()
    bench.core.checkpoint(0.0)
    assert bench.run() == []  # nothing moved
    bench.core.admit(0.0, write())
    bench.run()
    bench.core.checkpoint(0.0)
    sync = find(bench.run(), fx.Sync)
    bench.core.admit(0.0, write(2))
    bench.run()  # applied after the freeze: not part of it
    bench.core.complete(0.0, sync.token)
    checkpoint = find(bench.run(), fx.Checkpoint)
    assert {group: (base.n, base.epoch) for group, base in checkpoint.bases.items()} == {1: (1, 1)}
    bench.core.complete(0.0, checkpoint.token)
    assert bench.core.groups[1].base_n == 1


def test_carried_records_are_stable_before_their_old_place_is_released() -> None:
    bench = Bench(2)
    bench.run()
    bench.lead(2)
    bench.core.admit(0.0, write())
    bench.run()  # uncommitted, at offset 1
    bench.core.carry(0.0, 2)
    effects = bench.run()
    assert kinds(effects) == [fx.Journal, fx.Sync]
    assert bench.core.groups[1].log.entry(1).where == 2
    bench.core.complete(0.0, find(effects, fx.Sync).token)
    assert find(bench.run(), fx.Release).before == 2
    bench.core.carry(0.0, 2)
    assert kinds(bench.run()) == [fx.Release]


def test_a_failover_of_many_groups_is_one_save() -> None:
    bench = Bench(2, me=1, groups=30)
    bench.run()
    bench.core.tick(20.0)
    save = find(bench.run(), fx.Save)
    assert len(save.rows) == 30
    bench.core.complete(20.0, save.token)
    assert len(find(bench.run(), fx.Tell).messages) == 30


def test_a_first_start_claims_an_incarnation_before_it_asks() -> None:
    core = DeviceCore(
        0.0, DEVICES[0], DeviceFields(), {}, lossless=True, draw=lambda: 42,
        objects=Objects(Disk(), stubborn=False), limits=Limits(),
    )  # fmt: skip
    save = find(core.effects(), fx.Save)
    assert save.rows == [(0, DeviceFields((42,), 0, 0))]
    core.complete(0.0, save.token)
    assert find(core.effects(), fx.Tell).messages == [Register(DEVICES[0], (), 42, None)]
    core.receive_master(0.0, Registered(41, True, 0, 0))  # the answer to another start
    assert core.who is None
    core.receive_master(0.0, Registered(42, True, 0, 0))
    assert core.who == Who(DEVICES[0], 42)
