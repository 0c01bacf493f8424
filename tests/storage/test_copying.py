"""Inventories between two disks."""

import random

import pytest

from daemon.core.saved import Base
from daemon.storage.copying import BadPiece, Copied
from daemon.storage.disk import Disk
from store.errors import Status
from store.ids import GroupId
from store.limits import BLOCK, OBJECT_MAX
from store.wire.header import Op
from tests.storage.conftest import Machine, settle, simulated_machine
from tests.storage.model import make_entry

GROUP = GroupId(65536)


def filled(seed: int, names: list[bytes]) -> tuple[Machine, Disk, int]:
    rng = random.Random(seed)
    machine = simulated_machine()
    machine.create()
    disk = machine.open().disk
    for n in range(1, 25):
        entry = make_entry(
            GROUP, n, Op.WRITE, rng.choice(names), rng.randbytes(rng.choice((BLOCK, 9000, 10))),
            offset=rng.choice((0, 3 * BLOCK, 70_000)), prev_epoch=int(n > 1),
        )  # fmt: skip
        disk.append([entry])
        disk.apply(entry)
        if n == 12:
            checkpoint(disk, n)
    return machine, disk, 24


def checkpoint(disk: Disk, n: int) -> None:
    disk.freeze()
    disk.checkpoint({GROUP: Base(n, 1, b"t%d" % n)}, lambda: None)
    settle(disk)


def dump(disk: Disk) -> dict[bytes, tuple[int, bytes]]:
    """Every object's version and bytes."""
    found = {}
    for row in disk.list(GROUP, b"", b"", 1000):
        view = memoryview(bytearray(row.size))
        answer = disk.read(GROUP, row.name, 0, [view])
        assert answer is not None and answer[0] == Status.OK
        found[row.name] = (row.version, bytes(view))
    return found


def pieces(disk: Disk) -> list[Copied]:
    found: list[Copied] = []
    while (piece := disk.copy_next(GROUP, found[-1].cursor if found else b"")) is not None:
        found.append(piece)
    return found


def copy(source: Disk, target: Disk) -> None:
    target.begin_copy(GROUP)
    for piece in pieces(source):
        target.install(GROUP, piece.data)
    target.end_copy(GROUP)


@pytest.mark.parametrize("seed", range(12))
def test_a_copy_is_exact_whatever_was_there_before(seed: int) -> None:
    _, source, n = filled(seed, [b"a", b"c", b"e"])
    machine, target, _ = filled(seed + 100, [b"b", b"c", b"d", b"zz"])
    copy(source, target)
    assert dump(target) == dump(source)
    checkpoint(target, n)
    machine.kill()
    opened = machine.open()
    assert opened.groups[GROUP].base == Base(n, 1, b"t%d" % n)
    assert dump(opened.disk) == dump(source)


def test_records_behind_the_copy_apply_and_those_before_do_not() -> None:
    _, source, n = filled(1, [b"a"])
    _, target, _ = filled(2, [b"b"])
    copy(source, target)
    old = make_entry(GROUP, 3, Op.WRITE, b"a", b"old")
    new = make_entry(GROUP, n + 1, Op.WRITE, b"a", b"new")
    target.append([old, new])
    before = dump(target)[b"a"][1]
    assert target.apply(old) == (Status.OK, len(before))
    assert dump(target)[b"a"][1] == before
    target.apply(new)
    assert dump(target)[b"a"][1] == b"new" + before[3:]


def test_a_copy_that_was_cut_short_is_begun_again() -> None:
    _, source, n = filled(3, [b"a", b"b", b"c"])
    machine, target, _ = filled(4, [b"b", b"x"])
    slots = target._data.slots.count
    for _ in range(3):
        target.begin_copy(GROUP)
        target.install(GROUP, pieces(source)[0].data)
    assert target._data.slots.count == slots + 1, "slots of attempts that were given up"
    checkpoint(target, n)
    machine.kill()
    target = machine.open().disk
    copy(source, target)
    assert dump(target) == dump(source)


def test_what_arrives_wrong_is_refused() -> None:
    _, source, _ = filled(5, [b"a", b"b"])
    _, target, _ = filled(6, [b"b"])
    first, second = pieces(source)
    with pytest.raises(BadPiece):
        target.install(GROUP, first.data)
    target.begin_copy(GROUP)
    for at in range(0, len(first.data), 199):
        damaged = bytearray(first.data)
        damaged[at] ^= 1
        try:
            target.install(GROUP, bytes(damaged))
        except BadPiece:
            continue
        target.begin_copy(GROUP)  # the name, the size or the version: sealed by the link, not by the piece
    target.begin_copy(GROUP)
    target.install(GROUP, second.data)
    with pytest.raises(BadPiece, match="name order"):
        target.install(GROUP, first.data)


def test_a_block_that_the_sender_lost_is_lost_at_the_receiver() -> None:
    machine = simulated_machine()
    machine.create()
    source = machine.open().disk
    entry = make_entry(GROUP, 1, Op.WRITE, b"a", b"x" * (3 * BLOCK))
    source.append([entry])
    source.apply(entry)
    checkpoint(source, 1)
    source._data.data.write([b"!"], 1, BLOCK + 5)
    _, target, _ = filled(8, [b"b"])
    copy(source, target)
    view = memoryview(bytearray(BLOCK))
    answers = [target.read(GROUP, b"a", block * BLOCK, [view]) for block in range(3)]
    assert [answer[0] for answer in answers if answer] == [Status.OK, Status.DAMAGED, Status.OK]


def test_a_whole_object_of_the_largest_size_travels() -> None:
    machine = simulated_machine()
    machine.create()
    source = machine.open().disk
    entry = make_entry(GROUP, 1, Op.WRITE, b"a", random.Random(1).randbytes(OBJECT_MAX))
    source.append([entry])
    source.apply(entry)
    _, target, _ = filled(9, [b"b"])
    copy(source, target)
    assert dump(target) == dump(source)
