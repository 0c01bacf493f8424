"""A full device, a full ring, a capacity: refusals in time, and nothing lost when they come too late."""

import random

import pytest

from daemon.core.saved import Base
from daemon.storage.creation import make
from daemon.storage.disk import Disk
from daemon.storage.limits import SPACE_RESERVE
from daemon.storage.syncers import DiskFailed
from store.errors import Status
from store.ids import DeviceId, GroupId
from store.limits import BLOCK, MIB
from store.wire.header import Op
from tests.storage.conftest import settle
from tests.storage.model import make_entry
from tests.storage.simulated import SimulatedBackend

GROUP = GroupId(65536)
RING = MIB


def new_disk(capacity: int = 0, space: int | None = None) -> tuple[SimulatedBackend, Disk]:
    backend = SimulatedBackend(random.Random(0))
    make(backend, cluster=b"c" * 16, device=DeviceId(b"d" * 16), journal_size=RING, capacity=capacity)
    backend.space = space
    return backend, Disk.open(backend).disk


def write(disk: Disk, n: int, block: int, op: Op = Op.WRITE) -> None:
    payload = b"" if op == Op.DELETE else bytes([n % 250 + 1]) * BLOCK
    entry = make_entry(GROUP, n, op, b"obj%d" % (block // 1000), payload, offset=block % 1000 * BLOCK)
    disk.append([entry])
    assert disk.apply(entry)[0] == Status.OK


def checkpoint(disk: Disk, n: int) -> None:
    disk.freeze()
    disk.checkpoint({GROUP: Base(n, 1, b"")}, lambda: disk.release(disk._retention.checkpointed))
    while disk.working or disk.pending:
        disk.work()
        disk.on_ready()
        if disk.starved:
            return


def test_a_capacity_refuses_what_allocates_and_takes_what_frees() -> None:
    _, disk = new_disk(capacity=256 * BLOCK)
    n = 0
    while disk.admit(Op.WRITE, BLOCK) == Status.OK:
        n += 1
        write(disk, n, n)
        if n % 50 == 0 or disk.admit(Op.WRITE, BLOCK) != Status.OK:
            checkpoint(disk, n)
        assert n < 300
    assert 150 < n <= 256
    assert disk.admit(Op.CREATE, BLOCK) == disk.admit(Op.REPLACE, BLOCK) == Status.NO_SPACE
    assert disk.admit(Op.DELETE, 0) == disk.admit(Op.TRIM, 0) == disk.admit(Op.FLUSH, 0) == Status.OK
    assert disk.room().free < 2 * BLOCK
    write(disk, n + 1, 0, Op.DELETE)
    checkpoint(disk, n + 1)
    assert disk.admit(Op.WRITE, BLOCK) == Status.OK
    assert disk.room().used == 0


def test_the_file_system_keeps_a_ring_and_a_reserve_free() -> None:
    backend, disk = new_disk(space=RING + RING + SPACE_RESERVE + 40 * BLOCK)
    n = 0
    while disk.admit(Op.WRITE, BLOCK) == Status.OK:
        n += 1
        write(disk, n, n)
        checkpoint(disk, n)
        assert n < 100
    assert n > 30
    assert disk.admit(Op.WRITE, BLOCK) == Status.NO_SPACE
    assert backend.free() >= SPACE_RESERVE + RING


def test_a_full_ring_is_busy_and_a_checkpoint_makes_room() -> None:
    _, disk = new_disk()
    n = 0
    while disk.admit(Op.WRITE, BLOCK) == Status.OK:
        n += 1
        write(disk, n, n % 10)
        assert n < 1000
    assert disk.admit(Op.DELETE, BLOCK) == Status.BUSY
    assert disk.pressure().checkpoint and disk.pressure().fill > 0.85
    checkpoint(disk, n)
    settle(disk)
    assert disk.admit(Op.WRITE, BLOCK) == Status.OK and disk.pressure().fill < 0.1


def test_a_device_that_fills_up_all_the_same_waits_and_loses_nothing() -> None:
    backend, disk = new_disk()
    for n in range(1, 40):
        write(disk, n, n)
    backend.space = sum(file.allocated() for file in backend.files.values()) + 10 * BLOCK
    checkpoint(disk, 39)
    assert disk.starved
    view = memoryview(bytearray(BLOCK))
    for n in range(1, 40):
        answer = disk.read(GROUP, b"obj0", n * BLOCK, [view])
        assert answer is not None and answer[0] == Status.OK and view == bytes([n % 250 + 1]) * BLOCK
    killed = backend.killed()
    backend.space = None
    settle(disk)
    assert not disk.starved and disk.checkpoints == 1
    killed.space = None
    opened = Disk.open(killed)
    assert opened.groups[GROUP].base.n == 39
    for n in range(1, 40):
        answer = opened.disk.read(GROUP, b"obj0", n * BLOCK, [view])
        assert answer is not None and answer[0] == Status.OK and view == bytes([n % 250 + 1]) * BLOCK


def test_merged_blocks_stay_in_memory_while_the_redo_file_cannot_grow() -> None:
    backend, disk = new_disk()
    write(disk, 1, 1)
    checkpoint(disk, 1)
    part = make_entry(GROUP, 2, Op.WRITE, b"obj0", b"part", offset=BLOCK + 7)
    disk.append([part])
    disk.apply(part)
    backend.space = 0
    disk._checkpoint.spill()
    view = memoryview(bytearray(BLOCK))
    answer = disk.read(GROUP, b"obj0", BLOCK, [view])
    assert answer is not None and view[:12] == b"\2" * 7 + b"part" + b"\2"
    with pytest.raises(DiskFailed, match="free some space"):
        disk.freeze()
    backend.space = None
    checkpoint(disk, 2)
    assert disk.read(GROUP, b"obj0", BLOCK, [view]) and bytes(view[7:11]) == b"part"


def test_an_empty_disk_and_an_image_without_data_take_next_to_nothing() -> None:
    backend, disk = new_disk()
    for n in range(1, 200):
        entry = make_entry(GROUP, n, Op.TRUNCATE if n % 2 else Op.CREATE, b"image.%d" % (n // 2), size=4 * MIB)
        disk.append([entry])
        disk.apply(entry)
    checkpoint(disk, 199)
    assert disk.room().used == 0
    assert backend.files["sums"].allocated() == 0
