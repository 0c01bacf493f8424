"""Random operations on one object, with checkpoints anywhere between them, against plain bytes."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.saved import Base
from daemon.storage.creation import make
from daemon.storage.disk import Disk
from daemon.storage.limits import MERGED_MAX
from store.errors import Status
from store.ids import DeviceId, GroupId
from store.limits import BLOCK, MIB, OBJECT_MAX
from store.wire.header import Op
from tests.storage import model
from tests.storage.conftest import settle
from tests.storage.simulated import SimulatedBackend

GROUP = GroupId(65536)
PLACES = st.sampled_from([0, 1, 4095, 4096, 4097, 8192, 10_000, 12_288, 40_000])
SIZES = st.sampled_from([0, 1, 511, 4095, 4096, 4097, 8192, 9000, 20_000])
STEPS = st.tuples(
    st.sampled_from([Op.WRITE, Op.WRITE, Op.CREATE, Op.REPLACE, Op.DELETE, Op.TRUNCATE, Op.TRIM]),
    PLACES,
    SIZES,
    st.sampled_from(["", "", "freeze", "apply some", "finish"]),
)


def new_disk() -> Disk:
    backend = SimulatedBackend(random.Random(0))
    make(backend, cluster=b"c" * 16, device=DeviceId(b"d" * 16), journal_size=8 * MIB, capacity=0)
    return Disk.open(backend).disk


def content(disk: Disk, name: bytes) -> bytes | None:
    status, _, size = disk.stat(GROUP, name)
    if status == Status.NOT_FOUND:
        return None
    view = memoryview(bytearray(size))
    answer = disk.read(GROUP, name, 0, [view])
    assert answer is not None and answer[0] == Status.OK
    return bytes(view)


@given(st.lists(STEPS, max_size=25))
@settings(max_examples=250, deadline=None)
def test_an_object_is_its_bytes(steps: list[tuple[Op, int, int, str]]) -> None:
    disk = new_disk()
    objects: model.Objects = {}
    for n, (op, offset, size, then) in enumerate(steps, 1):
        payload = bytes([n]) * size if op in model.WITH_PAYLOAD else b""
        entry = model.make_entry(GROUP, n, op, b"o", payload, offset=offset, size=size)
        disk.append([entry])
        assert disk.apply(entry) == model.apply(objects, entry, payload)
        idle = not disk.working and not disk.pending
        if then == "freeze" and idle:
            disk.freeze()
            disk.checkpoint({GROUP: Base(n, 1, b"")}, lambda: None)
            while disk.pending:
                disk.on_ready()
        elif then == "apply some" and disk.working:
            disk._work(1)
        elif then == "finish":
            settle(disk)
        held = objects.get(b"o")
        assert content(disk, b"o") == (None if held is None else bytes(held.content))


def test_merged_blocks_do_not_pile_up_in_memory() -> None:
    disk = new_disk()
    whole = model.make_entry(GROUP, 1, Op.WRITE, b"o", b"x" * OBJECT_MAX)
    disk.append([whole])
    disk.apply(whole)
    for n in range(2, 2 + 3 * MERGED_MAX):
        entry = model.make_entry(GROUP, n, Op.WRITE, b"o", b"y", offset=n * BLOCK + 5)
        disk.append([entry])
        disk.apply(entry)
        assert len(disk._operations.merged) < MERGED_MAX
    found = content(disk, b"o")
    assert found is not None and found.count(b"y") == 3 * MERGED_MAX
