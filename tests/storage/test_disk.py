"""What every disk promises, on a real directory and on the simulated machine alike."""

import pytest

from daemon.core.record import Entry
from daemon.core.saved import DEVICE_KEY, Base, DeviceFields, GroupFields
from daemon.storage.check import check
from daemon.storage.disk import Disk
from daemon.storage.records import pack_entry
from store.errors import ConfigError, Status
from store.ids import GroupId
from store.limits import BLOCK, MIB, OBJECT_MAX
from store.wire.header import Op
from tests.storage.conftest import RING, Machine, settle, simulated_machine
from tests.storage.model import make_entry
from tests.storage.simulated import SimulatedBackend

GROUP = GroupId(65536)


class Writer:
    """Gives records their positions, appends and applies them at once."""

    def __init__(self, disk: Disk, n: int = 0) -> None:
        self.disk, self.n = disk, n

    def entry(self, op: Op, name: bytes, payload: bytes = b"", offset: int = 0, size: int = 0) -> Entry:
        self.n += 1
        return make_entry(
            GROUP, self.n, op, name, payload, offset=offset, size=size, prev_epoch=1 if self.n > 1 else 0
        )  # fmt: skip

    def do(self, op: Op, name: bytes, payload: bytes = b"", offset: int = 0, size: int = 0) -> tuple[Status, int]:
        entry = self.entry(op, name, payload, offset, size)
        self.disk.append([entry])
        return self.disk.apply(entry)

    def checkpoint(self) -> None:
        done: list[bool] = []
        self.disk.freeze()
        self.disk.checkpoint({GROUP: Base(self.n, 1, b"tables")}, lambda: done.append(True))
        settle(self.disk)
        assert done


def content(disk: Disk, name: bytes, offset: int = 0, size: int = OBJECT_MAX) -> bytes:
    status, _, length = disk.stat(GROUP, name)
    assert status == Status.OK
    view = memoryview(bytearray(min(size, max(0, length - offset))))
    answer = disk.read(GROUP, name, offset, [view])
    cold = disk.cold_read(GROUP, name, offset, [view])
    while answer is None:
        cold.run()
        answer = cold.answer()
    assert answer[0] == Status.OK
    return bytes(view)


def test_what_was_appended_is_the_tail_of_the_next_start(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    batch = [writer.entry(Op.WRITE, b"a", bytes([i]) * BLOCK, i * BLOCK) for i in range(40)]
    for entry in batch[::2]:
        entry.body = memoryview(pack_entry(entry, entry.payload))
    writer.disk.append(batch)
    machine.kill()
    opened = machine.open()
    tail = opened.groups[GROUP].tail
    assert [(entry.n, entry.offset, entry.where) for entry in tail] == [
        (entry.n, entry.offset, entry.where) for entry in batch
    ]
    assert opened.head_kept and not opened.clean
    assert opened.disk.load_record(tail[7]) == pack_entry(batch[7], batch[7].payload)
    assert opened.disk.stat(GROUP, b"a")[0] == Status.NOT_FOUND
    for entry in tail:
        opened.disk.apply(entry)
    assert content(opened.disk, b"a") == b"".join(bytes([i]) * BLOCK for i in range(40))


def test_a_checkpoint_survives_and_the_tail_begins_behind_it(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    writer.do(Op.WRITE, b"a", b"x" * 10_000, 5)
    writer.checkpoint()
    writer.do(Op.WRITE, b"a", b"y" * 100, 50)
    machine.kill()
    opened = machine.open()
    saved = opened.groups[GROUP]
    assert saved.base == Base(1, 1, b"tables") and [entry.n for entry in saved.tail] == [2]
    assert content(opened.disk, b"a") == bytes(5) + b"x" * 10_000
    opened.disk.apply(saved.tail[0])
    assert content(opened.disk, b"a", 40, 20) == b"x" * 10 + b"y" * 10


def test_saved_fields_are_whole_and_the_newest_wins(machine: Machine) -> None:
    machine.create()
    disk = machine.open().disk
    for number in (1, 2):
        disk.save([(DEVICE_KEY, DeviceFields((number,), number)), (GROUP, GroupFields(promised=number))], lambda: None)
    settle(disk)
    machine.stop()
    opened = machine.open()
    assert opened.fields == DeviceFields((2,), 2)
    assert opened.groups[GROUP].fields == GroupFields(promised=2)
    assert opened.clean and opened.same_boot and opened.lossless


def test_a_clean_mark_counts_once(machine: Machine) -> None:
    machine.create()
    machine.open()
    machine.stop()
    assert machine.open().clean
    machine.kill()
    opened = machine.open()
    assert not opened.clean and opened.head_kept


def test_a_copy_of_a_cleanly_stopped_directory_is_not_lossless_when_the_original_went_on() -> None:
    machine = simulated_machine()
    machine.create()
    machine.open()
    machine.stop()
    world = machine.backend()
    assert isinstance(world, SimulatedBackend)
    old, original = world.killed(), world.killed()
    disk = Disk.open(original).disk
    Writer(disk).do(Op.WRITE, b"a", b"later")
    disk.close()
    old.heads = original.heads
    opened = Disk.open(old)
    assert not opened.clean and not opened.head_kept and not opened.lossless
    rebooted = world.killed()
    rebooted.heads = {}
    assert Disk.open(rebooted).clean


def test_callbacks_of_syncs_share_a_sync_and_never_run_inside_the_call(machine: Machine) -> None:
    machine.create()
    disk = machine.open().disk
    done: list[int] = []
    for number in range(5):
        disk.sync(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    before = disk.syncs
    settle(disk)
    assert done == [0, 1, 2, 3, 4] and disk.syncs == before + 2


def test_every_operation_has_its_statuses(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    do = writer.do
    for op in (Op.DELETE, Op.TRUNCATE, Op.TRIM):
        assert do(op, b"a") == (Status.NOT_FOUND, 0)
    assert do(Op.CREATE, b"a", b"12345") == (Status.OK, 5)
    assert do(Op.CREATE, b"a", b"1") == (Status.EXISTS, 5)
    assert do(Op.WRITE, b"a", b"xy", OBJECT_MAX - 1) == (Status.TOO_LARGE, 5)
    assert do(Op.WRITE, b"a", b"x", OBJECT_MAX - 1) == (Status.OK, OBJECT_MAX)
    assert do(Op.TRUNCATE, b"a", size=OBJECT_MAX + 1) == (Status.TOO_LARGE, OBJECT_MAX)
    assert do(Op.TRUNCATE, b"a", size=3) == (Status.OK, 3)
    assert do(Op.TRUNCATE, b"a", size=10) == (Status.OK, 10)
    assert content(writer.disk, b"a") == b"123" + bytes(7)
    assert do(Op.REPLACE, b"a", b"new") == (Status.OK, 3)
    assert do(Op.TRIM, b"a", offset=1, size=1) == (Status.OK, 3)
    assert content(writer.disk, b"a") == b"n\0w"
    assert do(Op.DELETE, b"a") == (Status.OK, 0)
    assert writer.disk.stat(GROUP, b"a") == (Status.NOT_FOUND, 0, 0)


def test_applying_a_record_twice_changes_nothing(machine: Machine) -> None:
    machine.create()
    disk = machine.open().disk
    writer = Writer(disk)
    first, second = writer.entry(Op.WRITE, b"a", b"1" * 10), writer.entry(Op.TRUNCATE, b"a", size=4)
    disk.append([first, second])
    assert [disk.apply(first), disk.apply(second), disk.apply(first)] == [
        (Status.OK, 10), (Status.OK, 4), (Status.OK, 4),
    ]  # fmt: skip
    assert content(disk, b"a") == b"1111"


def test_trimmed_space_comes_back(machine: Machine) -> None:
    machine.create()
    disk = machine.open().disk
    writer = Writer(disk)
    for number in range(4):
        writer.do(Op.WRITE, b"a", bytes([number + 1]) * MIB, number * MIB)
    writer.checkpoint()
    full = disk.room().used
    assert full >= 4 * MIB
    writer.do(Op.TRIM, b"a", offset=MIB - 100, size=2 * MIB)
    writer.checkpoint()
    assert disk.room().used <= full - 2 * MIB + 2 * BLOCK
    assert content(disk, b"a", MIB - 200, 200) == b"\1" * 100 + bytes(100)
    writer.do(Op.DELETE, b"a")
    writer.checkpoint()
    assert disk.room().used == 0


def test_holes_are_told_from_data(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    writer.do(Op.WRITE, b"a", b"x" * BLOCK, 4 * BLOCK)
    writer.do(Op.TRUNCATE, b"a", size=10 * BLOCK)
    expected = [(0, 4 * BLOCK, False), (4 * BLOCK, BLOCK, True), (5 * BLOCK, 5 * BLOCK, False)]
    assert writer.disk.extents(GROUP, b"a", 0, OBJECT_MAX) == expected
    writer.checkpoint()
    assert writer.disk.extents(GROUP, b"a", 0, OBJECT_MAX) == expected
    assert writer.disk.extents(GROUP, b"a", BLOCK + 1, 10) == [(BLOCK + 1, 10, False)]


def test_names_are_listed_in_order_across_index_and_memory(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    for number in range(0, 20, 2):
        writer.do(Op.WRITE, b"n%02d" % number, b"x" * number)
    writer.checkpoint()
    for number in range(1, 20, 2):
        writer.do(Op.WRITE, b"n%02d" % number, b"x" * number)
    for number in (4, 5, 18):
        writer.do(Op.DELETE, b"n%02d" % number)
    writer.do(Op.WRITE, b"other")
    expected = [b"n%02d" % number for number in range(20) if number not in (4, 5, 18)]
    found: list[bytes] = []
    while rows := writer.disk.list(GROUP, b"n", found[-1] if found else b"", 3):
        assert len(rows) <= 3
        found += [row.name for row in rows]
    assert found == expected
    assert [row.size for row in writer.disk.list(GROUP, b"n1", b"n10", 2)] == [11, 12]


def test_a_large_object_is_read_in_any_pieces(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    whole = b"".join(number.to_bytes(4, "little") for number in range(MIB // 4))
    writer.do(Op.WRITE, b"a", whole)
    for _ in range(2):
        for offset, size in ((0, MIB), (1, 5000), (BLOCK, 60_000), (MIB - 10, 10), (MIB, 5)):
            assert content(writer.disk, b"a", offset, size) == whole[offset : offset + size]
        writer.checkpoint()


def test_rewind_goes_back_to_the_base(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    writer.do(Op.WRITE, b"a", b"old" * 2000)
    writer.checkpoint()
    writer.do(Op.WRITE, b"a", b"new", 3)
    writer.do(Op.WRITE, b"b", b"new")
    assert writer.disk.rewind(GROUP) == b"tables"
    assert content(writer.disk, b"a") == b"old" * 2000
    assert writer.disk.stat(GROUP, b"b")[0] == Status.NOT_FOUND


def test_a_record_that_was_carried_is_read_at_its_new_place(machine: Machine) -> None:
    machine.create(ring=8 * MIB)
    writer = Writer(machine.open().disk)
    disk = writer.disk
    writer.do(Op.WRITE, b"a", b"base")
    late = [writer.entry(Op.WRITE, b"b", b"whole" * 2000), writer.entry(Op.WRITE, b"c", b"piece")]
    disk.append(late)
    disk.freeze()
    disk.checkpoint({GROUP: Base(1, 1, b"")}, lambda: None)
    settle(disk)
    for entry in late:
        disk.apply(entry)
    carried = disk._retention.checkpointed
    disk.release(carried)
    settle(disk)
    assert disk._journal.tail <= late[0].where, "records that are still needed"
    disk.append(late)
    settle(disk)
    disk.release(carried)
    settle(disk)
    assert disk._journal.tail == carried <= late[0].where
    while disk._journal.position < carried + 8 * MIB - 100_000:
        disk.append([make_entry(GroupId(99), 1, Op.WRITE, b"x", b"!" * 60_000)])
    assert content(disk, b"b") == b"whole" * 2000 and content(disk, b"c") == b"piece"


def test_what_cannot_be_carried_for_want_of_room_stays(machine: Machine) -> None:
    machine.create(ring=8 * MIB)
    writer = Writer(machine.open().disk)
    disk = writer.disk
    writer.do(Op.WRITE, b"a", b"base")
    late = [writer.entry(Op.WRITE, b"b", bytes([i]) * MIB) for i in range(4)]
    disk.append(late)
    disk.freeze()
    disk.checkpoint({GROUP: Base(1, 1, b"")}, lambda: None)
    settle(disk)
    places = [entry.where for entry in late]
    disk.append(late)
    assert [entry.where for entry in late][-1] == places[-1] and late[0].where != places[0]
    disk.release(disk._retention.checkpointed)
    settle(disk)
    assert disk._journal.tail <= min(entry.where for entry in late)
    assert disk.load_record(late[-1])[-MIB:] == bytes([3]) * MIB
    for entry in late:
        disk.apply(entry)
    writer.checkpoint()
    disk.release(disk._retention.checkpointed)
    settle(disk)
    assert disk._journal.used < 100


def test_one_process_at_a_time(machine: Machine) -> None:
    machine.create()
    machine.open()
    with pytest.raises(ConfigError, match="in use"):
        Disk.open(machine.backend())


def test_a_disk_of_another_cluster_is_refused(machine: Machine) -> None:
    machine.create()
    with pytest.raises(ConfigError, match="belongs to cluster 6363"):
        Disk.open(machine.backend(), cluster=b"x" * 16)


def test_an_empty_directory_is_no_disk_and_a_disk_is_not_made_twice(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="no disk here"):
        machine.open()
    with pytest.raises(ConfigError, match="a journal has 32 to 4096 MiB"):
        Disk.create(machine.backend(), cluster=b"c" * 16, device=b"d" * 16, journal_size=MIB)  # type: ignore[arg-type]


def test_the_check_counts_and_finds_nothing_wrong(machine: Machine) -> None:
    machine.create()
    writer = Writer(machine.open().disk)
    writer.do(Op.WRITE, b"a", b"x" * 10_000)
    writer.checkpoint()
    writer.do(Op.WRITE, b"b", b"y")
    machine.stop()
    report = check(machine.backend())
    assert (report.objects, report.groups, report.stored, report.problems) == (1, 1, 3 * BLOCK, [])
    assert report.journal_records["ENTRY"] == 2 and not report.interrupted
    assert "no problems" in report.lines()
    assert 0 < report.journal_used < RING
